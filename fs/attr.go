package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// getattr serves FUSE_GETATTR.
func (t *Thread) getattr() (int, unix.Errno) {
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	e = t.stat(n, statxMask)
	if in := overlay[fuse.GetAttrIn](t.in); e == unix.ESTALE && in.Flags_&fuse.FUSE_GETATTR_FH != 0 {
		if _, e := t.holdByFile(n, true, in.Fh_); e != 0 {
			return 0, e
		}
		defer n.drop()
		e = t.stat(n, statxMask)
	}
	if e != 0 {
		return 0, e
	}
	if n.dax.Behind(t.st.Size) && !t.mayBlock {
		return t.again()
	}
	return t.attrOut(n), 0
}

// attrReply answers with the attributes of n as they are now.
func (t *Thread) attrReply(n *inode) (int, unix.Errno) {
	if e := t.stat(n, statxMask); e != 0 {
		return 0, e
	}
	return t.attrOut(n), 0
}

// attrOut makes the reply with the attributes of n in t.st, and returns its length.
func (t *Thread) attrOut(n *inode) int {
	current := t.showSize(n)
	out := overlay[fuse.AttrOut](t.payload())
	*out = fuse.AttrOut{}
	fillAttr(&out.Attr, &t.st)
	n.tellMode(t.st.Mode)
	out.Attr.Flags = t.attrFlags(n, n)
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.attrTimeout(n, out.Attr.Flags, current))
	return sizeOf[fuse.AttrOut]()
}

// showSize has the DAX window show all of n that the guest is going to learn of from
// t.st: through the pages of before it would read zeroes behind their end, and write
// them. On a queue's reader, which can't wait for that, the guest gets the size of
// before, for no longer than this reply.
func (t *Thread) showSize(n *inode) (current bool) {
	if !n.dax.Behind(t.st.Size) {
		return true
	}
	if t.mayBlock {
		t.op.CatchUp(&n.dax)
		if !n.dax.Behind(t.st.Size) {
			return true
		}
	}
	t.st.Size = n.dax.Shown()
	return false
}

// attrTimeout is how long the guest may keep the attributes of n in t.st, which
// it gets with flags, and which are what they should be if current is set.
//
// Those of a set-id file not at all: the replies of what takes the bits hold none,
// and by a bit that the guest goes on to see it would run a file with another's
// rights. Those of a file in the window neither, unless all the guest's names
// are kept for long: what a store to memory changes, the times, no reply tells.
func (t *Thread) attrTimeout(n *inode, flags uint32, current bool) time.Duration {
	if !current {
		return 0
	}
	if n.typ != unix.S_IFREG {
		return t.fs.attrTimeout
	}
	// The guest reaches the data through the window, or will once it has opened the file.
	mayBeDAX := flags&fuse.ATTR_DAX != 0 || t.isDAX(n)
	if t.st.Mode&setidBits != 0 || mayBeDAX && t.fs.opts.Cache == CacheAuto && !t.fs.opts.ReadOnly {
		return 0
	}
	return t.fs.attrTimeout
}

// stat puts the attributes of n into t.st.
func (t *Thread) stat(n *inode, mask int) unix.Errno {
	fd, e := n.hold()
	if e != 0 {
		return e
	}
	defer n.drop()
	return sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, mask, &t.st)
}

