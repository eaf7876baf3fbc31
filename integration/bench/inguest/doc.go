// Command inguest compares virtio-fs daemons in a guest, by fio and by work on small files: scripts/bench-guest runs it.
//
// All daemons serve one QEMU guest, each its own device and directory, so that they meet the same kernel in the same
// state; in each round every workload runs on all of them in turn. The first is compared with each other: the median
// over the rounds of the ratio within a round.
//
// The daemons are trusted to end; the guest is bounded by time. It measures what a guest's program sees, page cache and
// FUSE of the guest's kernel included; without KVM that is mostly the emulation. integration/bench measures the daemons.
//
// It has no locks.
//
// To test it: go vet, and a run with --rounds 1.
package main
