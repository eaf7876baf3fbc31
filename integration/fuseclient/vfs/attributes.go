package vfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

func (v *view) Stat(path string) (s unix.Statx_t, err error) {
	err = v.at(path, true, func(n *node) error { s, err = v.statx(n.id, nil); return err })
	return s, err
}

func (v *view) Lstat(path string) (s unix.Statx_t, err error) {
	err = v.at(path, false, func(n *node) error { s, err = v.statx(n.id, nil); return err })
	return s, err
}

func (v *view) Mode(path string) (mode uint32, err error) {
	err = v.at(path, true, func(n *node) error {
		a, err := v.getattr(n.id)
		mode = a.Mode
		return err
	})
	return mode, err
}

// statx asks with STATX until that is ENOSYS, then with GETATTR, which has no time of birth.
func (v *view) statx(id uint64, fh *uint64) (unix.Statx_t, error) {
	if !v.t.noStatx.Load() {
		s, err := v.t.c.Statx(v.caller(), id, fh, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME)
		if err == nil {
			return fromStatx(s.Statx), nil
		}
		if err != unix.ENOSYS {
			return unix.Statx_t{}, err
		}
		v.t.noStatx.Store(true)
	}
	a, err := v.t.c.Getattr(v.caller(), id, fh)
	return fromAttr(a.Attr), err
}

func fromStatx(s fuse.Statx) unix.Statx_t {
	at := func(t fuse.SxTime) unix.StatxTimestamp { return unix.StatxTimestamp{Sec: int64(t.Sec), Nsec: t.Nsec} }
	return unix.Statx_t{
		Mask: s.Mask, Blksize: s.Blksize, Attributes: s.Attributes, Attributes_mask: s.AttributesMask, Nlink: s.Nlink,
		Uid: s.Uid, Gid: s.Gid, Mode: s.Mode, Ino: s.Ino, Size: s.Size, Blocks: s.Blocks,
		Atime: at(s.Atime), Btime: at(s.Btime), Ctime: at(s.Ctime), Mtime: at(s.Mtime),
		Rdev_major: s.RdevMajor, Rdev_minor: s.RdevMinor, Dev_minor: 42,
	}
}

func fromAttr(a fuse.Attr) unix.Statx_t {
	at := func(sec uint64, nsec uint32) unix.StatxTimestamp {
		return unix.StatxTimestamp{Sec: int64(sec), Nsec: nsec}
	}
	return unix.Statx_t{
		Mask: unix.STATX_BASIC_STATS, Blksize: a.Blksize, Nlink: a.Nlink, Uid: a.Uid, Gid: a.Gid, Mode: uint16(a.Mode),
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: at(a.Atime, a.Atimensec), Ctime: at(a.Ctime, a.Ctimensec), Mtime: at(a.Mtime, a.Mtimensec),
		Rdev_major: a.Rdev >> 8 & 0xfff, Rdev_minor: a.Rdev&0xff | a.Rdev>>12&0xfff00, Dev_minor: 42,
	}
}

func (v *view) Statfs(path string) (s unix.Statfs_t, err error) {
	err = v.at(path, true, func(n *node) error {
		o, err := v.t.c.Statfs(v.caller(), n.id)
		s = unix.Statfs_t{
			Type: unix.FUSE_SUPER_MAGIC, Bsize: int64(o.Bsize), Blocks: o.Blocks, Bfree: o.Bfree, Bavail: o.Bavail,
			Files: o.Files, Ffree: o.Ffree, Namelen: int64(o.NameLen), Frsize: int64(o.Frsize),
		}
		return err
	})
	return s, err
}