// statx serves FUSE_STATX, which the guest sends when it wants the birth time.
func (t *Thread) statx() (int, unix.Errno) {
	if t.session.has(fuse.CAP_HAS_INODE_DAX) {
		// The reply has no attribute flags, so the guest would take the inode
		// for one that may no longer use DAX. It asks with GETATTR from now on.
		return 0, never
	}
	in := overlay[fuse.StatxIn](t.in)
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	fd, e := t.holdByFile(n, in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0, in.Fh)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	flags := unix.AT_EMPTY_PATH | unix.AT_SYMLINK_NOFOLLOW | int(in.SxFlags)&(unix.AT_STATX_FORCE_SYNC|unix.AT_STATX_DONT_SYNC)
	if e := sysStatx(fd, emptyPath, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &t.st); e != 0 {
		return 0, e
	}
	if n.dax.Behind(t.st.Size) && !t.mayBlock {
		return t.again()
	}
	current := t.showSize(n)
	out := overlay[fuse.StatxOut](t.payload())
	*out = fuse.StatxOut{}
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.attrTimeout(n, 0, current))
	out.FromStatx(&t.st)
	n.tellMode(t.st.Mode)
	out.Mask &= unix.STATX_BASIC_STATS | unix.STATX_BTIME
	return sizeOf[fuse.StatxOut](), 0
}

// access serves FUSE_ACCESS. Guests mount with default_permissions and check
// by themselves; what is left to the host is that a read-only share is one.
func (t *Thread) access() (int, unix.Errno) {
	in := overlay[fuse.AccessIn](t.in)
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	if in.Mask&^(fuse.R_OK|fuse.W_OK|fuse.X_OK) != 0 {
		return 0, unix.EINVAL
	}
	if e := t.stat(n, unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID); e != 0 {
		return 0, e
	}
	if in.Mask&fuse.W_OK != 0 && t.fs.opts.ReadOnly && n.typ != unix.S_IFIFO && n.typ != unix.S_IFSOCK {
		return 0, unix.EROFS
	}
	if !allowed(uint32(t.st.Mode), t.st.Uid, t.st.Gid, t.hdr.Uid, t.hdr.Gid, in.Mask) {
		return 0, unix.EACCES
	}
	return 0, 0
}

// allowed is generic_permission of the kernel for a caller of one group.
func allowed(mode, fuid, fgid, uid, gid, mask uint32) bool {
	if uid == invalidUID {
		return true
	}
	if uid == 0 {
		return mask&fuse.X_OK == 0 || mode&unix.S_IFMT == unix.S_IFDIR || mode&0o111 != 0
	}
	bits := mode
	switch {
	case uid == fuid:
		bits = mode >> 6
	case gid == fgid:
		bits = mode >> 3
	}
	return bits&mask == mask
}

const setattrTimes = fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW

// setattr serves FUSE_SETATTR. The parts are done in the order of the kernel's
// notify_change: owner before mode, for a change of owner clears bits that the
// mode may set again; size before times, for it changes them.
func (t *Thread) setattr() (int, unix.Errno) {
	in := overlay[fuse.SetAttrIn](t.in)
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	if in.Valid&fuse.FATTR_SIZE != 0 && in.Size > 1<<63-1 {
		return 0, unix.EFBIG
	}
	if in.Valid&(fuse.FATTR_SIZE|setattrTimes) != 0 && n.dax.Mapped() && !t.mayBlock {
		return t.again()
	}
	fd, e := t.holdByFile(n, in.Valid&fuse.FATTR_FH != 0, in.Fh)
	if e == unix.ESTALE {
		return t.goneTimes(n, in)
	}
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	last := t.lastSet(n, in)
	if in.Valid&^(fuse.FATTR_FH|fuse.FATTR_LOCKOWNER) == 0 {
		t.announcePriv(n)
		return t.attrReply(n)
	}
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		kept := t.keepPriv(n, fd, in, last)
		if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 && kept.mode == 0 {
			t.killSetgidAtChown(n)
		}
		if e := t.chown(fd, in); e != 0 {
			return 0, e
		}
		t.putBack(n, fd, &kept)
	}
	if in.Valid&fuse.FATTR_SIZE != 0 && !t.keepsSize(n, fd, in, last) {
		if e := t.truncate(n, in); e != 0 {
			return 0, e
		}
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		if e := t.chmod(n, fd, in.Mode&0o7777); e != 0 {
			return 0, e
		}
		if setattrOf(in) == fuse.FATTR_MODE {
			t.noteSet(n, in.Mode&0o7777)
		}
	}
	if in.Valid&setattrTimes != 0 {
		// What the guest has stored through the window changes the times
		// when it is written back, so it must not be later. An error is told
		// by the next FSYNC.
		_ = t.fs.opts.DAX.WriteBack(t.op, &n.dax)
		if e := t.utimens(fd, in); e != 0 {
			return 0, e
		}
	}
	return t.attrReply(n)
}

