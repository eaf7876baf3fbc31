package virtqueue

import (
	"encoding/binary"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// Descriptor flags (virtio 1.3, sections 2.7.5 and 2.8.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	descSize = 16
)

// Head identifies a chain that has been popped and not yet pushed: the index of
// its first descriptor in a split ring, its buffer id in a packed one.
type Head uint16

// Chain is one request of the driver. It is reused without allocation.
type Chain struct {
	Head Head
	// In and Out are the device-readable and the device-writable bytes.
	In, Out guestmem.Buffers

	lease *lease
	total uint64
	wrote bool // a writable descriptor was seen
	raw   [indirectChunk * descSize]byte
}

// indirectChunk is how many descriptors of an indirect table are copied at once.
const indirectChunk = 32

func (c *Chain) begin(l *lease) {
	c.Release()
	l.refs.Add(1)
	c.lease = l
	c.In.Reset(l.table)
	c.Out.Reset(l.table)
	c.total, c.wrote = 0, false
}

// Release gives the chain's hold on guest memory back. In and Out must not be
// used any more. Push does so too.
func (c *Chain) Release() {
	if c.lease != nil {
		c.lease.release()
		c.lease = nil
	}
}

// Rewind puts In and Out back to their start.
func (c *Chain) Rewind() {
	c.In.Rewind()
	c.Out.Rewind()
}

// add appends one buffer.
func (c *Chain) add(d descriptor) error {
	if d.len == 0 {
		return errEmpty
	}
	if c.total += uint64(d.len); c.total > MaxChainBytes {
		return errLength
	}
	b := &c.In
	if d.flags&descWrite != 0 {
		c.wrote = true
		b = &c.Out
	} else if c.wrote {
		return errOrder
	}
	if b.Append(d.addr, d.len) != nil {
		return errAddress
	}
	return nil
}

// descriptor is a copied descriptor. The two formats have the words behind the
// length in another order: link is the next index of a split one and the buffer
// id of a packed one.
type descriptor struct {
	addr  uint64
	len   uint32
	link  uint16
	flags uint16
}

func decodeSplit(addr, rest uint64) descriptor {
	return descriptor{addr, uint32(rest), uint16(rest >> 48), uint16(rest >> 32)}
}

func decodePacked(addr, rest uint64) descriptor {
	return descriptor{addr, uint32(rest), uint16(rest >> 32), uint16(rest >> 48)}
}

// indirect adds the buffers of the table that d, an indirect descriptor, points
// to; the flag WRITE of d means nothing. At most limit of them are followed:
// along next in the table of a split ring, from the first to the last otherwise.
func (c *Chain) indirect(d descriptor, limit uint32, split bool) error {
	if d.len == 0 || d.len%descSize != 0 {
		return errIndirect
	}
	count := d.len / descSize
	if !split && count > limit {
		return errLoop
	}
	if d.addr+uint64(d.len)-1 < d.addr {
		return errAddress
	}
	start, end := uint32(0), uint32(0) // the descriptors in c.raw
	index := uint32(0)
	for range min(count, limit) {
		if index < start || index >= end {
			start, end = index, min(index+indirectChunk, count)
			if !c.lease.table.Read(c.raw[:(end-start)*descSize], d.addr+uint64(start)*descSize) {
				return errAddress
			}
		}
		raw := c.raw[(index-start)*descSize:][:descSize]
		addr, rest := binary.LittleEndian.Uint64(raw), binary.LittleEndian.Uint64(raw[8:])
		if !split {
			e := decodePacked(addr, rest)
			if e.flags&descIndirect != 0 {
				return errNested
			}
			if err := c.add(e); err != nil {
				return err
			}
			if index++; index == count {
				return nil
			}
			continue
		}
		e := decodeSplit(addr, rest)
		if e.flags&descIndirect != 0 {
			return errNested
		}
		if err := c.add(e); err != nil {
			return err
		}
		if e.flags&descNext == 0 {
			return nil
		}
		if index = uint32(e.link); index >= count {
			return errNext
		}
	}
	return errLoop
}
