package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// lockWaits holds the locks that guests have asked for with the forwarding
// options. A fcntl lock of the guest belongs to a process (the lock owner) and
// an inode; on the host it is an open file description lock of a descriptor
// opened for just that pair. A flock lock belongs to the guest's open file and
// is taken on the descriptor of that.
type lockWaits struct {
	mu      sync.Mutex
	owners  map[lockOwner]*ownerFile
	stopped map[int]bool // queues that are being stopped

	// changed is closed and replaced whenever a lock is given back here or a
	// wait has to end.
	changed chan struct{}
	waiting map[uint64]*lockWait // by the request's unique
}

type lockOwner struct {
	inode *inode
	owner uint64
}

type ownerFile struct {
	fd   int
	refs int
	via  uint64 // the guest's handle by which the owner locked last
	pid  uint32 // the process that did, in the guest
}

// ownerFD returns the descriptor that carries the locks of owner on n, opened if
// there is none and a lock of type typ is to be taken, or nil. dropOwnerFile must
// follow.
func (t *Thread) ownerFD(n *inode, owner uint64, typ uint32) (*ownerFile, unix.Errno) {
	l := &t.fs.locks
	key := lockOwner{n, owner}
	l.mu.Lock()
	if of := l.owners[key]; of != nil {
		of.refs++
		l.mu.Unlock()
		return of, 0
	}
	l.mu.Unlock()
	if typ == unix.F_UNLCK {
		return nil, 0
	}
	if e := t.fs.budget.reserveFile(); e != 0 {
		return nil, unix.ENOLCK
	}
	fd, e := t.openForLocks(n, typ)
	if e != 0 {
		t.fs.budget.release()
		return nil, e
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if of := l.owners[key]; of != nil {
		unix.Close(fd)
		t.fs.budget.release()
		of.refs++
		return of, 0
	}
	if l.owners == nil {
		l.owners = make(map[lockOwner]*ownerFile)
	}
	of := &ownerFile{fd: fd, refs: 2}
	l.owners[key] = of
	return of, 0
}

// openForLocks opens n for locks, the first of type typ. A lock for writing needs a
// descriptor for writing, and the guest may have one that the host would not give
// again: of a file that is append-only, or whose mode is a newer one.
func (t *Thread) openForLocks(n *inode, typ uint32) (fd int, e unix.Errno) {
	hows := []int{unix.O_RDWR, unix.O_RDWR | unix.O_APPEND, unix.O_RDONLY, unix.O_WRONLY, unix.O_WRONLY | unix.O_APPEND}
	switch {
	case t.fs.opts.ReadOnly:
		// Nothing of the guest can be open for writing, so no lock needs it.
		hows = hows[2:3]
	case typ == unix.F_WRLCK:
		hows = []int{hows[0], hows[1], hows[3], hows[4], hows[2]}
	}
	for _, how := range hows {
		fd, e = n.openFile(t, how|unix.O_NONBLOCK)
		if e != unix.EACCES && e != unix.EROFS && e != unix.ETXTBSY && e != unix.EPERM {
			return fd, e
		}
	}
	// Not EACCES, which would say that somebody else has the lock.
	return -1, unix.ENOLCK
}

func (f *FS) dropOwnerFile(of *ownerFile) {
	f.locks.mu.Lock()
	of.refs--
	gone := of.refs == 0
	f.locks.mu.Unlock()
	if gone {
		unix.Close(of.fd)
		f.budget.release()
		f.locks.wake()
	}
}

// dropOwner gives back every fcntl lock of owner on n, as a close in the guest does.
func (f *FS) dropOwner(n *inode, owner uint64) {
	l := &f.locks
	key := lockOwner{n, owner}
	l.mu.Lock()
	of := l.owners[key]
	delete(l.owners, key)
	l.mu.Unlock()
	if of == nil {
		return
	}
	// A request of the same owner may still be using the descriptor.
	lk := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET}
	sysFcntlLock(of.fd, unix.F_OFD_SETLK, &lk)
	f.dropOwnerFile(of)
	l.wake()
}