func (t *Thread) chown(fd int, in *fuse.SetAttrIn) unix.Errno {
	uid, gid := uint32(invalidUID), uint32(invalidUID)
	if in.Valid&fuse.FATTR_UID != 0 {
		uid = in.Uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		gid = in.Gid
	}
	return sysFchownat(fd, uid, gid)
}

func (t *Thread) chmod(n *inode, fd int, mode uint32) unix.Errno {
	if n.typ == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	if !t.fs.noFchmodat2.Load() {
		e := sysFchmodat2(fd, mode)
		if e != unix.ENOSYS {
			return e
		}
		t.fs.noFchmodat2.Store(true)
	}
	return sysChmod(t.fdName(fd), mode)
}

// truncate sets the size through the file handle that the guest names, or one
// opened for it.
func (t *Thread) truncate(n *inode, in *fuse.SetAttrIn) unix.Errno {
	fd := -1
	if in.Valid&fuse.FATTR_FH != 0 {
		f, e := t.file(in.Fh, n)
		if e != 0 {
			return e
		}
		defer f.drop()
		fd = f.fd
	} else {
		// Before faults of the window are held up, for it may wait.
		var e unix.Errno
		if fd, e = t.openForNow(n, unix.O_WRONLY); e != 0 {
			return e
		}
		defer unix.Close(fd)
	}
	who := callerHasFsetid
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		who = callerLacksFsetid
	}
	_, e := t.changeAs(who, n, false, func() (int, unix.Errno) {
		if e := errnoOf(t.op.BeginTruncate(&n.dax, in.Size)); e != 0 {
			return 0, e
		}
		defer t.op.End()
		return 0, errnoOf(unix.Ftruncate(fd, int64(in.Size)))
	})
	return e
}

func (t *Thread) utimens(fd int, in *fuse.SetAttrIn) unix.Errno {
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	ts := [2]unix.Timespec{omit, omit}
	switch {
	case in.Valid&fuse.FATTR_ATIME_NOW != 0:
		ts[0].Nsec = unix.UTIME_NOW
	case in.Valid&fuse.FATTR_ATIME != 0:
		ts[0] = unix.Timespec{Sec: int64(in.Atime), Nsec: int64(in.Atimensec)}
	}
	switch {
	case in.Valid&fuse.FATTR_MTIME_NOW != 0:
		ts[1].Nsec = unix.UTIME_NOW
	case in.Valid&fuse.FATTR_MTIME != 0:
		ts[1] = unix.Timespec{Sec: int64(in.Mtime), Nsec: int64(in.Mtimensec)}
	}
	for i := range ts {
		if ts[i].Nsec >= 1e9 && ts[i].Nsec != unix.UTIME_NOW && ts[i].Nsec != unix.UTIME_OMIT {
			return unix.EINVAL
		}
	}
	return sysUtimensat(fd, emptyPath, &ts, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

// statfs serves FUSE_STATFS.
func (t *Thread) statfs() (int, unix.Errno) {
	n, fd, e := t.holdNode(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	var st unix.Statfs_t
	if e := sysFstatfs(fd, &st); e != 0 {
		return 0, e
	}
	out := overlay[fuse.StatfsOut](t.payload())
	*out = fuse.StatfsOut{Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize)}
	return sizeOf[fuse.StatfsOut](), 0
}

// errnoOf returns the errno that x/sys/unix wraps.
func errnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}
