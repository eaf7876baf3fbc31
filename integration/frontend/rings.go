package frontend

import (
	"encoding/binary"
	"sync/atomic"
)

// Descriptor flags.
const (
	descNext     uint16 = 1
	descWrite    uint16 = 2
	descIndirect uint16 = 4
	descAvail    uint16 = 1 << 7  // packed
	descUsed     uint16 = 1 << 15 // packed
)

// putDesc writes a descriptor. The last two words are flags and next in a split ring, id and flags in a packed one.
func putDesc(b []byte, s Seg, w2, w3 uint16) {
	le := binary.LittleEndian
	le.PutUint64(b, s.GPA)
	le.PutUint32(b[8:], s.Len)
	le.PutUint16(b[12:], w2)
	le.PutUint16(b[14:], w3)
}

// fence keeps a store before a later load of another word: both are atomic, and Go's atomics are totally ordered.
var fence atomic.Uint32

// needEvent is vring_need_event of the specification.
func needEvent(event, now, old uint16) bool { return now-event-1 < now-old }

// splitRing is virtio 1.3, 2.7.
type splitRing struct {
	size     int
	desc     []byte
	avail    []uint32 // word 0: flags, idx
	availRaw []uint16
	used     []uint32 // word 0: flags, idx; then id, len
	usedRaw  []uint16

	eventIdx bool
	freeHead uint16
	free     int
	next     []uint16 // free list, and the chain behind each head
	availIdx uint16
	kicked   uint16 // availIdx at the last kick
	usedIdx  uint16
}

func newSplitRing(size int, desc, avail, used []byte) *splitRing {
	return &splitRing{size: size, desc: desc, next: make([]uint16, size),
		avail: view32(avail), availRaw: view16(avail), used: view32(used), usedRaw: view16(used)}
}

func (r *splitRing) setFeatures(eventIdx bool) { r.eventIdx = eventIdx }

func (r *splitRing) reset() {
	clear(r.desc)
	clear(r.availRaw)
	clear(r.usedRaw)
	for i := range r.next {
		r.next[i] = uint16(i + 1)
	}
	r.freeHead, r.free = 0, r.size
	r.availIdx, r.kicked, r.usedIdx = 0, 0, 0
}

func (r *splitRing) room(n int) bool { return n <= r.free }

func (r *splitRing) add(c *Chain, table Seg) {
	c.Head = r.freeHead
	at := r.freeHead
	if c.alone {
		putDesc(r.desc[16*int(at):], table, descIndirect, 0)
		r.freeHead = r.next[at]
	} else {
		left := c.descs
		for k, list := range [2][]Seg{c.Readable, c.Writable} {
			for _, s := range list {
				flags := uint16(0)
				if k == 1 {
					flags = descWrite
				}
				next := r.next[at]
				if left--; left > 0 {
					putDesc(r.desc[16*int(at):], s, flags|descNext, next)
				} else {
					putDesc(r.desc[16*int(at):], s, flags, 0)
				}
				at = next
			}
		}
		r.freeHead = at
	}
	r.free -= c.descs
	r.availRaw[2+int(r.availIdx)%r.size] = c.Head
	r.availIdx++
	r.publish(r.availIdx)
}

// publish stores the available index, and the driver's flags with it.
func (r *splitRing) publish(idx uint16) {
	flags := atomic.LoadUint32(&r.avail[0]) & 0xffff
	atomic.StoreUint32(&r.avail[0], flags|uint32(idx)<<16)
}

func (r *splitRing) needsKick() bool {
	old := r.kicked
	r.kicked = r.availIdx
	fence.Add(1)
	if r.eventIdx {
		return needEvent(r.usedRaw[2+4*r.size], r.availIdx, old)
	}
	return atomic.LoadUint32(&r.used[0])&1 == 0 && old != r.availIdx // VRING_USED_F_NO_NOTIFY
}

func (r *splitRing) ready() bool { return uint16(atomic.LoadUint32(&r.used[0])>>16) != r.usedIdx }

func (r *splitRing) pop() (id, length uint32) {
	at := 1 + 2*(int(r.usedIdx)%r.size)
	id, length = r.used[at], r.used[at+1]
	r.usedIdx++
	return id, length
}

func (r *splitRing) release(c *Chain) {
	last := c.Head
	for range c.descs - 1 {
		last = r.next[last]
	}
	r.next[last] = r.freeHead
	r.freeHead = c.Head
	r.free += c.descs
}

func (r *splitRing) arm() {
	if r.eventIdx {
		r.availRaw[2+r.size] = r.usedIdx
	}
	fence.Add(1)
}

func (r *splitRing) restore(uint32) uint32 { return atomic.LoadUint32(&r.used[0]) >> 16 }

