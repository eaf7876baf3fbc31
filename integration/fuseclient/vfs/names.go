package vfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// create is filename_create and what follows it for mkdir, mknod, symlink and link.
func (v *view) create(path string, isDir bool, do func(dir *node, name string) (fuse.EntryOut, error)) error {
	return v.in(path, func(dir *node, l last) error {
		if l.special() {
			return unix.EEXIST
		}
		n, err := v.lookup(dir, l.name)
		v.t.forget(n)
		switch {
		case err == nil:
			return unix.EEXIST
		case err != unix.ENOENT:
			return err
		case l.slash && !isDir:
			return unix.ENOENT
		}
		if err := v.mayCreate(dir); err != nil {
			return err
		}
		e, err := do(dir, l.name)
		if err == nil {
			v.t.forget(node{id: e.NodeId, owned: true})
		}
		return err
	})
}

func (v *view) Mkdir(path string, mode uint32) error {
	return v.create(path, true, func(dir *node, name string) (fuse.EntryOut, error) {
		mode := v.newMode(dir, unix.S_IFDIR|mode&0o1777)
		return v.t.c.Mkdir(v.creator(), dir.id, name, mode&^unix.S_IFMT, v.umask, v.extensions(dir))
	})
}

func (v *view) Mknod(path string, mode uint32, dev uint64) error {
	switch mode & unix.S_IFMT {
	case 0:
		mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
	case unix.S_IFDIR:
		return unix.EPERM
	default:
		return unix.EINVAL
	}
	return v.create(path, false, func(dir *node, name string) (fuse.EntryOut, error) {
		if t := mode & unix.S_IFMT; (t == unix.S_IFCHR || t == unix.S_IFBLK) && !v.root() {
			return fuse.EntryOut{}, unix.EPERM
		}
		return v.t.c.Mknod(v.creator(), dir.id, name, v.newMode(dir, mode), encodeDev(dev), v.umask, v.extensions(dir))
	})
}

// encodeDev is new_encode_dev.
func encodeDev(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func (v *view) Symlink(target, path string) error {
	switch {
	case target == "":
		return unix.ENOENT
	case len(target) >= pathMax:
		return unix.ENAMETOOLONG
	}
	return v.create(path, false, func(dir *node, name string) (fuse.EntryOut, error) {
		return v.t.c.Symlink(v.creator(), dir.id, name, target, v.extensions(dir))
	})
}

func (v *view) Link(oldpath, newpath string) error {
	return v.at(oldpath, false, func(old *node) error { return v.link(old, newpath) })
}

func (v *view) link(old *node, newpath string) error {
	return v.create(newpath, false, func(dir *node, name string) (fuse.EntryOut, error) {
		if old.isDir() {
			return fuse.EntryOut{}, unix.EPERM
		}
		return v.t.c.Link(v.caller(), old.id, dir.id, name)
	})
}

func (v *view) Unlink(path string) error {
	return v.in(path, func(dir *node, l last) error {
		if l.special() {
			return unix.EISDIR
		}
		n, err := v.lookup(dir, l.name)
		if err != nil {
			return err
		}
		defer v.t.forget(n)
		if l.slash {
			if n.isDir() {
				return unix.EISDIR
			}
			return unix.ENOTDIR
		}
		if err := v.mayDelete(dir, &n, false); err != nil {
			return err
		}
		return v.t.c.Unlink(v.caller(), dir.id, l.name)
	})
}

func (v *view) Rmdir(path string) error {
	return v.in(path, func(dir *node, l last) error {
		switch l.name {
		case ".":
			return unix.EINVAL
		case "..":
			return unix.ENOTEMPTY
		}
		n, err := v.lookup(dir, l.name)
		if err != nil {
			return err
		}
		defer v.t.forget(n)
		if err := v.mayDelete(dir, &n, true); err != nil {
			return err
		}
		err = v.t.c.Rmdir(v.caller(), dir.id, l.name)
		if err == nil {
			v.t.removed(n.id)
		}
		return err
	})
}

// Rename follows do_renameat2 and vfs_rename.
func (v *view) Rename(oldpath, newpath string, flags uint) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 ||
		flags&unix.RENAME_EXCHANGE != 0 && flags&(unix.RENAME_NOREPLACE|unix.RENAME_WHITEOUT) != 0 {
		return unix.EINVAL
	}
	var dirs []moved
	err := retryStale(func() (err error) {
		dirs, err = v.rename(oldpath, newpath, flags)
		return err
	})
	for _, m := range dirs {
		v.moved(m.id, m.path)
	}
	return err
}

