// Package guestmem is the guest's memory: the regions that the front-end has
// handed over, as immutable snapshots, and the buffers of requests in them.
//
// # Trust
//
// The front-end chooses the regions. It is not an attacker, but what it sends
// is checked: overlaps, overflow and lengths are errors, never a fault.
//
// The guest chooses every address that is looked up here, and writes to its
// memory at any time, while it is read too. So nothing here hands out a Go
// slice or pointer into guest memory. Headers are copied to Go memory by
// [Buffers.CopyOut], after which they can't change; payload goes between guest
// memory and a file by one system call. Rings are words of a [Span], each
// access of which is bounds-checked.
//
// A page of guest memory may have nothing behind it: a mapped file can be cut
// short on the host, and huge pages can run out. A system call reports that as
// EFAULT. A plain load is SIGBUS, which the accessors turn into EFAULT for RAM;
// memory of kind [File] is touched by system calls alone, and of kind [Window]
// not mapped at all.
//
// Memory is little-endian, as the host has to be.
//
// # Snapshots
//
// [Memory] points to the current [Table]. A request holds a reference on the
// table that it was looked up in, so a region that the front-end removes stays
// mapped until the last request in it is over, and the session's goroutine
// never waits for requests. Mappings and descriptors go away in a goroutine of
// their own, as closing a file may take long.
//
// # Locks
//
//	Memory.mu            changes of the table and the log
//	  Memory.reapMu      regions that wait to be unmapped
//
// Nothing is called with a lock held. Acquire, lookups, buffers and the dirty log
// take no lock, nor does Release unless it is the last one of a region.
//
// # Not here
//
// No rings, no messages, no policy on which kind a region has.
//
// # Tests
//
// go test -race ./guestmem needs no privileges. The tests that change the table
// under running requests mean something only with -race or many iterations.
package guestmem
