package guestmem

import (
	"golang.org/x/sys/unix"
)

// Buffers is one direction of a descriptor chain: a stream of bytes that lie
// scattered in guest memory, with a cursor. The zero value, after Reset, is
// ready for use, and a Buffers that is used again does not allocate. A copy of a
// Buffers has a cursor of its own over the same bytes until the next Reset of
// either.
type Buffers struct {
	table *Table
	segs  []segment
	seg   int // the segment of the cursor
	off   int // of the cursor in it
	left  int // bytes behind the cursor
	iov   []unix.Iovec
	plain bool // every segment is in mapped memory
}

// segment is a piece of one region.
type segment struct {
	r   *Region
	off uint64 // in the region
	n   int    // bytes, not 0
}

// Reset empties b and makes t the memory of what is appended. The caller keeps
// its reference to t for as long as it uses b.
func (b *Buffers) Reset(t *Table) {
	b.table, b.segs, b.seg, b.off, b.left, b.plain = t, b.segs[:0], 0, 0, 0, true
}

// Append adds n bytes at guest address gpa to the end of the stream; they may
// cross regions that adjoin.
func (b *Buffers) Append(gpa uint64, n uint32) error {
	todo := uint64(n)
	if gpa+todo < gpa {
		return ErrNotMapped
	}
	for todo > 0 {
		r := b.table.find(gpa)
		if r == nil {
			return ErrNotMapped
		}
		off := gpa - r.spec.GuestAddr
		take := min(todo, r.spec.Size-off)
		b.segs = append(b.segs, segment{r, off, int(take)})
		b.left += int(take)
		b.plain = b.plain && r.mem != nil
		gpa += take
		todo -= take
	}
	return nil
}

// Len returns the number of bytes behind the cursor.
func (b *Buffers) Len() int { return b.left }

// Rewind puts the cursor back to the start.
func (b *Buffers) Rewind() {
	for i := range b.segs[:min(b.seg, len(b.segs))] {
		b.left += b.segs[i].n
	}
	b.left += b.off
	b.seg, b.off = 0, 0
}

// Skip moves the cursor n bytes on, at most to the end.
func (b *Buffers) Skip(n int) {
	n = min(n, b.left)
	b.left -= n
	for n > 0 {
		s := &b.segs[b.seg]
		if rest := s.n - b.off; n >= rest {
			n -= rest
			b.seg++
			b.off = 0
		} else {
			b.off += n
			n = 0
		}
	}
}

// CopyOut copies from guest memory to dst and moves the cursor behind what it
// copied: device-readable bytes. It fails with EFAULT where memory is gone, and
// with ErrShort where less than len(dst) is left.
func (b *Buffers) CopyOut(dst []byte) (int, error) {
	done := 0
	for done < len(dst) && b.left > 0 {
		s := &b.segs[b.seg]
		n := min(s.n-b.off, len(dst)-done)
		if err := s.r.load(dst[done:done+n], s.off+uint64(b.off)); err != nil {
			return done, err
		}
		b.Skip(n)
		done += n
	}
	if done < len(dst) {
		return done, ErrShort
	}
	return done, nil
}

// CopyIn copies src to guest memory and moves the cursor behind it:
// device-writable bytes. Errors are those of CopyOut.
func (b *Buffers) CopyIn(src []byte) (int, error) {
	done := 0
	for done < len(src) && b.left > 0 {
		s := &b.segs[b.seg]
		n := min(s.n-b.off, len(src)-done)
		if err := s.r.store(src[done:done+n], s.off+uint64(b.off)); err != nil {
			return done, err
		}
		b.table.log.mark(s.r.spec.GuestAddr+s.off+uint64(b.off), uint64(n))
		b.Skip(n)
		done += n
	}
	if done < len(src) {
		return done, ErrShort
	}
	return done, nil
}

const iovMax = 1024 // UIO_MAXIOV

