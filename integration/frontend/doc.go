// Package frontend plays the other side of a virtio-fs daemon: QEMU as the vhost-user front-end, and the driver of a
// guest. It shares no code with the daemon, so that each checks the other.
//
// A Frontend owns the guest's memory, the vhost-user connection, the backend channel with its shared memory window, and
// one Queue per virtqueue. It follows QEMU 11.1 to the letter where QEMU is strict: the order of messages at start and
// stop, which of them await a reply, and the rules of the window (no overlap, exact unmap, a file must cover the mapping,
// reply before commit, mappings come back as memory regions). While it waits for a reply on the main channel it serves
// nothing on the backend channel, as QEMU does under its big lock.
//
// The daemon is what is tested and is not trusted. What it does against the rules is kept as a fault, see
// Frontend.Faults; a reply that makes going on impossible is an error. Waits are bounded by Options.Timeout.
// The tests are trusted: they may also break the rules, with the raw access that Conn, Memory and Queue give.
//
// It knows no FUSE (package fuseclient does), migrates no device state, and keeps no virtio configuration.
//
// Lock order:
//
//	Frontend.bql            main channel, regions, window: QEMU's big lock
//	  Queue.mu              one ring
//	  Window.mu             the list of mappings
//	  Frontend.faultMu
//
// To test: go test ./integration/frontend. The daemon to run against is named by VIRTIOFSD_TEST_COMMAND, a command
// line with {socket} and {dir} in it; without it, the tests that need a daemon are skipped.
package frontend
