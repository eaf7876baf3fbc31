// Command xfstests runs an installed xfstests in QEMU guests against a virtio-fs daemon: scripts/xfstests runs it, and
// --help lists its options.
//
// The guest has two virtio-fs devices, TEST and SCRATCH, each with a daemon of its own on an empty directory of the
// host. xfstests comes on a read-only disk, below a tmpfs; what it prints comes back over the guest's agent and what it
// keeps stays on a tmpfs of the guest, so no result depends on the file system under test.
//
// One run of xfstests' check works on all tests, and its output is followed as it comes. A test that exceeds its time,
// a guest that dies and a daemon that ends are results too: the stacks of the guest's tasks and of the daemons are kept
// and the remaining tests run in a fresh guest on fresh directories.
//
// Which tests may fail, and why, is in expected/, one file per mode. They decide the exit status: 0 if every test did
// what is expected of it, 1 if one did not, 2 if the tests could not be run.
//
// Trust: xfstests and the guest are test equipment. There are no locks; one goroutine owns the results.
//
// To test it: go test here for what is read and written; a run of generic/001 for the rest.
package main
