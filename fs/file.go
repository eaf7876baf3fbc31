package fs

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// file is an open file or directory that the guest has a handle of.
type file struct {
	id    uint64
	fd    int
	inode *inode
	flags int // open(2) flags of fd, as the guest asked for them
	// refs counts the handle itself and every request that uses it.
	refs   atomic.Int32
	locked atomic.Bool   // fcntl locks were asked for by this handle
	heard  atomic.Uint64 // of inode.lost
	dir    dirStream
	cold   coldness
	commit commitPattern
	fs     *FS
	// buffered is another descriptor, without the O_DIRECT that flags has; 0: there
	// is none. See ioFD.
	buffered atomic.Int32
}

// addFile gives the guest a handle of the open descriptor fd, which has been
// taken out of the budget and belongs to the handle from now on.
func (f *FS) addFile(fd int, n *inode, flags int) uint64 {
	n.openHandles.Add(1)
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		n.writers.Add(1)
	}
	id, _ := f.files.add(func(id uint64, of *file) {
		of.id, of.fd, of.inode, of.flags, of.fs = id, fd, n, flags, f
		of.refs.Store(1)
		of.heard.Store(n.lost.sample())
	})
	return id
}

// file returns the open file fh of the inode n; it must be dropped.
func (t *Thread) file(fh uint64, n *inode) (*file, unix.Errno) {
	f := t.fs.files.get(fh)
	if f == nil || f.inode != n || !f.hold() {
		if !t.session.inherited {
			t.fs.bad("handle", "a request names a file handle that the guest does not have, or not of that inode")
		}
		return nil, unix.EBADF
	}
	return f, 0
}

// openFile returns the inode of the request and its open file fh, which must be
// dropped.
func (t *Thread) openFile(fh uint64) (*inode, *file, unix.Errno) {
	n, e := t.node()
	if e != 0 {
		return nil, nil, e
	}
	f, e := t.file(fh, n)
	return n, f, e
}

