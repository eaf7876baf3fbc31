// Command xfstests runs an installed xfstests against a virtio-fs daemon, in QEMU guests or, with --host-kernel, on this
// machine's kernel: scripts/xfstests runs it, and --help lists its options.
//
// In a guest there are two virtio-fs devices, TEST and SCRATCH, each with a daemon of its own on an empty directory of the
// host. xfstests comes on a read-only disk, below a tmpfs; what it prints comes back over the guest's agent and what it
// keeps stays on a tmpfs of the guest, so no result depends on the file system under test.
//
// On this machine's kernel there is no QEMU, whose emulation takes most of the time in a guest: the kernel's requests go
// through /dev/fuse and integration/fusebridge, and each mount has a daemon of its own. check runs in a root made of the
// guest's disk below a tmpfs, in namespaces of its own for mounts, processes and IPC. They end with this process, however
// it ends, and all that there was with them: the file system that is served is in a file without a name, of bounded size,
// on a loop device that frees itself. What tests change of the kernel's settings (sysctl) is the machine's.
//
// One run of xfstests' check works on all tests, and its output is followed as it comes. A test that exceeds its time,
// a guest that dies and a daemon that ends are results too: the stacks of all tasks and of the daemons are kept
// and the remaining tests run in a fresh guest, or fresh namespaces, on fresh directories.
//
// Which tests may fail, and why, is in expected/, one file per mode. They decide the exit status: 0 if every test did
// what is expected of it, 1 if one did not, 2 if the tests could not be run.
//
// Trust: xfstests and the guest are test equipment. One goroutine owns the results; what locks there are is said where they
// are declared, and none is held while another is taken.
//
// To test it: go test here, as root for --host-kernel with a check that is a few lines; a run of generic/001 for the rest.
package main
