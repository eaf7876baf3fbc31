// Package vhostuser is the back-end side of the vhost-user protocol: the
// messages, one connection's session with its memory table and rings, and the
// channel for requests of the back-end. It knows no FUSE and no files.
//
// # Layers
//
//	the listening socket    listen.go
//	socket bytes and fds    conn.go
//	typed messages          request.go, features.go, messages.go
//	what may come when      rules.go: one row per request
//	state and dispatch      session*.go
//	the device              device.go: the interface that is served
//	back-end requests       backend.go, backend_send.go, commit.go
//
// # Trust
//
// The front-end is trusted not to attack (it hands over the guest's memory),
// but expected to be buggy, restarted and killed at any moment. Each message is
// checked against its row before a handler sees it. What breaks the protocol
// ends the connection with a [ProtocolError]; what the host refuses is answered
// with failure and keeps the connection. No path leaks a file descriptor, and
// none ends the process. Bytes that the guest writes are not read here.
//
// # What it does not do
//
// It does not process rings (package virtqueue), map memory (guestmem) or
// decide when to map a file into the shared memory window (the device served).
// IOMMU, postcopy, in-band notifications and cross-endian rings are not offered.
//
// # Threads and locks
//
// One goroutine per connection reads, handles and answers the messages of the
// main channel. The front-end stands still, and the whole virtual machine with
// it, until it is answered; so this goroutine never waits for the back-end
// channel, nor for anything that does. A second goroutine, while a back-end
// channel exists, reads its replies. Request threads call [BackendChannel].
//
//	BackendChannel.mu       state, the socket's sending side, expected
//	                        replies, awaited commits
//
// It is the only lock. Nothing waits under it: requests are sent without
// blocking, and their number is bounded so that the socket never fills up.
//
// # Tests
//
// go test plays a front-end over a socket pair against a device that records
// what it is asked; FuzzSession does so with arbitrary bytes and descriptors.
// Neither needs privileges, QEMU or KVM.
package vhostuser
