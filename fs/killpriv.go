package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// killPriv readies the thread for changing the data of n on behalf of a caller
// without CAP_FSETID, where the guest has left to us what that does to the
// set-id bits (FUSE_HANDLE_KILLPRIV_V2): the host then clears them as for such a
// caller. If it returns true restorePriv must follow the change.
//
// A set-group-ID bit without group execution is cleared for callers outside the
// group only. The guest tells no groups, and by the protocol leaves the bit, so
// the thread becomes a member.
func (t *Thread) killPriv(n *inode) bool {
	if !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2) {
		return false
	}
	saved := t.st
	defer func() { t.st = saved }()
	if t.stat(n, unix.STATX_MODE|unix.STATX_GID) != 0 || t.st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return false
	}
	t.cred.dropFsetid()
	if t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID {
		t.cred.joinGroup(t.st.Gid)
	}
	return true
}

// restorePriv ends killPriv and dropFsetid.
func (t *Thread) restorePriv() {
	if !t.cred.restoreCaps() {
		t.unfit = true
		t.fs.stats.Bugs.Add(1)
		t.fs.log.Error("a thread could not get its capabilities back and serves nothing more; restart the daemon")
	}
}
