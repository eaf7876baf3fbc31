package vfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrNameMax = 255
	xattrSizeMax = 65536
)

// mayXattr is xattr_permission and the capability checks of cap_inode_setxattr.
func (v *view) mayXattr(n *node, name string, write bool) error {
	denied := unix.ENODATA
	if write {
		denied = unix.EPERM
	}
	switch {
	case strings.HasPrefix(name, "security."):
		if write && !v.root() {
			return unix.EPERM
		}
		return nil
	case strings.HasPrefix(name, "system."):
		if write && !v.owner(n) {
			return unix.EPERM
		}
		return nil
	case strings.HasPrefix(name, "trusted."):
		if !v.root() {
			return denied
		}
		return nil
	case strings.HasPrefix(name, "user."):
		if !n.isReg() && !n.isDir() {
			return denied
		}
		if n.isDir() && n.attr.Mode&unix.S_ISVTX != 0 && write && !v.owner(n) {
			return unix.EPERM
		}
	default:
		return unix.EOPNOTSUPP
	}
	if write {
		return v.permission(n, unix.W_OK)
	}
	return v.permission(n, unix.R_OK)
}

func checkXattrName(name string) error {
	if name == "" || len(name) > xattrNameMax {
		return unix.ERANGE
	}
	return nil
}

// unsupported is how Linux reports that the daemon has no extended attributes.
func unsupported(err error) error {
	if err == unix.ENOSYS {
		return unix.EOPNOTSUPP
	}
	return err
}

func (v *view) getxattr(id uint64, name string, dst []byte) (int, error) {
	if err := checkXattrName(name); err != nil {
		return 0, err
	}
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return 0, err
	}
	if err := v.mayXattr(&n, name, false); err != nil {
		return 0, err
	}
	got, err := v.t.c.Getxattr(v.caller(), id, name, dst)
	return got, unsupported(err)
}

func (v *view) setxattr(id uint64, name string, value []byte, flags int) error {
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return unix.EINVAL
	}
	if err := checkXattrName(name); err != nil {
		return err
	}
	if len(value) > xattrSizeMax {
		return unix.E2BIG
	}
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	if err := v.mayXattr(&n, name, true); err != nil {
		return err
	}
	return unsupported(v.t.c.Setxattr(v.caller(), id, name, value, uint32(flags), 0))
}

func (v *view) listxattr(id uint64, dst []byte) (int, error) {
	n, err := v.t.c.Listxattr(v.caller(), id, dst)
	return n, unsupported(err)
}

func (v *view) removexattr(id uint64, name string) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	n := node{id: id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	if err := v.mayXattr(&n, name, true); err != nil {
		return err
	}
	return unsupported(v.t.c.Removexattr(v.caller(), id, name))
}

func (v *view) Getxattr(path, name string, dst []byte) (n int, err error) {
	err = v.at(path, true, func(f *node) error { n, err = v.getxattr(f.id, name, dst); return err })
	return n, err
}

func (v *view) Lgetxattr(path, name string, dst []byte) (n int, err error) {
	err = v.at(path, false, func(f *node) error { n, err = v.getxattr(f.id, name, dst); return err })
	return n, err
}

func (v *view) Setxattr(path, name string, value []byte, flags int) error {
	return v.at(path, true, func(f *node) error { return v.setxattr(f.id, name, value, flags) })
}

func (v *view) Lsetxattr(path, name string, value []byte, flags int) error {
	return v.at(path, false, func(f *node) error { return v.setxattr(f.id, name, value, flags) })
}

func (v *view) Listxattr(path string, dst []byte) (n int, err error) {
	err = v.at(path, true, func(f *node) error { n, err = v.listxattr(f.id, dst); return err })
	return n, err
}

func (v *view) Llistxattr(path string, dst []byte) (n int, err error) {
	err = v.at(path, false, func(f *node) error { n, err = v.listxattr(f.id, dst); return err })
	return n, err
}

func (v *view) Removexattr(path, name string) error {
	return v.at(path, true, func(f *node) error { return v.removexattr(f.id, name) })
}

func (v *view) Lremovexattr(path, name string) error {
	return v.at(path, false, func(f *node) error { return v.removexattr(f.id, name) })
}