func (f *file) hold() bool {
	for {
		n := f.refs.Load()
		if n <= 0 {
			return false
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// drop ends one use; the descriptor is closed with the last.
func (f *file) drop() {
	if f.refs.Add(-1) > 0 {
		return
	}
	unix.Close(f.fd)
	f.fs.budget.release()
	if fd := f.buffered.Load(); fd != 0 {
		unix.Close(int(fd))
		f.fs.budget.release()
	}
	f.inode.openHandles.Add(-1)
	if f.flags&unix.O_ACCMODE != unix.O_RDONLY {
		f.inode.writers.Add(-1)
	}
}

// isDirect says whether a READ or WRITE through f with the guest's open flags goes past
// the host's page cache. The guest's file may have lost its O_DIRECT (F_SETFL), and
// what the guest writes back of its own cache it sends through any of its files.
func (f *file) isDirect(flags uint32) bool {
	return f.flags&unix.O_DIRECT != 0 && flags&unix.O_DIRECT != 0
}

// ioFD returns the descriptor of f for a READ or WRITE that is direct, or is not: the
// host refuses one that is not aligned with O_DIRECT. It is valid as long as f is held.
func (t *Thread) ioFD(f *file, direct bool) int {
	if f.flags&unix.O_DIRECT == 0 || direct {
		return f.fd
	}
	if fd := f.buffered.Load(); fd != 0 {
		return int(fd)
	}
	if t.fs.budget.reserveFile() != 0 {
		return f.fd
	}
	fd, e := sysOpenat(unix.AT_FDCWD, t.fdName(f.fd), f.flags&^(unix.O_DIRECT|unix.O_TRUNC|unix.O_NOFOLLOW)|unix.O_NONBLOCK, 0)
	if e != 0 || fd == 0 || !f.buffered.CompareAndSwap(0, int32(fd)) {
		if e == 0 {
			unix.Close(fd)
		}
		t.fs.budget.release()
	}
	if fd := f.buffered.Load(); fd != 0 {
		return int(fd)
	}
	return f.fd
}

// closeAllFiles drops every handle of the guest.
func (f *FS) closeAllFiles() {
	var all []*file
	f.files.each(0, func(_ uint64, of *file) bool {
		all = append(all, of)
		return true
	})
	for _, of := range all {
		if f.files.remove(of.id) {
			of.drop()
		}
	}
}

// release serves FUSE_RELEASE and FUSE_RELEASEDIR. Linux sends them in the
// background and ignores the answer.
func (t *Thread) release() (int, unix.Errno) {
	in := overlay[fuse.ReleaseIn](t.in)
	f := t.fs.files.get(in.Fh)
	if f != nil && f.inode.dax.Mapped() {
		if !t.mayBlock {
			return t.again()
		}
		// Nobody hears of an error here.
		t.syncWindow(f.inode)
	}
	if f == nil || f.inode.id != t.hdr.NodeId || !t.fs.files.remove(in.Fh) {
		if !t.session.inherited {
			t.fs.bad("handle", "RELEASE names a file handle that the guest does not have")
		}
		return 0, unix.EBADF
	}
	if f.locked.Load() {
		t.fs.dropOwnersOf(f.inode, f.id)
	}
	f.drop()
	if t.session.has(fuse.CAP_FLOCK_LOCKS) {
		t.fs.locks.wake()
	}
	return 0, 0
}

// flush serves FUSE_FLUSH, sent at every close(2) in the guest. Closing a
// duplicate makes the host's file system do what it does at close, and report
// the errors that it reports there. That does not count as having been heard, for
// few programs look at what close returns.
func (t *Thread) flush() (int, unix.Errno) {
	in := overlay[fuse.FlushIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if !t.mayBlock && (n.mnt.slow || n.dax.Mapped()) {
		return t.again()
	}
	t.syncWindow(n)
	if t.session.has(fuse.CAP_POSIX_LOCKS) {
		t.fs.dropOwner(n, in.LockOwner)
	}
	if e := n.lost.since(f.heard.Load()); e != 0 {
		return 0, e
	}
	if !n.mnt.slow {
		// No local file system has anything to do or to say at close.
		return 0, 0
	}
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return 0, errnoOf(err)
	}
	return 0, errnoOf(unix.Close(fd))
}

// synced is how the FSYNC ended that others may join: those of the same handle,
// so that each handle is told of the errors since its last one.
type synced struct {
	fh    uint64
	flags uint32
	e     unix.Errno
}

// syncJoint is what an FSYNC, of which in holds what follows the header, has in
// common with those that the same call answers, or 0.
func (t *Thread) syncJoint(in *guestmem.Buffers) uint64 {
	if _, err := in.CopyOut(t.inBuf[inHeaderLen:sizeOf[fuse.FsyncIn]()]); err != nil {
		return 0
	}
	args := overlay[fuse.FsyncIn](t.inBuf)
	return args.Fh<<1 | uint64(args.FsyncFlags&fsyncFdatasync)
}

// fsync serves FUSE_FSYNC. One that joins another had come before that one
// began, so what was written before it has been synced too.
func (t *Thread) fsync() (int, unix.Errno) {
	in := overlay[fuse.FsyncIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if !t.joins || t.synced.fh != in.Fh || t.synced.flags != in.FsyncFlags {
		t.synced = synced{in.Fh, in.FsyncFlags, t.syncFile(n, f, in.FsyncFlags)}
	}
	return 0, t.synced.e
}

func (t *Thread) syncFile(n *inode, f *file, flags uint32) (e unix.Errno) {
	f.commit.synced()
	t.fs.syncing.Add(1)
	defer t.fs.syncing.Add(-1)
	t.syncWindow(n)
	if flags&fsyncFdatasync != 0 {
		e = errnoOf(unix.Fdatasync(f.fd))
	} else {
		e = errnoOf(unix.Fsync(f.fd))
	}
	if lost := n.lost.tell(&f.heard); e == 0 {
		e = lost
	}
	return e
}

// fsyncdir serves FUSE_FSYNCDIR.
func (t *Thread) fsyncdir() (int, unix.Errno) { return t.fsync() }
