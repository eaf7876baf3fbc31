package vfs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (v *view) root() bool { return v.cred.UID == 0 }

func (v *view) inGroup(gid uint32) bool {
	return gid == v.cred.GID || slices.Contains(v.cred.Groups, gid)
}

// permission is generic_permission; mask is of R_OK, W_OK, X_OK.
func (v *view) permission(n *node, mask uint32) error {
	mode := n.attr.Mode
	if v.root() {
		if n.isDir() || mask&unix.X_OK == 0 || mode&0o111 != 0 {
			return nil
		}
		return unix.EACCES
	}
	switch {
	case n.attr.Uid == v.cred.UID:
		mode >>= 6
	case v.inGroup(n.attr.Gid):
		mode >>= 3
	}
	if mask&^mode&7 != 0 {
		return unix.EACCES
	}
	return nil
}

// owner is inode_owner_or_capable.
func (v *view) owner(n *node) bool { return v.root() || n.attr.Uid == v.cred.UID }

// mayCreate is may_create for an entry of dir.
func (v *view) mayCreate(dir *node) error {
	if dir.attr.Nlink == 0 {
		return unix.ENOENT
	}
	return v.permission(dir, unix.W_OK|unix.X_OK)
}

// mayDelete is may_delete: removing victim from dir, as a directory or as something else.
func (v *view) mayDelete(dir, victim *node, isDir bool) error {
	if err := v.permission(dir, unix.W_OK|unix.X_OK); err != nil {
		return err
	}
	if dir.attr.Mode&unix.S_ISVTX != 0 && !v.owner(victim) && !v.owner(dir) {
		return unix.EPERM
	}
	switch {
	case isDir && !victim.isDir():
		return unix.ENOTDIR
	case isDir && victim.id == 1:
		return unix.EBUSY
	case !isDir && victim.isDir():
		return unix.EISDIR
	}
	return nil
}

// newMode is vfs_prepare_mode and the umask, which the daemon applies if it asked to.
func (v *view) newMode(dir *node, mode uint32) uint32 {
	if mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP && mode&unix.S_IFMT != unix.S_IFDIR &&
		dir.attr.Mode&unix.S_ISGID != 0 && !v.root() && !v.inGroup(dir.attr.Gid) {
		mode &^= unix.S_ISGID
	}
	if v.t.c.Flags&fuse.CAP_DONT_MASK == 0 {
		mode &^= v.umask
	}
	return mode
}

// dropsPrivileges is setattr_should_drop_suidgid: whether a write by this caller takes set-id bits away.
func (v *view) dropsPrivileges(mode, gid uint32) bool {
	if v.root() || mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	return mode&unix.S_ISUID != 0 || mode&unix.S_ISGID != 0 && (mode&unix.S_IXGRP != 0 || !v.inGroup(gid))
}

func (v *view) killprivV2() bool { return v.t.c.Flags&fuse.CAP_HANDLE_KILLPRIV_V2 != 0 }

// removePrivileges is file_remove_privs, __remove_privs and fuse_setattr: a SETATTR that sets nothing if the daemon
// takes the bits, or if none is left that this kernel would take.
func (v *view) removePrivileges(id uint64) error {
	if v.root() {
		return nil
	}
	a, err := v.getattr(id)
	if err != nil || !v.dropsPrivileges(a.Mode, a.Gid) {
		return err
	}
	var in fuse.SetAttrInCommon
	if !v.daemonTakesPrivileges() && withoutSetID(a.Mode) != a.Mode {
		in.Valid, in.Mode = fuse.FATTR_MODE, withoutSetID(a.Mode)
	}
	_, err = v.t.c.Setattr(v.caller(), id, in)
	return err
}

func (v *view) daemonTakesPrivileges() bool {
	return v.t.c.Flags&(fuse.CAP_HANDLE_KILLPRIV|fuse.CAP_HANDLE_KILLPRIV_V2) != 0
}

func withoutSetID(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

func (v *view) setMode(id uint64, mode uint32) error {
	_, err := v.t.c.Setattr(v.caller(), id, fuse.SetAttrInCommon{Valid: fuse.FATTR_MODE, Mode: mode})
	return err
}