func (v *view) Syncfs() error {
	err := v.t.c.Syncfs(v.caller(), fuseclient.RootID)
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

func (v *view) Access(path string, mode uint32) error {
	if mode&^7 != 0 {
		return unix.EINVAL
	}
	return v.at(path, true, func(n *node) error { return v.permission(n, mode) })
}

func (v *view) Chmod(path string, mode uint32) error {
	return v.at(path, true, func(n *node) error { return v.chmod(n.id, mode) })
}

// chmod is chmod_common and setattr_prepare.
func (v *view) chmod(id uint64, mode uint32) error {
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	if !v.owner(&n) {
		return unix.EPERM
	}
	mode = n.attr.Mode&unix.S_IFMT | mode&0o7777
	if !v.root() && !v.inGroup(n.attr.Gid) {
		mode &^= unix.S_ISGID
	}
	return v.setMode(id, mode)
}

func (v *view) Chown(path string, uid, gid int) error {
	return v.at(path, true, func(n *node) error { return v.chown(n.id, uid, gid) })
}

func (v *view) Lchown(path string, uid, gid int) error {
	return v.at(path, false, func(n *node) error { return v.chown(n.id, uid, gid) })
}

// chown is chown_common, setattr_prepare and fuse_setattr.
func (v *view) chown(id uint64, uid, gid int) error {
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	var in fuse.SetAttrInCommon
	if uid != -1 {
		if !v.root() && (v.cred.UID != n.attr.Uid || uint32(uid) != n.attr.Uid) {
			return unix.EPERM
		}
		in.Valid |= fuse.FATTR_UID
		in.Uid = uint32(uid)
	}
	if gid != -1 {
		if !v.root() && (v.cred.UID != n.attr.Uid || !v.inGroup(uint32(gid)) && uint32(gid) != n.attr.Gid) {
			return unix.EPERM
		}
		in.Valid |= fuse.FATTR_GID
		in.Gid = uint32(gid)
	}
	if !n.isDir() {
		// ATTR_KILL_PRIV: notify_change asks, and removes it by itself if it is there.
		capability := make([]byte, 64)
		if got, err := v.t.c.Getxattr(v.caller(), id, "security.capability", capability); err == nil && got > 0 {
			if err := v.t.c.Removexattr(v.caller(), id, "security.capability"); err != nil {
				return err
			}
		}
		switch {
		case v.killprivV2():
			if in.Valid != 0 {
				in.Valid |= fuse.FATTR_KILL_SUIDGID
			}
		case v.t.c.Flags&fuse.CAP_HANDLE_KILLPRIV == 0 && withoutSetID(n.attr.Mode) != n.attr.Mode:
			in.Valid |= fuse.FATTR_MODE
			in.Mode = withoutSetID(n.attr.Mode)
		}
	}
	_, err := v.t.c.Setattr(v.caller(), id, in)
	return err
}

func (v *view) Utimens(path string, ts *[2]unix.Timespec, flags int) error {
	if flags&^unix.AT_SYMLINK_NOFOLLOW != 0 {
		return unix.EINVAL
	}
	if ts != nil && ts[0].Nsec == unix.UTIME_OMIT && ts[1].Nsec == unix.UTIME_OMIT {
		return nil // the path is not even looked at
	}
	return v.at(path, flags&unix.AT_SYMLINK_NOFOLLOW == 0, func(n *node) error { return v.utimes(n.id, ts) })
}

// utimes is vfs_utimes.
func (v *view) utimes(id uint64, ts *[2]unix.Timespec) error {
	if ts != nil {
		for _, t := range ts {
			if t.Nsec != unix.UTIME_OMIT && t.Nsec != unix.UTIME_NOW && (t.Nsec < 0 || t.Nsec > 999_999_999) {
				return unix.EINVAL
			}
		}
		if ts[0].Nsec == unix.UTIME_NOW && ts[1].Nsec == unix.UTIME_NOW {
			ts = nil
		}
	}
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	in := fuse.SetAttrInCommon{Valid: fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW}
	if ts == nil {
		if !v.owner(&n) {
			if err := v.permission(&n, unix.W_OK); err != nil {
				return err
			}
		}
	} else {
		if !v.owner(&n) {
			return unix.EPERM
		}
		one := func(t unix.Timespec, set, now uint32, sec *uint64, nsec *uint32) {
			switch t.Nsec {
			case unix.UTIME_OMIT:
				in.Valid &^= set | now
			case unix.UTIME_NOW:
			default:
				in.Valid &^= now
				*sec, *nsec = uint64(t.Sec), uint32(t.Nsec)
			}
		}
		one(ts[0], fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, &in.Atime, &in.Atimensec)
		one(ts[1], fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, &in.Mtime, &in.Mtimensec)
		if in.Valid == 0 {
			return nil
		}
	}
	_, err := v.t.c.Setattr(v.caller(), id, in)
	return err
}

func (v *view) Truncate(path string, size int64) error {
	if size < 0 {
		return unix.EINVAL
	}
	return v.at(path, true, func(n *node) error {
		switch {
		case n.isDir():
			return unix.EISDIR
		case !n.isReg():
			return unix.EINVAL
		}
		if err := v.permission(n, unix.W_OK); err != nil {
			return err
		}
		return v.setSize(n.id, nil, size)
	})
}

// setSize is do_truncate, on an open file if fh is not nil.
func (v *view) setSize(id uint64, fh *uint64, size int64) error {
	if !v.daemonTakesPrivileges() {
		if err := v.removePrivileges(id); err != nil {
			return err
		}
	}
	in := fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE | fuse.FATTR_LOCKOWNER, Size: uint64(size), LockOwner: processID}
	if fh != nil {
		in.Valid |= fuse.FATTR_FH
		in.Fh = *fh
	}
	if v.killprivV2() && !v.root() {
		in.Valid |= fuse.FATTR_KILL_SUIDGID
	}
	mu := v.t.inode(id)
	mu.Lock()
	defer mu.Unlock()
	a, err := v.t.c.Setattr(v.caller(), id, in)
	if err == nil && a.Size != uint64(size) {
		v.t.c.Frontend().Fault("SETATTR of a size replies with another size")
	}
	return err
}
