// Package guestmem gives access to the memory that a front-end shares.
//
// A [Memory] holds the current [Table], an immutable snapshot of the memory
// regions. Requests acquire a table and keep it for as long as they use its
// bytes: a region that the front-end removes meanwhile stays mapped until the
// last of them releases it, and nobody waits. [Buffers] is one direction of a
// descriptor chain as a stream of bytes; [Ring] is where a virtqueue's structures
// lie.
//
// Trust: addresses and lengths are the guest's or the front-end's and are checked
// against the table before anything is touched. Bytes may change while they are
// read, so callers copy once and use the copy. Regions on memfd, tmpfs or
// hugetlbfs ([RAM]) are read by plain loads; others may be truncated under us and
// are copied by system calls ([File]), or never mapped at all ([Window]).
//
// What it does not do: virtqueues, messages, FUSE.
//
// Lock order: Memory.mu only. Table references are atomics.
//
// Tests: go test -race ./guestmem
package guestmem
