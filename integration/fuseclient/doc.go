// Package fuseclient speaks FUSE protocol 7.45 to a virtio-fs daemon as Linux does, over the queues of package frontend.
//
// Client has a method per operation; each builds a request in guest memory, in Linux's descriptor layout or an odd one,
// waits for the reply and checks it as virtio_fs_verify_response and fuse_copy_args do: used length equal to the header's
// length, unique number, size of fixed replies. What is wrong is a fault of the daemon (frontend.Frontend.Faults) and the
// reply becomes EIO, as in a guest. Any number of goroutines may use a Client. For benchmarks, Request is the layer
// below: prepared once, submitted many times, polled, without allocation.
//
// It keeps no state of the file system: no inodes, no caches. Package fuseclient/vfs adds paths and permissions.
//
// The daemon is not trusted; callers are.
//
// Lock order: Client.mu, then the locks of package frontend.
//
// To test: go test ./integration/fuseclient, with VIRTIOFSD_TEST_COMMAND as in package frontend.
package fuseclient