// dropOwnersOf gives back the fcntl locks of those owners on n that locked by
// the handle id last, which the guest has closed. The owners that are processes
// have had their FLUSH before; the owner of an open file description lock is that
// description, and of its end the guest says nothing else.
func (f *FS) dropOwnersOf(n *inode, id uint64) {
	var owners []uint64
	f.locks.mu.Lock()
	for key, of := range f.locks.owners {
		if key.inode == n && of.via == id {
			owners = append(owners, key.owner)
		}
	}
	f.locks.mu.Unlock()
	for _, owner := range owners {
		f.dropOwner(n, owner)
	}
}

// dropAllOwners gives back every fcntl lock.
func (f *FS) dropAllOwners() {
	f.locks.mu.Lock()
	var keys []lockOwner
	for k := range f.locks.owners {
		keys = append(keys, k)
	}
	f.locks.mu.Unlock()
	for _, k := range keys {
		f.dropOwner(k.inode, k.owner)
	}
}

// hostLock turns struct fuse_file_lock into the host's. FUSE ends a lock at its
// last byte, OFFSET_MAX for none.
func hostLock(in *fuse.FileLock) (unix.Flock_t, unix.Errno) {
	const offsetMax = 1<<63 - 1
	lk := unix.Flock_t{Type: int16(in.Typ), Whence: unix.SEEK_SET, Start: int64(in.Start)}
	if in.Start > offsetMax || in.End > offsetMax || in.End < in.Start || in.Typ > unix.F_UNLCK {
		return lk, unix.EINVAL
	}
	if in.End != offsetMax {
		lk.Len = int64(in.End - in.Start + 1)
	}
	return lk, 0
}

// getlk serves FUSE_GETLK.
func (t *Thread) getlk() (int, unix.Errno) {
	if !t.session.has(fuse.CAP_POSIX_LOCKS) {
		return 0, never
	}
	in := overlay[fuse.LkIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	lk, e := hostLock(&in.Lk)
	if e != 0 {
		return 0, e
	}
	// An owner without a descriptor has no locks, and need not get one to ask
	// about those of others: it would keep it, for who has locked nothing tells
	// nobody when it ends. The handle's own carries no such locks.
	fd := f.fd
	of, e := t.ownerFD(n, in.Owner, unix.F_UNLCK)
	if e != 0 {
		return 0, e
	}
	if of != nil {
		defer t.fs.dropOwnerFile(of)
		fd = of.fd
	}
	if e := sysFcntlLock(fd, unix.F_OFD_GETLK, &lk); e != 0 {
		return 0, e
	}
	out := overlay[fuse.LkOut](t.payload())
	*out = fuse.LkOut{Lk: fuse.FileLock{Typ: uint32(lk.Type)}}
	if lk.Type != unix.F_UNLCK {
		out.Lk.Start = uint64(lk.Start)
		out.Lk.End = 1<<63 - 1
		if lk.Len != 0 {
			out.Lk.End = uint64(lk.Start + lk.Len - 1)
		}
		// For another guest's or the host's process this guest has no pid, and
		// gets 0.
		out.Lk.Pid = t.fs.lockHolder(n, in.Owner, lk)
	}
	return sizeOf[fuse.LkOut](), 0
}

// maxAsked bounds the owners of locks on one file that one GETLK asks the host about:
// the guest has as many as it likes.
const maxAsked = 64

// lockHolder returns the process of this guest, other than owner, that holds the lock lk
// on n, or 0, also where there are too many to ask. The host does not say who has a lock of an open file description; but
// for that one alone the lock is no obstacle.
func (f *FS) lockHolder(n *inode, owner uint64, lk unix.Flock_t) uint32 {
	l := &f.locks
	var others []*ownerFile
	l.mu.Lock()
	for key, of := range l.owners {
		if len(others) == maxAsked {
			break
		}
		if key.inode == n && key.owner != owner && of.pid != 0 {
			of.refs++
			others = append(others, of)
		}
	}
	l.mu.Unlock()
	holder, free := uint32(0), 0
	for _, of := range others {
		// As strong as can be: locks for reading do not exclude each other.
		probe := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: lk.Start, Len: lk.Len}
		e := sysFcntlLock(of.fd, unix.F_OFD_GETLK, &probe)
		if e == 0 && probe.Type == unix.F_UNLCK {
			l.mu.Lock()
			holder = of.pid
			l.mu.Unlock()
			free++
		}
		f.dropOwnerFile(of)
	}
	if free != 1 {
		return 0 // it is nobody's of this guest, or has just been given back
	}
	return holder
}

