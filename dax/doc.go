// Package dax owns the DAX window: the piece of guest memory through which a guest
// maps pages of files. It decides what the window shows, keeps those pages
// coherent with every other way to the files, and takes their memory back.
//
// # Backing
//
// With [Managed] the window is made of a few files of a FUSE mount of our own (the
// backing mount, mount.go), mapped by the front-end once. A range of the window
// shows a piece of a file because the process that serves the mount says so
// (server.go): setting up and removing a mapping costs two messages to that
// process and none to the front-end, however large the window. A page fault of
// the guest is a READ there, its dirty pages are WRITEs. With [Passthrough] and
// [Direct] each range is a mapping of its own, of the file's own page cache: a
// slot (slots.go), of which a virtual machine has few, and which cannot be taken
// away from a guest that believes in it.
//
// # Processes
//
// The mount is served by another process, which holds /dev/fuse and neither opens
// nor maps nor waits for anything of the mount. So it can always die, at once, and
// with it the connection; whoever waits for the mount, the daemon and the front-end
// among them, is then let go. It dies with the thread of the daemon that started
// it. The mount is attached nowhere: who has no descriptor of it cannot name it.
//
// The daemon takes pages away by system calls on the window's files, not by
// FUSE's notifications: these are written to /dev/fuse, and who waits for
// writeback while holding that open could not be killed.
//
// # Exclusion
//
// Taking the pages away from under the guest's faults (exclude in manager.go, freeze.go in the server):
// a fault holds its pages locked in the host's kernel before we hear of it, and
// the invalidation waits for these. So faults are served, and noted, while pages
// are being invalidated; when a pass of invalidation met none, faults of those
// pages wait (they are parked) until the file has been changed; otherwise the
// next pass takes away what the faults brought in. While faults are parked the
// one who excludes does I/O on the file itself and nothing else.
//
// Writeback takes no lock of the daemon and is never parked. It is cut at the
// size of the file, under a gate that a change of size closes (no-write); the
// gate is closed only after the invalidation, which waits for writeback. It is cut
// at the end that the pages were read with, too (realFile.eof): who makes the file
// longer on the host writes into a page that has zeroes there in the window. The
// guest learns of the new size after those pages have gone ([Op.CatchUp]).
//
// # Trust
//
// The guest is hostile: every number of a request is checked, and a guest that
// touches a range that shows nothing gets zeroes. The front-end is trusted not to
// attack, but may refuse, disappear or forget. The host may change the files at
// any time: with Managed nothing worse than an old page comes of it.
//
// # Lock order
//
//	engine.mu               one reclaim at a time
//	io      (inode order)   READ and WRITE shared; changes of size or extents, copies,
//	                        and WRITEs to a mapped file exclusive, draining all I/O
//	  mmap  (inode order)   shared: setup, buffers that lie in the window
//	                        exclusive: over all of write back, invalidate, change; remove; reclaim
//	    (faults parked)     nothing is waited for but the file
//	    window.mu           table of ranges; nothing is waited for
//	    slots.ensureMu      waits for the front-end; no inode's lock is held
//	    slots.mu            nothing is waited for
//	    links               one call of the server each
//	    hostWatch.mu        a mark of the host's on a file; nothing is taken
//	    dense.mu            the host's look at a file; nothing is taken
//
// In the server's process: server.mu, budget.mu and realFile.size, none taken
// under another but size before mu; a file's registration.mu comes last.
//
// A lock of an inode met out of order is only tried; if that fails all mmap locks
// are dropped, taken in order, and the pages looked for again ([Op.BeginWrite]).
// Built with the tag lockcheck, or with the race detector, waiting for a lock
// against the order panics.
//
// # What must hold, and its test
//
//	a punch locks faults out             TestPunchLocksOutFaults
//	open-truncate and open never hang    TestAtomicTruncVsOpen
//	two inodes, in order, both clean     TestTwoInodeCopy
//	writeback waits for no lock          TestWritebackNeverWaitsOnReclaim
//	buffers in the window                TestMappedBufferRing
//	any process can be killed            TestKillAtAnyMoment
//	the budget holds                     TestResidentStaysUnderBudget, TestFaultsWaitForTheEngine
//	a pause is not noticed               TestPauseHoldsSetups
//	reclaim loses nothing                TestReclaimUnderRewrite
//	faults make no data of holes         TestFaultsMakeNoData
//	appends on the host are not lost     TestHostAppendIsNotOverwritten
//
// The tests need root and /dev/fuse, and say so if they have not. Each has a
// watchdog that ends the mount rather than hang.
package dax
