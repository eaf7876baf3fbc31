package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A change of data takes a file's set-user-ID and set-group-ID bits, unless the
// caller has CAP_FSETID; a set-group-ID bit without group execution only if the
// caller is not in the file's group. With FUSE_HANDLE_KILLPRIV_V2 the guest
// leaves that to us, but says too little (Linux 7.2):
//
//   - WRITE, and SETATTR and OPEN that truncate, say whether the caller lacks
//     CAP_FSETID. None says whether the caller is in the group: with
//     FUSE_ALLOW_IDMAP there are no ids in them at all.
//   - FALLOCATE and COPY_FILE_RANGE say nothing.
//   - Before WRITE (but not to a file with FOPEN_DIRECT_IO), FALLOCATE and
//     COPY_FILE_RANGE the guest looks at the mode that it has cached, the caller
//     and the caller's groups (file_remove_privs), and if a bit has to go its
//     thread sends a SETATTR that sets nothing.
//
// Such a SETATTR is taken for an announcement of the thread's next request and
// takes nothing itself: anybody can have it sent, by a chown(2) that names no id.
// Where the guest has not looked, or looked at another mode than the file has, a
// caller of whom we don't know better counts as one outside the group: a bit may
// go that the host would have left, never the other way round.

// privBits are the bits of the mode by which the guest decides what has to go.
const privBits = unix.S_ISUID | unix.S_ISGID | unix.S_IXGRP

const setidBits = unix.S_ISUID | unix.S_ISGID

// protoMinorLooks is the protocol of Linux 6.1, the first that looks before
// FALLOCATE.
const protoMinorLooks = 37

// tellMode notes the mode that the guest is about to be told.
func (n *inode) tellMode(mode uint16) {
	if bits := uint32(mode) & privBits; n.told.Load() != bits {
		n.told.Store(bits)
	}
}

// looked says whether the guest, if it looks at the mode, sees what is in t.st.
func (t *Thread) looked(n *inode) bool { return n.told.Load() == uint32(t.st.Mode)&privBits }

// looksBeforeWrite says whether a guest looks before it writes to n.
func (t *Thread) looksBeforeWrite(n *inode) bool {
	direct := t.fs.opts.Cache == CacheNever || t.fs.opts.Cache == CacheMetadata
	return !direct || t.isDAX(n)
}

// setid puts the mode of n into t.st and says whether a set-id bit is in it.
func (t *Thread) setid(n *inode) bool {
	return n.typ == unix.S_IFREG && t.stat(n, unix.STATX_MODE|unix.STATX_GID) == 0 && t.st.Mode&setidBits != 0
}

// killPriv readies the thread for changing the data of n on behalf of a caller
// without CAP_FSETID: the host then clears the set-id bits as for such a caller.
// looks says that the guest has looked by itself before. If killPriv returns true
// restorePriv must follow the change.
func (t *Thread) killPriv(n *inode, looks bool) bool {
	if !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2) {
		return false
	}
	saved := t.st
	defer func() { t.st = saved }()
	announced := t.announced(n)
	if !t.setid(n) {
		return false
	}
	if t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID {
		if looks && !announced && t.looked(n) || t.hdr.Gid == t.st.Gid {
			t.cred.joinGroup(t.st.Gid)
		} else {
			t.clearMode(n, unix.S_ISGID)
		}
	}
	t.cred.dropFsetid()
	return true
}

// killPrivUnsaid is killPriv for a request that does not say whether the caller
// has CAP_FSETID.
func (t *Thread) killPrivUnsaid(n *inode) bool {
	if t.hdr.Uid == 0 || !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2) {
		return false
	}
	if t.session.minor >= protoMinorLooks && n.announced.Load() != t.hdr.Pid+1 {
		saved := t.st
		nothing := !t.setid(n) || t.looked(n)
		t.st = saved
		if nothing {
			return false
		}
	}
	return t.killPriv(n, false)
}

// announcePriv serves a SETATTR that sets nothing.
func (t *Thread) announcePriv(n *inode) {
	switch {
	case !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2):
		// The guest takes the bits by FATTR_MODE, all but this one.
		if t.setid(n) && t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID {
			t.clearMode(n, unix.S_ISGID)
		}
	case t.isDAX(n):
		// The write that follows goes through the window.
		if t.setid(n) {
			t.clearMode(n, setidBits)
		}
	default:
		n.announced.Store(t.hdr.Pid + 1)
	}
}

// announced says, once, whether the request's thread has announced it.
func (t *Thread) announced(n *inode) bool {
	return n.announced.Load() == t.hdr.Pid+1 && n.announced.CompareAndSwap(t.hdr.Pid+1, 0)
}

// killSetgidAtChown takes from n, about to get another owner or group, the bit
// that the host leaves alone because the daemon may have it: set-group-ID
// without group execution. The host takes the others.
func (t *Thread) killSetgidAtChown(n *inode) {
	if t.hdr.Uid == 0 || !t.setid(n) || t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) != unix.S_ISGID || t.hdr.Gid == t.st.Gid {
		return
	}
	t.clearMode(n, unix.S_ISGID)
}

// clearMode takes bits from the mode in t.st. An error is that of a daemon that
// may not change the mode; it has no CAP_FSETID either, so the host takes the
// bits with the change that follows.
func (t *Thread) clearMode(n *inode, bits uint32) {
	fd, e := n.hold()
	if e != 0 {
		return
	}
	defer n.drop()
	_ = t.chmod(n, fd, uint32(t.st.Mode)&0o7777&^bits)
}

// restorePriv ends killPriv and dropFsetid.
func (t *Thread) restorePriv() {
	if !t.cred.restoreCaps() {
		t.unfit = true
		t.fs.stats.Bugs.Add(1)
		t.fs.log.Error("a thread could not get its capabilities back and serves nothing more; restart the daemon")
	}
}
