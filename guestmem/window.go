package guestmem

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
