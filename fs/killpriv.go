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
//   - WRITE to a file with FOPEN_DIRECT_IO says it without
//     FUSE_HANDLE_KILLPRIV_V2 too, for nobody else takes the bits then.
//   - Before WRITE (but not to a file with FOPEN_DIRECT_IO), FALLOCATE and
//     COPY_FILE_RANGE the guest looks at the mode that it has cached, the caller
//     and the caller's groups (file_remove_privs), and if a bit has to go its
//     thread sends a SETATTR that sets nothing.
//
// Such a SETATTR is taken for an announcement of the thread's next request and
// takes nothing itself: anybody can have it sent, by a chown(2) that names no id.
// For a file in the window that somebody has open for writing, where no request
// need follow, it does take the bits that it surely means, whoever had it sent.
// Without FUSE_HANDLE_KILLPRIV_V2 the guest would ask for security.capability
// before each write there: ten times as slow.
// Where that does not tell whether a set-group-ID bit without group execution,
// by which nobody gains anything, has to go, requests that speak of the bits
// leave it, as the protocol says of them, and the others take it.

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

// caller is what a request that changes data says of its caller.
type caller uint8

const (
	callerHasFsetid caller = iota
	callerLacksFsetid
	callerUnsaid // whether or not
)

// changeAs runs change, which changes the data of n, with the thread readied for
// it by killPriv. However change ends, or killPriv, the thread has its
// capabilities and its group again after it.
func (t *Thread) changeAs(c caller, n *inode, looks bool, change func() (int, unix.Errno)) (int, unix.Errno) {
	if c == callerHasFsetid || c == callerUnsaid && !t.mayLackFsetid(n) {
		return change()
	}
	defer t.restorePriv()
	t.killPriv(n, c == callerLacksFsetid, looks)
	return change()
}

// killPriv readies the thread for changing the data of n on behalf of a caller
// without CAP_FSETID: the host then clears the set-id bits as for such a caller.
// said says that the request speaks of it, looks that the guest has looked by
// itself before. Only changeAs calls it.
func (t *Thread) killPriv(n *inode, said, looks bool) {
	saved := t.st
	defer func() { t.st = saved }()
	announced, suid := t.announced(n)
	if !t.setid(n) {
		return
	}
	gone := uint32(0)
	switch {
	case t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) != unix.S_ISGID:
	case t.setgidStays(n, said, looks, announced, suid || t.st.Mode&unix.S_ISUID != 0):
		t.cred.joinGroup(t.st.Gid)
	default:
		gone = unix.S_ISGID
	}
	if n.mnt.slow {
		// The host's kernel may leave it to a server, which takes us for root
		// whatever capabilities we have here: NFS does.
		gone |= unix.S_ISUID
		if t.st.Mode&unix.S_IXGRP != 0 {
			gone |= unix.S_ISGID
		}
	}
	if uint32(t.st.Mode)&gone != 0 {
		t.clearMode(n, gone)
	}
	t.cred.dropFsetid()
}

// setgidStays decides on the set-group-ID bit of a file without group execution,
// whose mode is in t.st, when its data changes. suid says that what was announced
// may have been the other bit.
func (t *Thread) setgidStays(n *inode, said, looks, announced, suid bool) bool {
	if t.hdr.Gid == t.st.Gid {
		return true
	}
	if looks && t.looked(n) {
		if !announced {
			return true
		}
		if !suid {
			return false
		}
	}
	return said && t.hdr.Uid == invalidUID
}

// mayLackFsetid says whether the caller of a request that changes the data of n and
// does not say so may lack CAP_FSETID.
func (t *Thread) mayLackFsetid(n *inode) bool {
	if v := n.announced.Load(); v != 0 && v&^announcedSuid == t.announcer() {
		// Root without the capability announces it, too.
		return true
	}
	if t.hdr.Uid == 0 || !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2) {
		return false
	}
	// What the guest of a session that was taken over looks at is not known, but
	// that it does if it leaves out its ids.
	if t.session.minor >= protoMinorLooks && (!t.session.inherited || t.hdr.Uid == invalidUID) {
		saved := t.st
		nothing := !t.setid(n) || t.looked(n)
		t.st = saved
		if nothing {
			return false
		}
	}
	return true
}

// announcePriv serves a SETATTR that sets nothing.
func (t *Thread) announcePriv(n *inode) {
	// Who stores, or is about to write, has the file open for it. Of a session that
	// was taken over it is not known who has.
	stored := n.writers.Load() > 0 || t.session.inherited
	if t.session.inherited {
		// What this session has agreed on is not known either.
		n.announced.Store(t.announcer())
	}
	switch {
	case !t.session.has(fuse.CAP_HANDLE_KILLPRIV_V2):
		// The guest takes the bits by FATTR_MODE, all but this one.
		if stored && t.setid(n) && t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID {
			t.clearMode(n, unix.S_ISGID)
		}
	case stored && t.isDAX(n):
		// What follows may be a write through the window, or a request.
		if t.setid(n) {
			bits := announcedBits(uint32(t.st.Mode))
			t.clearMode(n, bits)
			by := t.announcer()
			if bits&unix.S_ISUID != 0 {
				by |= announcedSuid
			}
			n.announced.Store(by)
		}
	default:
		n.announced.Store(t.announcer())
	}
}

// announcedBits are the bits of mode that a guest which announces a change of the
// data surely means: with set-user-ID it may be that bit alone.
func announcedBits(mode uint32) uint32 {
	if mode&privBits == unix.S_ISUID|unix.S_ISGID {
		return unix.S_ISUID
	}
	return mode & setidBits
}

// announcedSuid is in an announcement with which set-user-ID was taken at once.
const announcedSuid = 1 << 31

// announcer is the request's thread as an announcement has it, which leaves out
// what no thread of Linux has in its number.
func (t *Thread) announcer() uint32 { return (t.hdr.Pid + 1) &^ announcedSuid }

// announced says, once, whether the request's thread has announced it, and
// whether set-user-ID was taken then.
func (t *Thread) announced(n *inode) (announced, suid bool) {
	v := n.announced.Load()
	if v == 0 || v&^announcedSuid != t.announcer() || !n.announced.CompareAndSwap(v, 0) {
		return false, false
	}
	return true, v&announcedSuid != 0
}

// killSetgidAtChown takes from n, about to get another owner or group, the bit
// that the host leaves alone because the daemon may have it: set-group-ID
// without group execution. The host takes the others.
func (t *Thread) killSetgidAtChown(n *inode) {
	if t.hdr.Uid == 0 || t.hdr.Uid == invalidUID || !t.setid(n) || t.st.Mode&(unix.S_ISGID|unix.S_IXGRP) != unix.S_ISGID || t.hdr.Gid == t.st.Gid {
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

// restorePriv ends killPriv, dropFsetid and joinGroup, as far as they have come.
func (t *Thread) restorePriv() {
	if !t.cred.restoreCaps() {
		t.unfit = true
		t.fs.stats.Bugs.Add(1)
		t.fs.log.Error("a thread could not get its capabilities back and serves nothing more; restart the daemon")
	}
}
