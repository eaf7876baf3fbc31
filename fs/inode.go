package fs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// inodeKey identifies an inode of the host for as long as something pins it.
type inodeKey struct {
	dev uint64
	ino uint64
	mnt uint64 // stx_mnt_id; the same file on two mounts is two inodes
}

// inode is an inode that the guest knows. It pins the host's inode by an O_PATH
// descriptor, or remembers its file handle, or both.
type inode struct {
	id   uint64
	key  inodeKey
	typ  uint32        // S_IFMT bits of the mode
	told atomic.Uint32 // the bits of the mode that the guest was told last, see killPriv
	mnt  *mount
	fs   *FS
	dax  dax.Inode
	used atomic.Bool // for the second chance of the descriptor budget
	// unlinked is set when the budget wanted the descriptor of an inode that
	// has no link.
	unlinked atomic.Bool

	// state packs the O_PATH descriptor (low half, -1 for none), the number
	// of its users, and the dead bit, so that a descriptor is never closed
	// under a user.
	state  atomic.Uint64
	handle atomic.Pointer[handleBytes]

	// lookups is the guest's reference count, guarded by the key's shard.
	lookups uint64
	// btime is the host inode's birth time, to tell a reused inode number
	// from the one that was forgotten. Immutable.
	btime unix.StatxTimestamp

	// lost is what could not be written of what the guest has stored to the window.
	lost writebackError

	// openHandles counts the open files of this inode.
	openHandles atomic.Int32
	// writers counts those of them that are open for writing.
	writers atomic.Int32
	// announced is the thread of the guest, plus 1, whose next request takes
	// set-id bits, see killPriv, and announcedSuid or not.
	announced atomic.Uint32
}

const (
	inodeUser = uint64(1) << 32
	inodeDead = uint64(1) << 63
	noFD      = uint64(0xffffffff)
)

func stateFD(s uint64) int       { return int(int32(uint32(s))) }
func stateUsers(s uint64) uint64 { return (s &^ inodeDead) >> 32 }

// hold returns an O_PATH descriptor of the inode, which stays open until drop.
// It opens one by file handle where none is open: ESTALE means that the host's
// inode is gone.
func (n *inode) hold() (int, unix.Errno) {
	if !n.used.Load() {
		n.used.Store(true)
	}
	for {
		s := n.state.Load()
		switch {
		case s&inodeDead != 0:
			return -1, unix.ESTALE
		case stateFD(s) >= 0:
			if n.state.CompareAndSwap(s, s+inodeUser) {
				return stateFD(s), 0
			}
		default:
			if !n.stay() {
				return -1, unix.ESTALE
			}
			e := n.pinByHandle()
			n.drop()
			if e != 0 {
				return -1, e
			}
		}
	}
}

// stay is hold without a descriptor: the inode keeps its mount until drop. It
// returns false if the guest has forgotten the inode.
func (n *inode) stay() bool {
	for {
		s := n.state.Load()
		if s&inodeDead != 0 {
			return false
		}
		if n.state.CompareAndSwap(s, s+inodeUser) {
			return true
		}
	}
}

// drop ends one hold.
func (n *inode) drop() {
	s := n.state.Add(^inodeUser + 1)
	if s&inodeDead != 0 && stateUsers(s) == 0 {
		n.closeFD(s)
	}
}

// kill marks an inode that is out of the table. Its descriptor is closed when
// the last user drops it.
func (n *inode) kill() {
	n.fs.opts.DAX.Forget(&n.dax)
	old := n.state.Or(inodeDead)
	if old&inodeDead == 0 && stateUsers(old) == 0 {
		n.closeFD(old)
	}
}

func (n *inode) closeFD(s uint64) {
	if fd := stateFD(s); fd >= 0 {
		unix.Close(fd)
		n.fs.budget.release()
	} else {
		n.fs.budget.parked.Add(-1)
	}
	n.fs.mounts.drop(n.mnt)
}

