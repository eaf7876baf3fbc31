package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// open serves FUSE_OPEN.
func (t *Thread) open() (int, unix.Errno) {
	in := overlay[fuse.OpenIn](t.in)
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	fh, opened, e := t.openInode(n, int(in.Flags), in.Mode&fuse.OPEN_KILL_SUIDGID != 0)
	if e != 0 {
		return 0, e
	}
	out := overlay[fuse.OpenOut](t.payload())
	*out = fuse.OpenOut{Fh: fh, OpenFlags: opened}
	return sizeOf[fuse.OpenOut](), 0
}

// openInode opens n and returns the guest's handle and the FOPEN flags.
func (t *Thread) openInode(n *inode, flags int, killPriv bool) (fh uint64, opened uint32, e unix.Errno) {
	asked := flags
	if flags&unix.O_TRUNC != 0 && n.dax.Mapped() && !t.mayBlock {
		t.verdict = device.Again
		return 0, 0, unix.EAGAIN
	}
	flags, e = t.hostFlags(flags)
	if e != 0 {
		return 0, 0, e
	}
	if e := t.fs.budget.reserveFile(); e != 0 {
		return 0, 0, e
	}
	who := callerHasFsetid
	if killPriv && flags&unix.O_TRUNC != 0 {
		who = callerLacksFsetid
	}
	fd, e := t.changeAs(who, n, false, func() (int, unix.Errno) {
		fd, e := t.openAsAsked(n, flags)
		if e == unix.EPERM && flags&unix.O_NOATIME != 0 && !t.fs.opts.PreserveNoatime {
			// The guest's kernel has let the caller have it, but the host's lets
			// only the owner and the privileged.
			flags &^= unix.O_NOATIME
			fd, e = t.openAsAsked(n, flags)
		}
		if e == unix.EPERM && asked&unix.O_APPEND != 0 {
			// An append-only inode takes no other writer. The guest, which does not
			// know that it is one, gets no cache to write back (fileOpenFlags).
			flags |= unix.O_APPEND
			fd, e = t.openAsAsked(n, flags)
		}
		return fd, e
	})
	if e != 0 {
		t.fs.budget.release()
		return 0, 0, e
	}
	return t.fs.addFile(fd, n, flags), t.fileOpenFlags(n, flags), 0
}

// openForNow is openFile for a request that may be on a queue's reader: a lease
// that somebody on the host holds must not stop the queue, and so has a worker
// serve the request again.
func (t *Thread) openForNow(n *inode, flags int) (int, unix.Errno) {
	if t.mayBlock {
		return n.openFile(t, flags)
	}
	fd, e := n.openFile(t, flags|unix.O_NONBLOCK)
	if e == unix.EWOULDBLOCK {
		t.verdict = device.Again
	}
	return fd, e
}

// openAsAsked is openForNow, with O_TRUNC or without. Faults of the window wait for a
// truncation, but not for a lease too.
func (t *Thread) openAsAsked(n *inode, flags int) (int, unix.Errno) {
	if flags&unix.O_TRUNC == 0 || n.typ != unix.S_IFREG {
		return t.openForNow(n, flags)
	}
	fd, e := t.openExcluding(n, flags|unix.O_NONBLOCK)
	switch {
	case e != unix.EWOULDBLOCK:
		return fd, e
	case !t.mayBlock:
		t.verdict = device.Again
		return -1, e
	}
	// Once the file is open nobody gets a lease that the next open would wait for.
	waited, e := n.openFile(t, flags&^unix.O_TRUNC)
	if e != 0 {
		return -1, e
	}
	defer unix.Close(waited)
	return t.openExcluding(n, flags)
}

// openExcluding is openFile with O_TRUNC, with faults of the window locked out.
func (t *Thread) openExcluding(n *inode, flags int) (int, unix.Errno) {
	if e := errnoOf(t.op.BeginOpenTrunc(&n.dax)); e != 0 {
		return -1, e
	}
	defer t.op.End()
	return n.openFile(t, flags)
}

