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

// Chain is one request of the driver. It is reused without allocation.
type Chain struct {
	Head Head
	// In and Out are the device-readable and the device-writable bytes.
	In, Out guestmem.Buffers

	table *guestmem.Table
	descs []descriptor // scratch
	total uint64
	wrote bool // a writable descriptor was seen
}

func (c *Chain) begin(t *guestmem.Table) {
	t.Hold()
	c.table = t
	c.In.Reset(t)
	c.Out.Reset(t)
	c.total, c.wrote = 0, false
}

// Release gives the chain's hold on guest memory back. In and Out must not be
// used any more.
func (c *Chain) Release() {
	if c.table != nil {
		c.table.Release()
		c.table = nil
	}
}

// Rewind puts In and Out back to their start.
func (c *Chain) Rewind() {
	c.In.Rewind()
	c.Out.Rewind()
}

// add appends one buffer.
func (c *Chain) add(addr uint64, n uint32, flags uint16) error {
	if c.total += uint64(n); c.total > MaxChainBytes {
		return errLength
	}
	b := &c.In
	if flags&descWrite != 0 {
		c.wrote = true
		b = &c.Out
	} else if c.wrote {
		return errOrder
	}
	if b.Append(addr, n) != nil {
		return errAddress
	}
	return nil
}

// descriptor is a descriptor as it was copied. Where the formats differ, link is
// the next index of a split ring's and the buffer id of a packed ring's.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	link  uint16
}

// decodeSplit reads struct virtq_desc.
func decodeSplit(b *[descSize]byte) descriptor {
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b[:]),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		link:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// decodePacked reads struct pvirtq_desc.
func decodePacked(b *[descSize]byte) descriptor {
	d := decodeSplit(b)
	d.flags, d.link = d.link, d.flags
	return d
}

// indirectTable walks an indirect table: along next where linked is set (split),
// from the first to the last otherwise (packed).
func (c *Chain) indirectTable(addr uint64, n uint32, linked bool) error {
	if n == 0 || n%descSize != 0 {
		return errIndirect
	}
	count := n / descSize
	var raw [descSize]byte
	index := uint32(0)
	for seen := uint32(0); ; seen++ {
		if seen == min(count, MaxSize) {
			if linked {
				return errLoop
			}
			return nil
		}
		if !c.table.Read(raw[:], addr+uint64(index)*descSize) {
			return errAddress
		}
		d := decodePacked(&raw)
		if linked {
			d = decodeSplit(&raw)
		}
		flags := d.flags
		if flags&descIndirect != 0 {
			return errNested
		}
		if err := c.add(d.addr, d.len, flags); err != nil {
			return err
		}
		if !linked {
			index++
			continue
		}
		if flags&descNext == 0 {
			return nil
		}
		if uint32(d.link) >= count {
			return errNext
		}
		index = uint32(d.link)
	}
}