// moved is a directory that was moved, and where to.
type moved struct {
	id   uint64
	path string
}

func (v *view) rename(oldpath, newpath string, flags uint) ([]moved, error) {
	from, to := v.walk(), v.walk()
	defer from.close()
	defer to.close()
	oldLast, err := from.toParent(oldpath)
	if err != nil {
		return nil, err
	}
	newLast, err := to.toParent(newpath)
	if err != nil {
		return nil, err
	}
	if oldLast.special() {
		return nil, unix.EBUSY
	}
	if newLast.special() {
		if flags&unix.RENAME_NOREPLACE != 0 {
			return nil, unix.EEXIST
		}
		return nil, unix.EBUSY
	}
	defer v.t.lockTwo(from.top().id, to.top().id)()
	old, err := v.lookup(from.top(), oldLast.name)
	if err != nil {
		return nil, err
	}
	defer v.t.forget(old)
	victim, err := v.lookup(to.top(), newLast.name)
	if err != nil && err != unix.ENOENT {
		return nil, err
	}
	exists := err == nil
	defer v.t.forget(victim)
	exchange := flags&unix.RENAME_EXCHANGE != 0
	switch {
	case flags&unix.RENAME_NOREPLACE != 0 && exists:
		return nil, unix.EEXIST
	case exchange && !exists:
		return nil, unix.ENOENT
	case exchange && newLast.slash && !victim.isDir():
		return nil, unix.ENOTDIR
	case !old.isDir() && (oldLast.slash || !exchange && newLast.slash):
		return nil, unix.ENOTDIR
	case below(to.stack, old.id):
		return nil, unix.EINVAL // into itself
	case exists && below(from.stack, victim.id):
		if exchange {
			return nil, unix.EINVAL
		}
		return nil, unix.ENOTEMPTY
	}
	if err := v.mayRename(from.top(), to.top(), &old, &victim, exists, exchange); err != nil {
		return nil, err
	}
	if exists && old.id == victim.id {
		return nil, nil
	}
	caller := v.caller()
	if flags&unix.RENAME_WHITEOUT != 0 {
		caller = v.creator()
	}
	err = v.t.c.Rename(caller, from.top().id, oldLast.name, to.top().id, newLast.name, uint32(flags))
	if err != nil {
		return nil, err
	}
	var dirs []moved
	if old.isDir() && from.top().id != to.top().id {
		dirs = append(dirs, moved{old.id, newpath})
	}
	if exists && victim.isDir() {
		if !exchange {
			v.t.removed(victim.id)
		} else if from.top().id != to.top().id {
			dirs = append(dirs, moved{victim.id, oldpath})
		}
	}
	return dirs, nil
}

// below says whether a directory is on the way that was walked.
func below(way []node, id uint64) bool {
	for _, n := range way {
		if n.id == id {
			return true
		}
	}
	return false
}

func (v *view) mayRename(from, to, old, victim *node, exists, exchange bool) error {
	if exists && old.id == victim.id {
		return nil
	}
	if err := v.mayDelete(from, old, old.isDir()); err != nil {
		return err
	}
	if !exists {
		if err := v.mayCreate(to); err != nil {
			return err
		}
	} else if err := v.mayDelete(to, victim, exchange && victim.isDir() || !exchange && old.isDir()); err != nil {
		return err
	}
	if from.id != to.id { // ".." changes
		if old.isDir() {
			if err := v.permission(old, unix.W_OK); err != nil {
				return err
			}
		}
		if exchange && victim.isDir() {
			return v.permission(victim, unix.W_OK)
		}
	}
	return nil
}

func (v *view) Readlink(path string) (target string, err error) {
	err = v.at(path, false, func(n *node) error {
		if !n.isLink() {
			return unix.EINVAL
		}
		target, err = v.t.c.Readlink(v.caller(), n.id)
		return err
	})
	return target, err
}
