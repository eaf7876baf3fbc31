// Package virtqueue is the device side of virtqueues (virtio 1.3, sections 2.7
// and 2.8) over the memory that a front-end shares.
//
// A [Queue] hands out what the driver made available as a [Chain], two streams of
// bytes, and takes it back with the number of bytes written. Pushes are batched:
// the driver sees them at the next Flush, with one store and at most one
// notification.
//
// Trust: the driver is hostile. Indices and descriptors are loaded once and
// checked; a chain is at most as long as the ring and describes a bounded number
// of bytes, whatever its links say. A chain that is wrong is a [ChainError] and
// is completed with length 0; a ring that is wrong is [ErrRing] and is not looked
// at again.
//
// What it does not do: notifications (that is the caller's eventfd), FUSE,
// vhost-user messages.
//
// Lock order: Queue.mu only. One goroutine pops; any may push and flush.
//
// Tests: go test -race ./virtqueue
package virtqueue
