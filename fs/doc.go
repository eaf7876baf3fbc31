// Package fs serves FUSE requests from a directory of the host.
//
// An [FS] is one shared directory; a [Thread] serves requests on one locked OS
// thread, with scratch memory and credentials of its own. Serve copies a
// request's header and arguments once, checks them, and runs one row of the
// table in operations.go. File data moves between the file and the guest's
// pages by one system call.
//
// Trust: the guest is hostile. Every number in a request is checked after it was
// copied; nodeids and file handles carry a generation, so a stale one never
// names another object. A name is one component that is neither "." nor ".." and
// holds no slash, and is only ever resolved in an O_PATH descriptor of its
// directory without following links: nothing outside the shared directory can be
// reached, whatever is renamed meanwhile. The host is trusted, but may change
// anything under the directory at any time.
//
// What it does not do: virtqueues and guest memory (guestmem, virtqueue),
// permission checks (the guest's kernel does them, with default_permissions),
// caching of file data.
//
// An inode is pinned by an O_PATH descriptor while the budget of descriptors
// lasts, and by its file handle where it does not; one without a link keeps its
// descriptor, for its handle leads nowhere (unlinked.go). Files are created with the
// caller's uid, gid and the supplementary group that the guest names, by
// changing the credentials of the serving thread alone.
//
// Errors: a handler returns the errno of the reply; 0 is success. What the guest
// got wrong is counted and logged at a bounded rate ([Stats]); a panic is a bug
// of ours, logged with the request, and answered EIO.
//
// Lock order (under a lock only those indented below it are taken):
//
//	the locks of package dax that an operation holds
//	  dirStream.mu          one READDIR of one open directory
//	    fdBudget.mu         one sweep; only tried, never waited for
//	      mountTable.mu
//	      idTable.mu
//	    inodeShard.mu       identities and lookup counts
//	      mountTable.mu
//	      idTable.mu
//	lockWaits.mu            no other lock below it
//	logRate.mu              no other lock below it
//	setNote.mu              no other lock below it
//
// The descriptor of an inode and the use counts of inodes and files are atomics
// and need no lock.
//
// Tests: go test ./fs runs the operations against a temporary directory, with
// memory of the test as guest memory, and skips without root what needs it; package
// integration/behaviour has the suite that also runs through the Go front-end and in
// a guest.
package fs
