// Command daxbench measures the DAX window: scripts/bench-dax runs it.
//
// Two parts make one table. On the host, package dax's own benchmarks: how fast mappings come and go, what a fault costs
// and how fast memory is taken back, by number of mapped ranges and of threads. In a QEMU guest, fio through a window: how
// fast files are read and written by how much larger than the window they are. Both go to PREFIX.tsv, one measurement on
// a line, and PREFIX.svg.
//
// The daemons are trusted to end; the guest is bounded by time. Without KVM what the guest does is mostly the emulation:
// there the numbers are good for comparing working sets with each other, not for more.
//
// It has no locks.
//
// To test it: go test, and a run with --host-time 50ms --guest-time 1s.
package main