// pin makes fd the inode's descriptor and takes ownership of it; an inode that
// has one already, or is dead, closes fd.
func (n *inode) pin(fd int) {
	for {
		s := n.state.Load()
		if s&inodeDead != 0 || stateFD(s) >= 0 {
			unix.Close(fd)
			n.fs.budget.release()
			return
		}
		if n.state.CompareAndSwap(s, s&^noFD|uint64(uint32(fd))) {
			n.fs.budget.parked.Add(-1)
			return
		}
	}
}

// pinByHandle opens the inode by its file handle.
func (n *inode) pinByHandle() unix.Errno {
	h := n.handle.Load()
	if h == nil {
		return unix.ESTALE
	}
	if e := n.fs.budget.reserveInode(); e != 0 {
		return e
	}
	fd, e := n.mnt.open(h, unix.O_PATH|unix.O_NOFOLLOW)
	if e != 0 {
		n.fs.budget.release()
		if e == unix.ESTALE {
			n.fs.inodes.disown(n)
		}
		return e
	}
	n.pin(fd)
	return 0
}

// unpin closes the descriptor of an inode that nobody is using and that can be
// opened again by its file handle. It reports whether it closed one.
func (n *inode) unpin() bool {
	s := n.state.Load()
	if s&inodeDead != 0 || stateFD(s) < 0 || stateUsers(s) != 0 || n.id == rootID {
		return false
	}
	if n.openHandles.Load() > 0 || n.unlinked.Load() {
		// A file that was unlinked while open can't be found by its handle on
		// every file system.
		return false
	}
	if n.handle.Load() == nil {
		fd, e := n.hold()
		if e != 0 {
			return false
		}
		h, e := n.fs.handleOf(fd, n.mnt)
		if e == 0 && h != nil {
			n.handle.Store(h)
		}
		n.drop()
		if h == nil {
			return false
		}
		s = n.state.Load()
		if s&inodeDead != 0 || stateUsers(s) != 0 {
			return false
		}
	}
	n.fs.budget.parked.Add(1)
	if !n.state.CompareAndSwap(s, s|noFD) {
		n.fs.budget.parked.Add(-1)
		return false
	}
	// From here on a removal by the guest opens one of its own, see beginRemoval.
	var st unix.Statx_t
	if e := sysStatx(stateFD(s), emptyPath, unix.AT_EMPTY_PATH, unix.STATX_NLINK, &st); e != 0 || st.Nlink == 0 {
		n.unlinked.Store(e == 0)
		n.pin(stateFD(s))
		return false
	}
	unix.Close(stateFD(s))
	n.fs.budget.release()
	return true
}

// openFile opens the inode for I/O. flags are open(2)'s without O_CREAT;
// symbolic links and special files are refused with ELOOP and ENXIO.
func (n *inode) openFile(t *Thread, flags int) (int, unix.Errno) {
	flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	if n.typ == unix.S_IFDIR {
		fd, e := n.hold()
		if e != 0 {
			return -1, e
		}
		defer n.drop()
		return sysOpenat(fd, dotName, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	switch n.typ {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return -1, unix.ELOOP
	default:
		// The guest serves FIFOs, sockets and devices itself.
		return -1, unix.ENXIO
	}
	if !n.stay() {
		return -1, unix.ESTALE
	}
	defer n.drop()
	if h := n.handleForOpen(); h != nil {
		// Not every file system finds an inode without a link by its handle;
		// that one still has its descriptor.
		if fd, e := n.mnt.open(h, flags); e != unix.ESTALE {
			return fd, e
		}
	}
	fd, e := n.hold()
	if e != 0 {
		return -1, e
	}
	defer n.drop()
	return sysOpenat(unix.AT_FDCWD, t.fdName(fd), flags, 0)
}

// handleForOpen returns the file handle to open a regular file by, or nil where
// only /proc will do.
func (n *inode) handleForOpen() *handleBytes {
	if h := n.handle.Load(); h != nil {
		return h
	}
	if !n.mnt.handles.Load() {
		return nil
	}
	fd, e := n.hold()
	if e != 0 {
		return nil
	}
	defer n.drop()
	h, e := n.fs.handleOf(fd, n.mnt)
	if e != 0 || h == nil {
		return nil
	}
	n.handle.Store(h)
	return h
}
