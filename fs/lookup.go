package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// statxMask is what an inode's identity and attributes need.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// lookup serves FUSE_LOOKUP.
func (t *Thread) lookup() (int, unix.Errno) {
	name, e := t.name(inHeaderLen)
	if e != 0 {
		return 0, e
	}
	dir, fd, e := t.holdDir(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer dir.drop()
	n, e := t.resolve(fd, name)
	if e != 0 {
		return 0, e
	}
	return t.entry(overlay[fuse.EntryOut](t.payload()), dir, n), 0
}

// resolve returns the inode of name in the directory dirfd with one more
// lookup, and leaves its attributes in t.st. A name whose inode is known costs
// one system call, and a new one two where the one before was new too.
func (t *Thread) resolve(dirfd int, name cstr) (*inode, unix.Errno) {
	openFirst := t.missed
	if !openFirst {
		if e := sysStatx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, &t.st); e != 0 {
			return nil, e
		}
		if n := t.fs.inodes.claimPinned(keyOf(&t.st), t.st.Btime); n != nil {
			return n, 0
		}
		t.missed = true
	}
	if e := t.fs.budget.reserveInode(); e != 0 {
		t.missed = false
		if openFirst {
			// The guest may know it, and no descriptor be needed.
			return t.resolve(dirfd, name)
		}
		return nil, e
	}
	fd, e := sysOpenat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if e == 0 {
		// What was said before may be about another file of that name.
		if e = sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, statxMask, &t.st); e != 0 {
			unix.Close(fd)
		}
	}
	if e != 0 {
		t.fs.budget.release()
		return nil, e
	}
	n, isNew, e := t.fs.inodes.claimOrAdd(t.fs, &t.st, fd)
	t.missed = isNew
	return n, e
}

// entry fills in the reply about n, found in dir, from t.st, and returns its length.
func (t *Thread) entry(out *fuse.EntryOut, dir, n *inode) int {
	*out = fuse.EntryOut{NodeId: n.id}
	setTimeout(&out.EntryValid, &out.EntryValidNsec, t.fs.entryTimeout)
	current := t.showSize(n)
	fillAttr(&out.Attr, &t.st)
	n.tellMode(t.st.Mode)
	out.Attr.Flags = t.attrFlags(dir, n)
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.attrTimeout(n, out.Attr.Flags, current))
	return sizeOf[fuse.EntryOut]()
}

// attrFlags are the flags of fuse_attr for n, with its attributes in t.st, as
// seen from dir.
func (t *Thread) attrFlags(dir, n *inode) uint32 {
	if n.typ == unix.S_IFREG {
		if t.session.has(fuse.CAP_HAS_INODE_DAX) && t.wantDAX(n) {
			return fuse.ATTR_DAX
		}
		return 0
	}
	if n.typ == unix.S_IFDIR && t.session.has(fuse.CAP_SUBMOUNTS) && (n.key.mnt != dir.key.mnt || n.key.dev != dir.key.dev) {
		return fuse.ATTR_SUBMOUNT
	}
	return 0
}

func setTimeout(sec *uint64, nsec *uint32, d time.Duration) {
	*sec = uint64(d / time.Second)
	*nsec = uint32(d % time.Second)
}

func fillAttr(a *fuse.Attr, st *unix.Statx_t) {
	a.Ino = st.Ino
	a.Size = st.Size
	a.Blocks = st.Blocks
	a.Atime, a.Atimensec = uint64(st.Atime.Sec), st.Atime.Nsec
	a.Mtime, a.Mtimensec = uint64(st.Mtime.Sec), st.Mtime.Nsec
	a.Ctime, a.Ctimensec = uint64(st.Ctime.Sec), st.Ctime.Nsec
	a.Mode = uint32(st.Mode)
	a.Nlink = st.Nlink
	a.Uid = st.Uid
	a.Gid = st.Gid
	// The kernel's new_encode_dev, as FUSE carries it.
	a.Rdev = st.Rdev_minor&0xff | st.Rdev_major<<8 | st.Rdev_minor&^0xff<<12
	a.Blksize = st.Blksize
}

// forget serves FUSE_FORGET.
func (t *Thread) forget() (int, unix.Errno) {
	in := overlay[fuse.ForgetIn](t.in)
	t.forgetOne(in.NodeId, in.Nlookup)
	return 0, 0
}

func (t *Thread) forgetOne(id, count uint64) {
	if !t.fs.inodes.forget(id, count) && !t.session.inherited {
		t.fs.bad("forget", "FORGET names an inode that the guest does not have, or more lookups than it made")
	}
}

// batchForget serves FUSE_BATCH_FORGET.
func (t *Thread) batchForget() (int, unix.Errno) {
	in := overlay[batchForgetIn](t.in)
	rest := t.in[sizeOf[batchForgetIn]():]
	size := sizeOf[forgetOne]()
	if uint64(in.Count)*uint64(size) > uint64(len(rest)) {
		t.fs.bad("forget", "BATCH_FORGET counts more entries than it holds")
		return 0, unix.EINVAL
	}
	for i := range int(in.Count) {
		one := overlay[forgetOne](rest[i*size:])
		t.forgetOne(one.NodeID, one.Nlookup)
	}
	return 0, 0
}
