// Package behaviour says how a Linux file system behaves, as a suite of cases that any tree of files can run.
//
// Run takes a tree behind the interface FS. The package hostfs implements FS by system calls below a directory:
// it serves a host's own file systems, where every case must pass first (this proves the case), and, compiled
// into a static test binary, a mounted virtio-fs in a guest. A FUSE client written in Go implements it without
// any kernel between the suite and the daemon.
//
// What a tree may lack is asked with Capability; there are no copies of cases for lesser trees. Each case gets
// an empty directory with mode 0777 of its own, is independent of all others, and leaves nothing behind.
//
// The suite trusts the tree to be given to it alone, and no directory of the tree to be larger than it made it.
// It does not test what only a mount decides (nosuid, quota, freezing) nor crash safety.
//
// To run it: go test ./integration/behaviour/hostfs. There BEHAVIOUR_DIR names another directory to run in,
// BEHAVIOUR_SCALE divides the large counts, BEHAVIOUR_REQUIRE lists capabilities that must not be missing.
package behaviour