// setlk serves FUSE_SETLK: it never waits.
func (t *Thread) setlk() (int, unix.Errno) {
	in := overlay[fuse.LkIn](t.in)
	n, f, e := t.lockFile(in)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	return 0, t.tryLock(n, f, in)
}

// setlkw serves FUSE_SETLKW: it tries, and where the lock is taken it waits for a
// moment, on a thread that nothing but waiting locks uses, and is served again.
// So any number of them can wait with a bounded number of threads, and each gets
// its lock whatever the others wait for. Linux can't interrupt it over virtio-fs.
func (t *Thread) setlkw() (int, unix.Errno) {
	in := overlay[fuse.LkIn](t.in)
	defer func() {
		if t.verdict != device.Detach {
			t.fs.locks.end(t.hdr.Unique)
		}
	}()
	n, f, e := t.lockFile(in)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	e = t.tryLock(n, f, in)
	if e != unix.EAGAIN && e != unix.EACCES && e != unix.EINTR {
		return 0, e
	}
	t.verdict, e = t.fs.locks.wait(t.queue, t.hdr.Unique, t.mayBlock)
	return 0, e
}

// lockFile returns the file that a lock request is about, if that kind of lock
// is forwarded; it must be dropped.
func (t *Thread) lockFile(in *fuse.LkIn) (*inode, *file, unix.Errno) {
	kind := uint64(fuse.CAP_POSIX_LOCKS)
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		kind = fuse.CAP_FLOCK_LOCKS
	}
	if !t.session.has(kind) {
		return nil, nil, never
	}
	return t.openFile(in.Fh)
}

// tryLock takes or gives back a lock, or answers EAGAIN.
func (t *Thread) tryLock(n *inode, f *file, in *fuse.LkIn) unix.Errno {
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		how := unix.LOCK_NB
		switch in.Lk.Typ {
		case unix.F_RDLCK:
			how |= unix.LOCK_SH
		case unix.F_WRLCK:
			how |= unix.LOCK_EX
		case unix.F_UNLCK:
			how |= unix.LOCK_UN
		default:
			return unix.EINVAL
		}
		e := errnoOf(unix.Flock(f.fd, how))
		if e == 0 {
			t.fs.locks.wake()
		}
		return e
	}
	lk, e := hostLock(&in.Lk)
	if e != 0 {
		return e
	}
	of, e := t.ownerFD(n, in.Owner, in.Lk.Typ)
	if e != 0 || of == nil {
		return e
	}
	defer t.fs.dropOwnerFile(of)
	if in.Lk.Typ != unix.F_UNLCK {
		t.fs.locks.mu.Lock()
		of.via, of.pid = f.id, in.Lk.Pid
		t.fs.locks.mu.Unlock()
		f.locked.Store(true)
	}
	e = sysFcntlLock(of.fd, unix.F_OFD_SETLK, &lk)
	if e == 0 {
		// A smaller or weaker lock may be what another one waits for.
		t.fs.locks.wake()
	}
	return e
}
