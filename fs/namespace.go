package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// make is the common part of the operations that add a name to a directory as
// the guest's caller: call makes the file, and undo removes it again when the
// guest cannot be told about it.
func (t *Thread) make(name cstr, rest []byte, umask uint32, call func(dirfd int) unix.Errno, undo int) (int, unix.Errno) {
	if e := t.checkName(name); e != 0 {
		return 0, e
	}
	if e := t.parseExtensions(rest); e != 0 {
		return 0, e
	}
	dir, dirfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	t.asCaller(umask)
	if e := t.withIdentity(func() unix.Errno { return call(dirfd) }); e != 0 {
		return 0, e
	}
	n, e := t.resolve(dirfd, name)
	if e == 0 && t.ext.labelName != nil {
		if e = t.labelInode(n); e != 0 {
			t.fs.inodes.forget(n.id, 1)
		}
	}
	if e != 0 {
		sysUnlinkat(dirfd, name, undo)
		return 0, e
	}
	return t.entry(overlay[fuse.EntryOut](t.payload()), dir, n), 0
}

// labelInode gives the new inode n the security context of the request.
func (t *Thread) labelInode(n *inode) unix.Errno {
	fd, e := n.hold()
	if e != 0 {
		return e
	}
	defer n.drop()
	return t.setXattrFD(fd, t.ext.labelName, t.ext.labelValue, 0)
}

// mkdir serves FUSE_MKDIR.
func (t *Thread) mkdir() (int, unix.Errno) {
	in := overlay[fuse.MkdirIn](t.in)
	s, rest, e := t.names(sizeOf[fuse.MkdirIn](), 1)
	if e != 0 {
		return 0, e
	}
	return t.make(s[0], rest, in.Umask, func(dirfd int) unix.Errno {
		return sysMkdirat(dirfd, s[0], in.Mode&0o7777)
	}, unix.AT_REMOVEDIR)
}

// mknod serves FUSE_MKNOD.
func (t *Thread) mknod() (int, unix.Errno) {
	in := overlay[fuse.MknodIn](t.in)
	s, rest, e := t.names(sizeOf[fuse.MknodIn](), 1)
	if e != 0 {
		return 0, e
	}
	return t.make(s[0], rest, in.Umask, func(dirfd int) unix.Errno {
		return sysMknodat(dirfd, s[0], in.Mode, in.Rdev)
	}, 0)
}

// symlink serves FUSE_SYMLINK: the name, then the target.
func (t *Thread) symlink() (int, unix.Errno) {
	s, rest, e := t.names(inHeaderLen, 2)
	if e != 0 {
		return 0, e
	}
	return t.make(s[0], rest, 0, func(dirfd int) unix.Errno {
		return sysSymlinkat(s[1], dirfd, s[0])
	}, 0)
}

// readlink serves FUSE_READLINK.
func (t *Thread) readlink() (int, unix.Errno) {
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	if n.typ != unix.S_IFLNK {
		return 0, unix.EINVAL
	}
	fd, e := n.hold()
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	return sysReadlinkat(fd, emptyPath, t.payload()[:unix.PathMax])
}

// link serves FUSE_LINK.
func (t *Thread) link() (int, unix.Errno) {
	in := overlay[fuse.LinkIn](t.in)
	name, e := t.name(sizeOf[fuse.LinkIn]())
	if e != 0 {
		return 0, e
	}
	n, fd, e := t.holdNode(in.Oldnodeid)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	dir, dirfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	e = sysLinkat(fd, emptyPath, dirfd, name, unix.AT_EMPTY_PATH)
	if e == unix.ENOENT && n.typ != unix.S_IFLNK {
		// AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH; the link in /proc does not,
		// but would be followed once too often for a symbolic link.
		e = sysLinkat(unix.AT_FDCWD, t.fdName(fd), dirfd, name, unix.AT_SYMLINK_FOLLOW)
	}
	if e != 0 {
		return 0, e
	}
	n.unlinked.Store(false)
	// The reply is about the inode that was named, whatever the name is by now.
	if e := sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, statxMask, &t.st); e != 0 {
		return 0, e
	}
	if !t.fs.inodes.claim(n) {
		return 0, unix.ESTALE
	}
	return t.entry(overlay[fuse.EntryOut](t.payload()), dir, n), 0
}

// unlink serves FUSE_UNLINK.
func (t *Thread) unlink() (int, unix.Errno) { return t.remove(0) }

// rmdir serves FUSE_RMDIR.
func (t *Thread) rmdir() (int, unix.Errno) { return t.remove(unix.AT_REMOVEDIR) }

func (t *Thread) remove(flags int) (int, unix.Errno) {
	name, e := t.name(inHeaderLen)
	if e != 0 {
		return 0, e
	}
	dir, dirfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	defer t.endRemoval(t.beginRemoval(dirfd, name))
	return 0, sysUnlinkat(dirfd, name, flags)
}

// rename serves FUSE_RENAME.
func (t *Thread) rename() (int, unix.Errno) {
	in := overlay[renameIn](t.in)
	return t.renameTo(in.Newdir, 0, sizeOf[renameIn]())
}

// rename2 serves FUSE_RENAME2.
func (t *Thread) rename2() (int, unix.Errno) {
	in := overlay[fuse.RenameIn](t.in)
	return t.renameTo(in.Newdir, in.Flags, sizeOf[fuse.RenameIn]())
}

func (t *Thread) renameTo(newdir uint64, flags uint32, names int) (int, unix.Errno) {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return 0, unix.EINVAL
	}
	if t.repeated && flags&(unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		// A second time it would exchange the names back, or put the whiteout
		// in the place of the file. Other requests show that they have been
		// done: their names are there or gone, their handles unknown.
		return 0, unix.EIO
	}
	s, _, e := t.names(names, 2)
	if e != 0 {
		return 0, e
	}
	for _, name := range s {
		if e := t.checkName(name); e != 0 {
			return 0, e
		}
	}
	from, fromfd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer from.drop()
	to, tofd, e := t.holdDir(newdir)
	if e != 0 {
		return 0, e
	}
	defer to.drop()
	if flags&(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) == 0 {
		defer t.endRemoval(t.beginRemoval(tofd, s[1]))
	}
	if flags&unix.RENAME_WHITEOUT == 0 {
		return 0, sysRenameat2(fromfd, s[0], tofd, s[1], flags)
	}
	// The whiteout is the caller's. Whether the caller may rename is not in
	// question, and groups do not come with the request.
	t.ext = extensions{}
	t.asCaller(0)
	t.id.keep = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_MKNOD
	return 0, t.withIdentity(func() unix.Errno { return sysRenameat2(fromfd, s[0], tofd, s[1], flags) })
}
