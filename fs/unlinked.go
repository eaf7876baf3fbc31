package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A file handle leads nowhere once the last link and the last descriptor of an
// inode are gone, while the guest may use the inode for as long as it knows it:
// by an O_PATH descriptor, as a working directory, to write its times. So one
// that is about to lose a link gets a descriptor, and [inode.unpin] leaves it one
// that has no link.

// removal is the removal of a name that is under way.
type removal struct {
	// victim is the inode of the name, held, if it is one that the guest knows.
	victim *inode
	blind  bool // there was no need to look for the victim
}

// beginRemoval readies the removal of name in dirfd; endRemoval must follow it.
// Where no inode is without a descriptor, or soon to be, it does not look for the
// victim, and none loses its descriptor until the removal ends. Without room in
// the budget for another descriptor the removal goes on all the same.
func (t *Thread) beginRemoval(dirfd int, name cstr) removal {
	b := &t.fs.budget
	b.blind.Add(1)
	if b.parked.Load() == 0 && (b.limit == 0 || b.count.Load() < b.pins) {
		return removal{blind: true}
	}
	b.blind.Add(-1)
	if e := sysStatx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, &t.st); e != 0 {
		return removal{}
	}
	n := t.fs.inodes.find(keyOf(&t.st), t.st.Btime)
	if n == nil {
		return removal{}
	}
	if _, e := n.hold(); e != 0 {
		return removal{}
	}
	return removal{victim: n}
}

func (t *Thread) endRemoval(r removal) {
	if r.blind {
		t.fs.budget.blind.Add(-1)
	}
	if r.victim != nil {
		r.victim.drop()
	}
}

// holdByFile is hold for a request that may name the open file fh, which pins an
// inode that its file handle no longer finds.
func (t *Thread) holdByFile(n *inode, named bool, fh uint64) (int, unix.Errno) {
	fd, e := n.hold()
	if e != unix.ESTALE || !named {
		return fd, e
	}
	f, e := t.file(fh, n)
	if e != 0 {
		return -1, e
	}
	defer f.drop()
	if e := t.fs.budget.reserveInode(); e != 0 {
		return -1, e
	}
	path, e := sysOpenat(unix.AT_FDCWD, t.fdName(f.fd), unix.O_PATH, 0)
	if e != 0 {
		t.fs.budget.release()
		return -1, e
	}
	n.pin(path)
	return n.hold()
}

// goneTimes answers a SETATTR of an inode that no longer exists, removed on the
// host or when there was no room for a descriptor. A guest that keeps the times
// writes them back when it likes and would report an error to whoever closes or
// syncs next, though nothing that anyone can read is lost. Every other change is
// ESTALE.
func (t *Thread) goneTimes(n *inode, in *fuse.SetAttrIn) (int, unix.Errno) {
	const late = fuse.FATTR_MTIME | fuse.FATTR_CTIME | fuse.FATTR_FH
	if !t.session.has(fuse.CAP_WRITEBACK_CACHE) || in.Valid&fuse.FATTR_MTIME == 0 || in.Valid&^late != 0 {
		return 0, unix.ESTALE
	}
	out := overlay[fuse.AttrOut](t.payload())
	*out = fuse.AttrOut{Attr: fuse.Attr{Ino: n.key.ino, Mode: n.typ, Mtime: in.Mtime, Mtimensec: in.Mtimensec, Ctime: in.Ctime, Ctimensec: in.Ctimensec}}
	return sizeOf[fuse.AttrOut](), 0
}