// hostFlags turns the guest's open flags into the host's.
func (t *Thread) hostFlags(flags int) (int, unix.Errno) {
	// The guest computes offsets for O_APPEND itself or says so per write,
	// and may change the flag later.
	flags &^= unix.O_APPEND | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_CLOEXEC
	if !t.fs.opts.AllowDirectIO {
		flags &^= unix.O_DIRECT
	}
	if t.session.has(fuse.CAP_WRITEBACK_CACHE) && flags&unix.O_ACCMODE == unix.O_WRONLY {
		// The guest reads what a partial page lacks.
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	if t.fs.opts.ReadOnly && (flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0) {
		return 0, unix.EROFS
	}
	return flags, 0
}

// fileOpenFlags are the FOPEN flags for a file of n opened with flags.
func (t *Thread) fileOpenFlags(n *inode, flags int) uint32 {
	var opened uint32
	switch t.fs.opts.Cache {
	case CacheNever, CacheMetadata:
		opened = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	case CacheAlways:
		opened = fuse.FOPEN_KEEP_CACHE
	}
	if flags&unix.O_APPEND != 0 {
		opened = fuse.FOPEN_DIRECT_IO
	}
	if t.isDAX(n) {
		// The guest has no copy of the data. What it would drop is the window's mapping, under the feet of
		// whoever does I/O on its pages at the moment.
		opened |= fuse.FOPEN_KEEP_CACHE
	}
	stores := flags&unix.O_ACCMODE == unix.O_RDWR
	if n.typ == unix.S_IFREG && t.session.has(fuse.CAP_MAP_ALIGNMENT) && flags&unix.O_ACCMODE == unix.O_WRONLY {
		stores = true // by write(2) through the window, which may be only from the next request on
	}
	if !stores && !n.mnt.slow && !t.session.has(fuse.CAP_POSIX_LOCKS) {
		// A FLUSH would find nothing to do: the file can't have been written
		// through a mapping, and a local file system has nothing to say.
		opened |= fuse.FOPEN_NOFLUSH
	}
	return opened
}

// isDAX says whether the guest reaches the data of n through the window: it
// does for all files if the mount says so, else for those that it has mapped.
func (t *Thread) isDAX(n *inode) bool {
	return n.typ == unix.S_IFREG && t.session.has(fuse.CAP_MAP_ALIGNMENT) &&
		(!t.session.has(fuse.CAP_HAS_INODE_DAX) || n.dax.Mapped())
}

// create serves FUSE_CREATE.
func (t *Thread) create() (int, unix.Errno) {
	in := overlay[fuse.CreateIn](t.in)
	s, rest, e := t.names(sizeOf[fuse.CreateIn](), 1)
	if e != 0 {
		return 0, e
	}
	name := s[0]
	if e := t.checkName(name); e != 0 {
		return 0, e
	}
	if e := t.parseExtensions(rest); e != 0 {
		return 0, e
	}
	flags, e := t.hostFlags(int(in.Flags))
	if e != 0 {
		return 0, e
	}
	dir, dirfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	if e := t.fs.budget.reserveFile(); e != 0 {
		return 0, e
	}
	t.asCaller(in.Umask)
	fd := -1
	e = t.withIdentity(func() (e unix.Errno) {
		// O_EXCL, so that nothing which is there already is opened as the
		// caller, followed, or truncated.
		fd, e = sysOpenat(dirfd, name, flags&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, in.Mode&0o7777)
		return e
	})
	if e == 0 {
		return t.createReply(dir, dirfd, name, fd, flags)
	}
	t.fs.budget.release()
	if e != unix.EEXIST || int(in.Flags)&unix.O_EXCL != 0 {
		return 0, e
	}
	return t.createExisting(dir, dirfd, name, in)
}

// createReply answers a CREATE that made the file open as fd.
func (t *Thread) createReply(dir *inode, dirfd int, name cstr, fd, flags int) (int, unix.Errno) {
	e := t.applySecurityContext(fd)
	var n *inode
	if e == 0 {
		n, e = t.resolveOpen(fd, dirfd, name)
	}
	if e != 0 {
		sysUnlinkat(dirfd, name, 0)
		unix.Close(fd)
		t.fs.budget.release()
		return 0, e
	}
	return t.createOut(dir, n, t.fs.addFile(fd, n, flags), t.fileOpenFlags(n, flags)), 0
}

func (t *Thread) createOut(dir, n *inode, fh uint64, opened uint32) int {
	entry := t.entry(overlay[fuse.EntryOut](t.payload()), dir, n)
	out := overlay[fuse.OpenOut](t.payload()[entry:])
	*out = fuse.OpenOut{Fh: fh, OpenFlags: opened}
	return entry + sizeOf[fuse.OpenOut]()
}

// createExisting opens the file that a CREATE without O_EXCL has found.
func (t *Thread) createExisting(dir *inode, dirfd int, name cstr, in *fuse.CreateIn) (int, unix.Errno) {
	n, e := t.resolve(dirfd, name)
	if e != 0 {
		return 0, e
	}
	var fh uint64
	var opened uint32
	switch n.typ {
	case unix.S_IFDIR:
		e = unix.EISDIR
	case unix.S_IFREG, unix.S_IFLNK:
		fh, opened, e = t.openInode(n, int(in.Flags), in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0)
	default:
		// Somebody has just made it. The guest takes no answer but for a file, and
		// would give neither the handle nor the lookup back.
		e = unix.ENXIO
	}
	if e == 0 && int(in.Flags)&unix.O_TRUNC != 0 {
		if e = t.stat(n, statxMask); e != 0 {
			if f := t.fs.files.get(fh); f != nil && t.fs.files.remove(fh) {
				f.drop()
			}
		}
	}
	if e != 0 {
		t.fs.inodes.forget(n.id, 1)
		return 0, e
	}
	return t.createOut(dir, n, fh, opened), 0
}

// resolveOpen returns the inode of the newly made file open as fd with one
// more lookup, and leaves its attributes in t.st. name in the directory dirfd is
// where it was made, or nil.
func (t *Thread) resolveOpen(fd, dirfd int, name cstr) (*inode, unix.Errno) {
	if e := t.fs.budget.reserveInode(); e != 0 {
		return nil, e
	}
	path, e := t.pathOf(fd, dirfd, name)
	if e != 0 {
		t.fs.budget.release()
		return nil, e
	}
	n, _, e := t.fs.inodes.claimOrAdd(t.fs, &t.st, path)
	return n, e
}

// pathOf returns an O_PATH descriptor of the file open as fd, and leaves its
// attributes in t.st. To open it by its name is three times faster than by
// /proc, but the name may be another file's by now.
func (t *Thread) pathOf(fd, dirfd int, name cstr) (int, unix.Errno) {
	if e := sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, statxMask, &t.st); e != 0 {
		return -1, e
	}
	if name != nil {
		if path, e := sysOpenat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0); e == 0 {
			want, born := keyOf(&t.st), t.st.Btime
			e := sysStatx(path, emptyPath, unix.AT_EMPTY_PATH, statxMask, &t.st)
			// fd keeps the number from being used again.
			if e == 0 && keyOf(&t.st) == want && sameTime(t.st.Btime, born) {
				return path, 0
			}
			unix.Close(path)
			if e := sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, statxMask, &t.st); e != 0 {
				return -1, e
			}
		}
	}
	return sysOpenat(unix.AT_FDCWD, t.fdName(fd), unix.O_PATH, 0)
}

