package fs

import (
	"bytes"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A change of owner takes a file's set-id bits and security.capability on the
// host. chown(2) means it to; but the guest's kernel also changes owners by itself
// and means to keep them: overlayfs, which gives the copy of a file that it makes
// on the share its attributes, its size, its mode and then its owner. Both send
// the same SETATTR, with FATTR_KILL_SUIDGID if FUSE_HANDLE_KILLPRIV_V2 is on. What
// comes before tells them apart (Linux 2.6.25 to 7.2):
//
//   - chown(2), and a file server in the guest's kernel for its clients, ask for
//     security.capability first (ATTR_KILL_PRIV in notify_change). The guest
//     caches no attribute, and its thread holds the inode's lock over the
//     GETXATTR and the SETATTR.
//   - overlayfs asks for nothing. Its thread sends the SETATTR of the owner right
//     after that of the mode, in one hold of the lock.
//
// So it is noted when a thread sets a mode; any other SETATTR of that thread but of
// times, and a GETXATTR of security.capability, take the note away. A SETATTR of both ids and
// nothing else that finds the note keeps what the file has, if its mode still is
// the one that was set. No process of the guest can have its chown(2) taken for
// overlayfs's, for it can't come between its own GETXATTR and SETATTR. No process
// of the host can by changing its file's mode at the right moment, for a mode that
// the guest's kernel has not set is not kept. One that wrote to the file while the
// owner changes would have to reach what overlayfs has not yet moved out of its
// work directory, which is root's and closed. And a user who mounts an overlayfs in
// a user namespace has what is kept by chown(2) and a chmod(2) after it too.
//
// Before, the size: the host takes security.capability even when that stays the
// same. From a thread that has just set the attribute such a SETATTR changes
// nothing but the time, and nobody gains by it.
//
// Nothing is kept where the guest might not ask: it has been told that there are no
// extended attributes, by us or by a daemon before us, or it is no Linux that
// offers FUSE_HANDLE_KILLPRIV_V2 (5.11). Nor on a file system with other clients,
// whose changes of the mode may be seen late.

var capabilityName = cstr("security.capability\x00")

// setNotes says what threads of the guest have just set of a file, for about as
// many as do so at a time.
type setNotes [16]setNote

type setNote struct {
	mu   sync.Mutex
	pid  uint32 // 0: no note
	node uint64
	what uint32 // a mode, or one of the two below
}

const (
	setNothing    = ^uint32(0)
	setCapability = setNothing - 1 // security.capability
)

func (s *setNotes) put(pid uint32, node uint64, what uint32) {
	n := &s[pid%uint32(len(s))]
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pid, n.node, n.what = pid, node, what
}

// take returns what the thread pid has just set of node, once.
func (s *setNotes) take(pid uint32, node uint64) (what uint32) {
	n := &s[pid%uint32(len(s))]
	n.mu.Lock()
	defer n.mu.Unlock()
	if pid == 0 || n.pid != pid {
		return setNothing
	}
	n.pid = 0
	if n.node != node {
		return setNothing
	}
	return n.what
}

// noteSet notes that the request's thread has set something of n.
func (t *Thread) noteSet(n *inode, what uint32) {
	if n.typ == unix.S_IFREG && !n.mnt.slow && t.fs.opts.Xattr && !t.session.inherited &&
		t.session.offered&fuse.CAP_HANDLE_KILLPRIV_V2 != 0 {
		t.fs.set.put(t.hdr.Pid, n.id, what)
	}
}

// looksForCapability takes note that the guest asks for the attribute name.
func (t *Thread) looksForCapability(name cstr) {
	if bytes.Equal(name, capabilityName) {
		t.fs.set.take(t.hdr.Pid, 0)
	}
}

// lastSet returns what the request's thread has set of n before this SETATTR. One of
// times alone comes when the guest writes back, in between.
func (t *Thread) lastSet(n *inode, in *fuse.SetAttrIn) uint32 {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_SIZE) == 0 {
		return setNothing
	}
	return t.fs.set.take(t.hdr.Pid, n.id)
}

// setattrOf is what a SETATTR sets, the time of the inode's change aside.
func setattrOf(in *fuse.SetAttrIn) uint32 {
	return in.Valid &^ (fuse.FATTR_FH | fuse.FATTR_LOCKOWNER | fuse.FATTR_CTIME)
}

// keepsSize serves a SETATTR that sets the size which n, held as fd, has already,
// if nothing else is to come of it. last is what its thread has set before.
func (t *Thread) keepsSize(n *inode, fd int, in *fuse.SetAttrIn, last uint32) bool {
	if last != setCapability || setattrOf(in) != fuse.FATTR_SIZE || t.stat(n, unix.STATX_SIZE) != 0 || t.st.Size != in.Size {
		return false
	}
	return t.utimens(fd, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{Valid: fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW}}) == 0
}

// keptPriv is what a change of owner is to leave.
type keptPriv struct {
	mode       uint32 // 0: no bits
	capability []byte
}

// keepPriv returns what a SETATTR of the owner of n, held as fd, is to leave. last
// is what its thread has set before.
func (t *Thread) keepPriv(n *inode, fd int, in *fuse.SetAttrIn, last uint32) (k keptPriv) {
	if last > 0o7777 || setattrOf(in)&^fuse.FATTR_KILL_SUIDGID != fuse.FATTR_UID|fuse.FATTR_GID ||
		t.stat(n, unix.STATX_MODE) != 0 || uint32(t.st.Mode)&0o7777 != last {
		return k
	}
	if last&setidBits != 0 {
		k.mode = last
	}
	value := make([]byte, 64) // struct vfs_ns_cap_data has 24
	if got, e := sysGetxattr(t.fdName(fd), capabilityName, value); e == 0 {
		k.capability = value[:got]
	}
	return k
}

// putBack ends keepPriv once the owner has changed. What it can't put back is gone,
// as after any other change of owner.
func (t *Thread) putBack(n *inode, fd int, k *keptPriv) {
	if k.mode != 0 && t.stat(n, unix.STATX_MODE) == 0 && uint32(t.st.Mode)&0o7777&^setidBits == k.mode&^setidBits {
		_ = t.chmod(n, fd, k.mode)
	}
	if len(k.capability) > 0 {
		_ = t.setXattrFD(fd, capabilityName, k.capability, unix.XATTR_CREATE)
	}
}
