package frontend

import (
	"encoding/binary"
	"sync/atomic"
)

// Raw writes a ring's memory without looking: what a hostile guest does. It must not be mixed with Submit before the
// next Frontend.Reset. The descriptors' own bytes are at Queue.DescGPA.
type Raw struct{ q *Queue }

// Raw gives the ring's raw memory.
func (q *Queue) Raw() Raw { return Raw{q} }

// Desc is a descriptor as it lies in memory. Next is used by split rings, ID by packed ones.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
	ID    uint16
}

// Flags of Desc.
const (
	DescNext     = descNext
	DescWrite    = descWrite
	DescIndirect = descIndirect
	DescAvail    = descAvail
	DescUsed     = descUsed
)

// PutDesc writes descriptor i of the table at gpa: the ring's, or an indirect one.
func (r Raw) PutDesc(gpa uint64, i int, d Desc) {
	b := r.q.f.Mem.Bytes(gpa+16*uint64(i), 16)
	if r.q.f.opts.Packed {
		putDesc(b, Seg{d.Addr, d.Len}, d.ID, d.Flags)
	} else {
		putDesc(b, Seg{d.Addr, d.Len}, d.Flags, d.Next)
	}
}

// PutAvail writes an entry of a split ring's available ring.
func (r Raw) PutAvail(slot int, head uint16) {
	ring := r.q.ring.(*splitRing)
	ring.availRaw[2+slot%ring.size] = head
}

// SetAvailIdx stores a split ring's available index.
func (r Raw) SetAvailIdx(idx uint16) {
	ring := r.q.ring.(*splitRing)
	ring.publish(idx)
	fence.Add(1)
}

// UsedIdx is a split ring's used index, and Used one element of its ring.
func (r Raw) UsedIdx() uint16 {
	return uint16(atomic.LoadUint32(&r.q.ring.(*splitRing).used[0]) >> 16)
}

func (r Raw) Used(slot int) (id, length uint32) {
	ring := r.q.ring.(*splitRing)
	at := 1 + 2*(slot%ring.size)
	return ring.used[at], ring.used[at+1]
}

// PackedFlags reads a packed descriptor's flags.
func (r Raw) PackedFlags(i int) uint16 {
	return binary.LittleEndian.Uint16(r.q.f.Mem.Bytes(r.q.DescGPA+16*uint64(i)+14, 2))
}