// tmpfile serves FUSE_TMPFILE. The name in the request means nothing.
func (t *Thread) tmpfile() (int, unix.Errno) {
	in := overlay[fuse.CreateIn](t.in)
	_, rest, e := t.names(sizeOf[fuse.CreateIn](), 1)
	if e != 0 {
		return 0, e
	}
	if e := t.parseExtensions(rest); e != 0 {
		return 0, e
	}
	flags, e := t.hostFlags(int(in.Flags))
	if e != 0 {
		return 0, e
	}
	dir, dirfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	if e := t.fs.budget.reserveFile(); e != 0 {
		return 0, e
	}
	// hostFlags took O_EXCL away: it decides whether linkat may name the file.
	excl := int(in.Flags) & unix.O_EXCL
	t.asCaller(in.Umask)
	fd := -1
	e = t.withIdentity(func() (e unix.Errno) {
		fd, e = sysOpenat(dirfd, dotName, flags&^unix.O_TRUNC|unix.O_TMPFILE|excl, in.Mode&0o7777)
		return e
	})
	if e != 0 {
		t.fs.budget.release()
		return 0, e
	}
	e = t.applySecurityContext(fd)
	var n *inode
	if e == 0 {
		n, e = t.resolveOpen(fd, -1, nil)
	}
	if e != 0 {
		unix.Close(fd)
		t.fs.budget.release()
		return 0, e
	}
	return t.createOut(dir, n, t.fs.addFile(fd, n, flags), t.fileOpenFlags(n, flags)), 0
}

// asCaller sets t.id to the guest's caller for the host to create a file as.
func (t *Thread) asCaller(umask uint32) {
	t.id = identity{uid: t.hdr.Uid, gid: t.hdr.Gid, groups: t.ext.groups}
	if t.session.has(fuse.CAP_DONT_MASK) {
		t.id.umask = umask & 0o777
	}
	if !t.session.has(fuse.CAP_CREATE_SUPP_GROUP) || t.session.has(fuse.CAP_POSIX_ACL) {
		// The guest can't say which of its groups gives the caller the right
		// to write to the directory, or says so only of the directory's own
		// group and not of one that has an entry in its ACL.
		t.id.keep = 1 << unix.CAP_DAC_OVERRIDE
	}
	if t.id.uid == invalidUID {
		t.id.uid = t.cred.uid
	}
	if t.id.gid == invalidUID {
		t.id.gid = t.cred.gid
	}
}
