// Package fusebridge mounts what a virtio-fs daemon serves on the host: the requests of the host's kernel go byte for byte
// from /dev/fuse through a virtqueue to the daemon, and the replies back. That puts a real kernel's VFS, page cache and
// mmap above the daemon at the speed of the host, without QEMU. It needs root.
//
// Mount starts a process of its own for the forwarding. A process that served a mount and had files of it open could not
// be killed: exit would flush the files and wait for an answer from itself. The mount is not attached anywhere: it is
// a descriptor, reached by /proc/self/fd, and gone when its last user is. When the bridge, the daemon or the tests end in
// any way, /dev/fuse is closed and the kernel aborts the connection, so nothing stays in state D. A request that the
// daemon does not answer within a minute does the same.
//
// INTERRUPT and BATCH_FORGET, which a virtio-fs guest never sends, are forwarded on the hiprio queue like FORGET.
//
// The process that calls Mount must call Child first thing in main or TestMain.
//
// It trusts the kernel and holds no locks across system calls.
//
// To test: go test ./integration/fusebridge, as root, runs the behaviour suite and reads and writes by mmap.
package fusebridge