func (r *splitRing) nextHead() uint16 { return r.freeHead }

func (r *splitRing) initialBase() uint32 { return 0 }

// packedRing is virtio 1.3, 2.8.
type packedRing struct {
	size   int
	desc   []byte
	words  []uint32 // of desc
	driver []uint32 // event suppression: desc, flags
	device []uint32

	eventIdx  bool
	free      []uint16 // ids
	freeDescs int
	next      uint16 // descriptor to fill
	wrap      bool   // driver ring wrap counter
	added     uint16 // since the last kick
	used      uint16
	usedWrap  bool
}

const (
	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2
)

func newPackedRing(size int, desc, driver, device []byte) *packedRing {
	return &packedRing{size: size, desc: desc, words: view32(desc), driver: view32(driver), device: view32(device)}
}

func (r *packedRing) setFeatures(eventIdx bool) { r.eventIdx = eventIdx }

func (r *packedRing) reset() {
	clear(r.desc)
	r.driver[0], r.device[0] = 0, 0
	r.free = r.free[:0]
	for i := r.size - 1; i >= 0; i-- {
		r.free = append(r.free, uint16(i))
	}
	r.freeDescs = r.size
	r.next, r.wrap, r.added, r.used, r.usedWrap = 0, true, 0, 0, true
}

func (r *packedRing) room(n int) bool { return n <= r.freeDescs && len(r.free) > 0 }

func (r *packedRing) add(c *Chain, table Seg) {
	c.Head = r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	first, firstFlags := r.next, uint16(0)
	left := c.descs
	put := func(s Seg, flags uint16) {
		flags |= r.wrapFlags()
		if left--; left > 0 {
			flags |= descNext
		}
		at := r.next
		if left == c.descs-1 {
			// The first descriptor becomes visible last.
			binary.LittleEndian.PutUint64(r.desc[16*int(at):], s.GPA)
			binary.LittleEndian.PutUint32(r.desc[16*int(at)+8:], s.Len)
			firstFlags = flags
		} else {
			putDesc(r.desc[16*int(at):], s, c.Head, flags)
		}
		if r.next++; int(r.next) == r.size {
			r.next, r.wrap = 0, !r.wrap
		}
	}
	if c.alone {
		put(table, descIndirect)
	} else {
		for _, s := range c.Readable {
			put(s, 0)
		}
		for _, s := range c.Writable {
			put(s, descWrite)
		}
	}
	r.freeDescs -= c.descs
	r.added += uint16(c.descs)
	atomic.StoreUint32(&r.words[4*int(first)+3], uint32(c.Head)|uint32(firstFlags)<<16)
}

func (r *packedRing) wrapFlags() uint16 {
	if r.wrap {
		return descAvail
	}
	return descUsed
}

func (r *packedRing) needsKick() bool {
	old := r.next - r.added
	added := r.added
	r.added = 0
	fence.Add(1)
	w := atomic.LoadUint32(&r.device[0])
	offWrap, flags := uint16(w), uint16(w>>16)
	switch {
	case added == 0 || flags == eventDisable:
		return false
	case flags != eventDesc:
		return true
	}
	event := offWrap &^ (1 << 15)
	if offWrap>>15 == 1 != r.wrap {
		event -= uint16(r.size)
	}
	return needEvent(event, r.next, old)
}

func (r *packedRing) ready() bool {
	flags := uint16(atomic.LoadUint32(&r.words[4*int(r.used)+3]) >> 16)
	avail, used := flags&descAvail != 0, flags&descUsed != 0
	return avail == used && used == r.usedWrap
}

func (r *packedRing) pop() (id, length uint32) {
	at := 4 * int(r.used)
	return r.words[at+3] & 0xffff, r.words[at+2]
}

func (r *packedRing) release(c *Chain) {
	r.free = append(r.free, c.Head)
	r.freeDescs += c.descs
	r.used += uint16(c.descs)
	if int(r.used) >= r.size {
		r.used -= uint16(r.size)
		r.usedWrap = !r.usedWrap
	}
}

func (r *packedRing) arm() {
	if r.eventIdx {
		w := uint32(r.used) | eventDesc<<16
		if r.usedWrap {
			w |= 1 << 15
		}
		atomic.StoreUint32(&r.driver[0], w)
	} else {
		atomic.StoreUint32(&r.driver[0], eventEnable<<16)
	}
	fence.Add(1)
}

// restore has nothing in shared memory to go by: QEMU says what it last knew, and the in-flight area says the rest.
func (r *packedRing) restore(known uint32) uint32 { return known }

func (r *packedRing) nextHead() uint16 { return r.free[len(r.free)-1] }

func (r *packedRing) initialBase() uint32 { return 1<<15 | 1<<31 }
