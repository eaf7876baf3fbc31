package guestmem

import "golang.org/x/sys/unix"

// Buffers is one direction of a request: ranges of guest memory as one stream
// of bytes, with a cursor. The zero value is empty.
//
// A copy of a Buffers is a second cursor over the same bytes, valid until the
// next Reset of either, and not to be used at the same time as the first. It
// lets a header be written after the payload that follows it.
//
// The table given to Reset has to be held as long as the buffers are used.
// Once it has grown to the largest request, a Buffers does not allocate.
type Buffers struct {
	table *Table
	segs  []iovec   // where the bytes are mapped
	where []segment // the same elements, in the guest
	seg   int       // the cursor: segs[seg]
	off   uintptr   //   and the offset in it
	left  int       // bytes from the cursor to the end
	total int
	hint  int // index of the region found last
	// unmapped says that some segment is not of kind RAM, windows that some
	// is of kind Window.
	unmapped, windows bool
	extent            WindowExtent
}

// segment is where in the guest a segment is.
type segment struct {
	gpa    uint64
	region int // index in the table
}

// keptSegments bounds what a Buffers holds between two uses: one hostile request
// must not leave its size behind.
const keptSegments = 512

// Reset makes b empty, for ranges of t.
func (b *Buffers) Reset(t *Table) {
	if cap(b.segs) > keptSegments {
		*b = Buffers{}
	}
	b.table = t
	b.segs, b.where = b.segs[:0], b.where[:0]
	b.seg, b.off, b.left, b.total = 0, 0, 0, 0
	if b.hint >= len(t.regions) {
		b.hint = 0
	}
	b.unmapped, b.windows, b.extent = false, false, nil
}

// Append adds n bytes at guest address gpa to the end. A range may go over
// several regions, with no gap. On ErrNotMapped nothing is added.
func (b *Buffers) Append(gpa uint64, n uint32) error {
	if n == 0 {
		return nil
	}
	if b.hint < len(b.table.regions) {
		r := b.table.regions[b.hint]
		if off := gpa - r.spec.GuestAddr; off < r.spec.Size && uint64(n) <= r.spec.Size-off && r.spec.Kind == RAM {
			b.add(r.host+uintptr(off), uintptr(n), gpa, b.hint)
			return nil
		}
	}
	return b.appendSlow(gpa, n)
}

func (b *Buffers) add(host, n uintptr, gpa uint64, region int) {
	b.left += int(n)
	b.total += int(n)
	if last := len(b.segs) - 1; last >= 0 && host != 0 &&
		b.segs[last].base+b.segs[last].len == host && b.where[last].region == region {
		b.segs[last].len += n
		return
	}
	b.segs = append(b.segs, iovec{host, n})
	b.where = append(b.where, segment{gpa, region})
}

func (b *Buffers) appendSlow(gpa uint64, n uint32) error {
	// Whether there is a gap is found out before anything is added.
	for at, left := gpa, uint64(n); ; {
		i := b.table.find(at)
		if i < 0 {
			return ErrNotMapped
		}
		r := b.table.regions[i]
		got := min(left, r.spec.Size-(at-r.spec.GuestAddr))
		at, left = at+got, left-got
		if left == 0 {
			break
		}
		if at == 0 {
			return ErrNotMapped
		}
	}
	for left := uint64(n); ; {
		i := b.table.find(gpa)
		r := b.table.regions[i]
		off := gpa - r.spec.GuestAddr
		k := min(left, r.spec.Size-off)
		var host uintptr
		switch r.spec.Kind {
		case Window:
			b.windows, b.unmapped = true, true
		case File:
			b.unmapped = true
			host = r.host + uintptr(off)
		case RAM:
			host = r.host + uintptr(off)
		}
		b.add(host, uintptr(k), gpa, i)
		b.hint = i
		gpa, left = gpa+k, left-k
		if left == 0 {
			return nil
		}
	}
}

// Len returns the number of bytes from the cursor to the end.
func (b *Buffers) Len() int { return b.left }

// Rewind moves the cursor to the start.
func (b *Buffers) Rewind() { b.seg, b.off, b.left = 0, 0, b.total }

// Skip moves the cursor n bytes forward, at most to the end.
func (b *Buffers) Skip(n int) {
	n = max(0, min(n, b.left))
	b.left -= n
	for left := uintptr(n); left > 0; {
		if rest := b.segs[b.seg].len - b.off; left < rest {
			b.off += left
			return
		} else {
			left -= rest
			b.seg, b.off = b.seg+1, 0
		}
	}
}

