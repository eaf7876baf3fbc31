package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A guest remembers ENOSYS for as long as it has the mount.
func TestENOSYSIsForWhatIsNeverServed(t *testing.T) {
	served := []uint32{opLookup, opGetattr, opSetattr, opReadlink, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opOpen,
		opRead, opWrite, opStatfs, opRelease, opFsync, opFlush, opInit, opOpendir, opReaddir, opReleasedir, opFsyncdir,
		opAccess, opCreate, opDestroy, opIoctl, opFallocate, opReaddirplus, opRename2, opLseek, opCopyFileRange,
		opSyncfs, opTmpfile, opCopyFileRange64}
	xattrs := []uint32{opSetxattr, opGetxattr, opListxattr, opRemovexattr}
	locks := []uint32{opGetlk, opSetlk, opSetlkw}
	mappings := []uint32{opSetupmapping, opRemovemapping}
	notServed := []uint32{0, 7, 19, opBmap, opPoll, opNotifyReply, numOps, 4096, 1<<32 - 1}
	noReply := []uint32{opForget, opBatchForget, opInterrupt}
	for _, c := range []struct {
		name    string
		opts    Options
		dax     bool
		flags   uint64 // of the guest, besides guestFlags
		ops     []uint32
		answers bool // something else than ENOSYS
	}{
		{name: "what is always served", ops: served, answers: true},
		{name: "what has no reply", ops: noReply, answers: true},
		{name: "what is not served", ops: notServed},
		{name: "attributes that are not served", ops: xattrs},
		{name: "attributes", opts: Options{Xattr: true}, ops: xattrs, answers: true},
		{name: "locks that stay in the guest", ops: locks},
		{name: "locks", opts: Options{PosixLock: true}, ops: locks, answers: true},
		{name: "holes that may be data in the guest", opts: Options{Writeback: true}, flags: fuse.CAP_WRITEBACK_CACHE, ops: []uint32{opLseek}},
		{name: "mappings without a window", ops: mappings},
		{name: "mappings", dax: true, ops: mappings, answers: true},
		{name: "STATX", ops: []uint32{opStatx}, answers: true},
		{name: "STATX with a window for some files", dax: true, flags: fuse.CAP_HAS_INODE_DAX | fuse.CAP_MAP_ALIGNMENT, ops: []uint32{opStatx}},
		{name: "STATX with a window for all files", dax: true, flags: fuse.CAP_MAP_ALIGNMENT, ops: []uint32{opStatx}, answers: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.dax {
				c.opts.DAX = newWindow(t)
				c.opts.WindowOffset = func(uint64) (uint64, bool) { return 0, false }
			}
			g := newGuestRaw(t, c.opts)
			for _, op := range c.ops {
				g.mustInit(guestFlags | c.flags)
				_, e := g.call(op, rootID, make([]byte, 256))
				if (e != unix.ENOSYS) != c.answers {
					t.Errorf("operation %d answers %v", op, e)
				}
			}
		})
	}
	var all int
	for i := range operations {
		if operations[i].run != nil {
			all++
		}
	}
	if want := len(served) + len(xattrs) + len(locks) + len(mappings) + len(noReply) + 1; all != want {
		t.Errorf("there are %d operations, and %d are tested", all, want)
	}
}

// The host may say ENOSYS of one file system in the share, or of one call.
func TestENOSYSOfTheHostIsNotPassedOn(t *testing.T) {
	g := newGuest(t, Options{})
	lookup := operations[opLookup]
	t.Cleanup(func() { operations[opLookup] = lookup })
	operations[opLookup].run = func(*Thread) (int, unix.Errno) { return 0, unix.ENOSYS }
	if _, e := g.call(opLookup, rootID, le("x")); e != unix.EOPNOTSUPP {
		t.Errorf("the guest is told %v", e)
	}
}
