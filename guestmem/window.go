package guestmem

import "golang.org/x/sys/unix"

// WindowPart is a piece of a Buffers that lies in a Window region.
type WindowPart struct {
	Region *Region
	Offset uint64 // in the region
	Len    int
}

// HasWindow reports whether some of the buffers lie in Window regions.
func (b *Buffers) HasWindow() bool { return b.windows }

// AppendWindowParts appends the pieces from the cursor on that lie in Window
// regions to dst, in their order.
func (b *Buffers) AppendWindowParts(dst []WindowPart) []WindowPart {
	off := b.off
	for i := b.seg; b.windows && i < len(b.segs); i, off = i+1, 0 {
		r := b.table.regions[b.where[i].region]
		if n := b.segs[i].len - off; r.spec.Kind == Window && n > 0 {
			dst = append(dst, WindowPart{r, b.where[i].gpa - r.spec.GuestAddr + uint64(off), int(n)})
		}
	}
	return dst
}

// WindowExtent says of n bytes at guest address gpa, in a Window region, how many
// are to be dealt with next, and how many of those, from the first on, lie inside
// the file that is mapped there.
type WindowExtent func(gpa uint64, n int) (next, inside int)

// LimitStores has ReadFrom ask extent before it stores to a Window region, and
// drop what lies outside the file, as a store to a mapping does: the descriptor
// of such a region may show a file longer than it is, and a write to it would
// make it so. It lasts until the next Reset.
func (b *Buffers) LimitStores(extent WindowExtent) { b.extent = extent }

// storeInside writes src to offset off of r, of kind Window, but for what lies
// outside the file.
func (b *Buffers) storeInside(r *Region, off uint64, src []byte) error {
	if b.extent == nil {
		return r.write(off, src)
	}
	for len(src) > 0 {
		next, inside := b.extent(r.spec.GuestAddr+off, len(src))
		if next <= 0 || next > len(src) || inside < 0 || inside > next {
			return unix.EFAULT
		}
		if inside > 0 {
			if err := r.write(off, src[:inside]); err != nil {
				return err
			}
		}
		src, off = src[next:], off+uint64(next)
	}
	return nil
}
