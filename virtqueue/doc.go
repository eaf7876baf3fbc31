// Package virtqueue is the device side of virtqueues (virtio 1.3, sections 2.7
// and 2.8) over the memory that a front-end shares.
//
// A [Queue] hands out what the driver made available as a [Chain], two streams of
// bytes, and takes it back with the number of bytes written. Pushes are batched:
// the driver sees them at the next Flush, with one store and at most one
// notification.
//
// # Trust
//
// The driver is hostile. Indices and descriptors are loaded once and checked; a
// chain has a bounded number of descriptors and of bytes, whatever its links say,
// and there are never more chains in flight than the ring has descriptors. A
// chain that is wrong is a [ChainError], to be completed with length 0; a ring
// that is wrong is [ErrRing] and is not looked at again. So is a ring that can't
// be read any more because the front-end took its memory away or cut its file.
//
// The in-flight region is the front-end's, and what a process before this one
// has left in it may be damaged: it is checked as well.
//
// # Order of memory accesses
//
// The driver's index is loaded with acquire before what it announces is read. The
// used index, or the flags of a batch's first packed descriptor, are stored with
// release after what they announce. Two places need a full barrier between a
// store and a load: publishing and then reading whether the driver wants a
// notification, and asking for kicks and then looking for more chains. Both use a
// sync/atomic store followed by a sync/atomic load, which Go keeps in order for
// every observer: on amd64 the store is an XCHG, on arm64 a STLR before a LDAR.
//
// # Not here
//
// No notifications (the eventfds are the caller's), no vhost-user messages, no
// FUSE. VIRTIO_F_IN_ORDER is not offered.
//
// # Locks
//
//	Queue.mu            the used side of a ring, its memory, the in-flight region
//	  Memory.reapMu     of package guestmem, for regions that are gone
//
// One goroutine at a time pops, looks for more and asks for kicks, and owns the
// available side; any may push and flush. Nothing is called with the lock held.
//
// # Tests
//
// go test -race ./virtqueue needs no privileges. driver_test.go is a driver.
package virtqueue