// ReadFrom reads at most n bytes of the file fd at offset off (-1: at its
// current position) to guest memory behind the cursor, by preadv2 with flags. It
// returns what one call moved, which may be less, and leaves the cursor where it
// is. Errors are errnos: EFAULT where guest memory is gone.
func (b *Buffers) ReadFrom(fd int, off int64, n, flags int) (int, error) {
	n = min(n, b.left)
	if n == 0 {
		return 0, nil
	}
	var got int
	var e unix.Errno
	if b.plain {
		got, e = preadv2(fd, b.vector(n), off, flags)
	} else {
		got, e = b.bounceIn(fd, off, n, flags)
	}
	if e != 0 {
		return 0, e
	}
	if b.table.log != nil {
		b.markDirty(got)
	}
	return got, nil
}

// WriteTo writes at most n bytes behind the cursor to the file fd at offset off,
// by pwritev2 with flags. It is otherwise like ReadFrom.
func (b *Buffers) WriteTo(fd int, off int64, n, flags int) (int, error) {
	n = min(n, b.left)
	if n == 0 {
		return 0, nil
	}
	var put int
	var e unix.Errno
	if b.plain {
		put, e = pwritev2(fd, b.vector(n), off, flags)
	} else {
		put, e = b.bounceOut(fd, off, n, flags)
	}
	if e != 0 {
		return 0, e
	}
	return put, nil
}

// vector returns the n bytes behind the cursor, all in mapped memory, as an
// iovec of at most iovMax entries; neighbours become one entry.
func (b *Buffers) vector(n int) []unix.Iovec {
	b.iov = b.iov[:0]
	off := b.off
	var end uint64 // of the last entry, in its region
	var last *Region
	for i := b.seg; n > 0; i++ {
		s := &b.segs[i]
		take := min(s.n-off, n)
		at := s.off + uint64(off)
		if last == s.r && end == at {
			b.iov[len(b.iov)-1].Len += uint64(take)
		} else {
			if len(b.iov) == iovMax {
				break
			}
			b.iov = append(b.iov, unix.Iovec{Base: &s.r.mem[at], Len: uint64(take)})
		}
		last, end = s.r, at+uint64(take)
		n -= take
		off = 0
	}
	return b.iov
}

// bounceSize bounds the copy that data from or to a Window region takes.
const bounceSize = 256 << 10

func (b *Buffers) bounceIn(fd int, off int64, n, flags int) (int, unix.Errno) {
	buf := make([]byte, min(n, bounceSize))
	got, e := preadv2(fd, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, off, flags)
	if e != 0 || got == 0 {
		return 0, e
	}
	to := *b
	if _, err := to.CopyIn(buf[:got]); err != nil {
		return 0, unix.EFAULT
	}
	return got, 0
}

func (b *Buffers) bounceOut(fd int, off int64, n, flags int) (int, unix.Errno) {
	buf := make([]byte, min(n, bounceSize))
	from := *b
	if _, err := from.CopyOut(buf); err != nil {
		return 0, unix.EFAULT
	}
	return pwritev2(fd, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, off, flags)
}

// WindowPart is a piece of a Buffers that lies in a Window region.
type WindowPart struct {
	Region *Region
	Offset uint64 // in the region
	Len    int
}

// AppendWindowParts appends the pieces behind the cursor that lie in Window
// regions to dst.
func (b *Buffers) AppendWindowParts(dst []WindowPart) []WindowPart {
	if b.plain {
		return dst
	}
	off := b.off
	for i := b.seg; i < len(b.segs); i++ {
		s := &b.segs[i]
		if s.r.mem == nil {
			dst = append(dst, WindowPart{s.r, s.off + uint64(off), s.n - off})
		}
		off = 0
	}
	return dst
}

// markDirty logs n bytes behind the cursor as written.
func (b *Buffers) markDirty(n int) {
	off := b.off
	for i := b.seg; n > 0; i++ {
		s := &b.segs[i]
		take := min(s.n-off, n)
		b.table.log.mark(s.r.spec.GuestAddr+s.off+uint64(off), uint64(take))
		n -= take
		off = 0
	}
}
