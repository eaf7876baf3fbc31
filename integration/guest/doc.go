// Package guest boots Linux guests under QEMU and runs commands in them: the whole way from a system call in a stock
// guest kernel to a virtio-fs daemon, which is any command line that can be started on a socket and a directory.
//
// A guest is made of parts that scripts/bootstrap fetches and [FindAssets] finds: QEMU, a kernel with a few modules and
// a read-only root disk. Its root is that disk under a tmpfs, so nothing that a guest does outlives it and no file
// system under test is needed to boot. The shares are plain vhost-user devices that nothing mounts unasked.
//
// Commands go over a virtio-serial port to an agent (see agent) as SSH sessions, with their own standard streams and
// status. Results never travel over the file system under test. The console is watched from the first line to the last:
// what a kernel says when it is in trouble is an error of the VM, see [VM.Fault].
//
// Trust: everything here is test equipment and trusts the guest. Processes are killed by the handle that started them,
// and die with the process that started them.
//
// It does not know what is served; the tests in this directory do. They build the daemon from this tree, or start the
// one that VIRTIOFSD_GO_DAEMON names. Run them with
//
//	make guest && go test ./integration/guest
package guest
