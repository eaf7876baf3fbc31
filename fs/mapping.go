package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// daxFile lets the owner of the window open the inode that a thread maps.
type daxFile struct {
	t *Thread
	n *inode
}

// OpenDAX implements dax.File.
func (f *daxFile) OpenDAX(write bool) (int, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	if f.n.typ != unix.S_IFREG {
		return -1, unix.EINVAL
	}
	fd, e := f.n.openFile(f.t, flags)
	if e != 0 {
		return -1, e
	}
	return fd, nil
}

// setupmapping serves FUSE_SETUPMAPPING. The guest's inode lock is held while it
// waits, and the front-end has to do its part, so no request that waits for a
// device may be in front of it.
func (t *Thread) setupmapping() (int, unix.Errno) {
	in := overlay[setupmappingIn](t.in)
	if !t.fs.opts.DAX.On() {
		return 0, never
	}
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	if n.typ != unix.S_IFREG {
		return 0, unix.EINVAL
	}
	flags := in.Flags
	if t.fs.opts.ReadOnly {
		if flags&dax.SetupWrite != 0 {
			return 0, unix.EROFS
		}
	}
	if !t.mayBlock {
		return t.detach()
	}
	if _, e := n.hold(); e != 0 {
		return 0, e
	}
	defer n.drop()
	t.file2 = daxFile{t, n}
	for delay := lockPollMin; ; delay = min(2*delay, lockPollMax) {
		err := t.fs.opts.DAX.SetupMapping(t.op, &n.dax, &t.file2, in.Foffset, in.Moffset, in.Len, flags)
		if err != dax.ErrSuspended {
			return 0, errnoOf(err)
		}
		// A pause of the guest, which is not to see any of it: the queue is
		// about to stop, and the request is served again when it goes on.
		if !t.fs.locks.pause(t.queue, delay) {
			t.verdict = device.Requeue
			return 0, 0
		}
	}
}

const removemappingOne = 16

// removemapping serves FUSE_REMOVEMAPPING. The entries begin right behind their
// 32-bit count, so they are not aligned.
func (t *Thread) removemapping() (int, unix.Errno) {
	if !t.fs.opts.DAX.On() {
		return 0, never
	}
	count := binary.LittleEndian.Uint32(t.in[inHeaderLen:])
	rest := t.in[inHeaderLen+4:]
	if uint64(count)*removemappingOne > uint64(len(rest)) {
		t.fs.bad("removemapping", "a REMOVEMAPPING counts more entries than it holds")
		return 0, unix.EINVAL
	}
	if !t.mayBlock {
		return t.detach()
	}
	entries := make([]dax.RemoveMapping, count)
	for i := range entries {
		b := rest[i*removemappingOne:]
		entries[i] = dax.RemoveMapping{Moffset: binary.LittleEndian.Uint64(b), Len: binary.LittleEndian.Uint64(b[8:])}
	}
	return 0, errnoOf(t.fs.opts.DAX.RemoveMappings(t.op, entries))
}

// windowBuffers returns which pieces of b, all behind the cursor, lie in the
// window. Pieces of other devices' windows are memory like any other.
func (t *Thread) windowBuffers(b *guestmem.Buffers) ([]dax.WindowBuffer, unix.Errno) {
	if !t.fs.opts.DAX.On() {
		return nil, 0
	}
	t.bufs = t.bufs[:0]
	for _, p := range b.AppendWindowParts(nil) {
		off, ok := t.fs.opts.WindowOffset(p.Region.Spec().GuestAddr + p.Offset)
		if ok {
			t.bufs = append(t.bufs, dax.WindowBuffer{Off: off, Len: uint64(p.Len)})
		}
	}
	return t.bufs, 0
}

// windowExtent is the guestmem.WindowExtent of a READ that has begun.
func (t *Thread) windowExtent(gpa uint64, n int) (next, inside int) {
	off, ok := t.fs.opts.WindowOffset(gpa)
	if !ok {
		return n, n
	}
	a, b := t.op.Inside(off, uint64(n))
	return int(a), int(b)
}

// writeCopied writes data that lie in the window: they are copied out first,
// while their pages are locked, for writing them from there would have the host
// fault in pages that Clean has locked out.
func (t *Thread) writeCopied(fd, size int, off int64, flags int) (int, unix.Errno) {
	data := make([]byte, size)
	if _, err := t.req.CopyOut(data); err != nil {
		return 0, unix.EFAULT
	}
	if e := errnoOf(t.op.Clean()); e != 0 {
		return 0, e
	}
	done := 0
	for done < len(data) {
		put, err := unix.Pwritev2(fd, [][]byte{data[done:]}, off+int64(done), flags)
		if e := errnoOf(err); e == unix.EINTR {
			continue
		} else if e != 0 || put == 0 {
			return done, e
		}
		done += put
	}
	return done, 0
}