// CopyOut copies the next len(dst) bytes from the guest and moves the cursor
// behind them. If fewer are left it copies those and returns ErrShort. On any
// other error, a unix.Errno, the cursor does not move.
func (b *Buffers) CopyOut(dst []byte) (copied int, short error) {
	n := len(dst)
	if n > b.left {
		n, short = b.left, ErrShort
		dst = dst[:n]
	}
	if n == 0 {
		return 0, short
	}
	seg, off := b.seg, b.off
	for {
		s := b.segs[seg]
		k := min(uintptr(len(dst)), s.len-off)
		var err error
		if !b.unmapped {
			err = loadBytes(dst[:k], s.base+off)
		} else {
			w := b.where[seg]
			r := b.table.regions[w.region]
			err = r.read(dst[:k], w.gpa-r.spec.GuestAddr+uint64(off))
		}
		if err != nil {
			return 0, err
		}
		off += k
		if dst = dst[k:]; len(dst) == 0 {
			break
		}
		seg, off = seg+1, 0
	}
	b.seg, b.off, b.left = seg, off, b.left-n
	return n, short
}

// CopyIn copies src to the guest and moves the cursor behind it. If there is room
// for less it copies that and returns ErrShort. On any other error, a unix.Errno,
// the cursor does not move, and some of the bytes may have been written.
func (b *Buffers) CopyIn(src []byte) (copied int, short error) {
	n := len(src)
	if n > b.left {
		n, short = b.left, ErrShort
		src = src[:n]
	}
	if n == 0 {
		return 0, short
	}
	seg, off := b.seg, b.off
	var err error
	for {
		s := b.segs[seg]
		k := min(uintptr(len(src)), s.len-off)
		if !b.unmapped {
			err = storeBytes(s.base+off, src[:k])
		} else {
			w := b.where[seg]
			r := b.table.regions[w.region]
			err = r.write(w.gpa-r.spec.GuestAddr+uint64(off), src[:k])
		}
		if err != nil {
			break
		}
		off += k
		if src = src[k:]; len(src) == 0 {
			break
		}
		seg, off = seg+1, 0
	}
	b.markDirty(n)
	if err != nil {
		return 0, err
	}
	b.seg, b.off, b.left = seg, off, b.left-n
	return n, short
}

// markDirty logs the n bytes at the cursor as written. It comes after the
// writing: the front-end may fetch the log at any time, and a page that it
// copies between mark and write would be lost.
func (b *Buffers) markDirty(n int) {
	if m := b.table.mem; m != nil && m.log.Load() != nil {
		b.markDirtySlow(n)
	}
}

func (b *Buffers) markDirtySlow(n int) {
	log := b.table.mem.acquireLog()
	if log == nil {
		return
	}
	defer log.release()
	off := b.off
	for i, left := b.seg, uintptr(n); left > 0; i++ {
		k := min(left, b.segs[i].len-off)
		log.mark(b.where[i].gpa+uint64(off), uint64(k))
		left -= k
		off = 0
	}
	log.signal()
}

// read copies len(dst) bytes at offset off of the region to dst.
func (r *Region) read(dst []byte, off uint64) error {
	switch r.spec.Kind {
	case RAM:
		return loadBytes(dst, r.host+uintptr(off))
	case File:
		return loadBytesBySystemCall(dst, r.host+uintptr(off))
	}
	for len(dst) > 0 {
		n, err := unix.Pread(r.spec.FD, dst, int64(r.spec.MmapOffset+off))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EFAULT // as a mapping past the end of the file
		}
		dst, off = dst[n:], off+uint64(n)
	}
	return nil
}

// write copies src to offset off of the region.
func (r *Region) write(off uint64, src []byte) error {
	switch r.spec.Kind {
	case RAM:
		return storeBytes(r.host+uintptr(off), src)
	case File:
		return storeBytesBySystemCall(r.host+uintptr(off), src)
	}
	// A store to a mapping never makes a file longer.
	var st unix.Stat_t
	if err := unix.Fstat(r.spec.FD, &st); err != nil {
		return err
	}
	if r.spec.MmapOffset+off+uint64(len(src)) > uint64(st.Size) {
		return unix.EFAULT
	}
	for len(src) > 0 {
		n, err := unix.Pwrite(r.spec.FD, src, int64(r.spec.MmapOffset+off))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EFAULT
		}
		src, off = src[n:], off+uint64(n)
	}
	return nil
}
