package virtqueue

import (
	"encoding/binary"
	"fmt"
)

// packedRing is a packed virtqueue (virtio 1.3, section 2.8).
type packedRing struct {
	q    *Queue
	size uint16

	// The popper's.
	avail position

	// Guarded by q.mu, but for the entry of a chain that nobody else has yet.
	chains   []packedChain // by buffer id
	used     position
	pending  []usedElement // pushed since the last flush
	event    uint32        // what the device event suppression structure holds
	inflight *packedInflight
}

// position is a slot of the ring and the wrap counter there.
type position struct {
	index uint16
	wrap  bool
}

func (p position) encode() uint32 {
	v := uint32(p.index)
	if p.wrap {
		v |= 1 << 15
	}
	return v
}

func decodePosition(v uint32) position {
	return position{index: uint16(v) & 0x7fff, wrap: v>>15&1 != 0}
}

// advance moves n slots on in a ring of size; n is at most size.
func (p *position) advance(n, size uint16) {
	if uint32(p.index)+uint32(n) >= uint32(size) {
		p.index = uint16(uint32(p.index) + uint32(n) - uint32(size))
		p.wrap = !p.wrap
		return
	}
	p.index += n
}

// packedChain remembers a chain that is in flight: its slots may be overwritten
// by used elements of others before it is done.
type packedChain struct {
	descs []descriptor
	slots uint16
	state uint16 // its first entry in the in-flight region
}

type usedElement struct {
	id      uint16
	slots   uint16
	written uint32
}

// Flags of descriptors and of event suppression structures.
const (
	packedAvail = 1 << 7
	packedUsed  = 1 << 15

	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2
)

func (p *packedRing) sizes(n uint64) (desc, driver, device uint64) { return n * descSize, 4, 4 }

func (p *packedRing) start() error {
	if int(p.q.cfg.Base&0x7fff) >= int(p.size) || int(p.q.cfg.Base>>16&0x7fff) >= int(p.size) {
		return fmt.Errorf("a packed ring of %d can't begin at %#x", p.size, p.q.cfg.Base)
	}
	p.avail = decodePosition(p.q.cfg.Base)
	p.used = decodePosition(p.q.cfg.Base >> 16)
	if prev := p.q.cfg.Previous; prev != nil {
		if old, ok := prev.format.(*packedRing); ok && old.size == p.size {
			p.chains = old.chains
		}
	}
	if p.chains == nil {
		p.chains = make([]packedChain, p.size)
	}
	if p.q.cfg.Inflight == nil {
		return nil
	}
	var err error
	p.inflight, err = newPackedInflight(p.q.cfg.Inflight, p.size, p)
	return err
}

func (p *packedRing) available() (bool, error) {
	flags := uint16(p.q.desc.Load32(uint64(p.avail.index)*descSize+12) >> 16)
	return flags&packedAvail != 0 == p.avail.wrap && flags&packedUsed != 0 != p.avail.wrap, nil
}

func (p *packedRing) next(c *Chain) error {
	at := p.avail
	first := at.index
	c.descs = c.descs[:0]
	var raw [descSize]byte
	for {
		if len(c.descs) == int(p.size) {
			return fmt.Errorf("%w: the chain at slot %d is longer than the ring", ErrRing, first)
		}
		p.q.desc.Read(raw[:], uint64(at.index)*descSize)
		d := decodePacked(&raw)
		c.descs = append(c.descs, d)
		at.advance(1, p.size)
		if d.flags&descNext == 0 {
			break
		}
	}
	id := c.descs[len(c.descs)-1].link
	if id >= p.size {
		return fmt.Errorf("%w: buffer id %d in a ring of %d", ErrRing, id, p.size)
	}
	p.avail = at
	pc := &p.chains[id]
	pc.descs = append(pc.descs[:0], c.descs...)
	pc.slots = uint16(len(c.descs))
	if p.inflight != nil {
		p.q.mu.Lock()
		pc.state = p.inflight.begin(pc.descs)
		p.q.mu.Unlock()
	}
	return p.restore(c, Head(id))
}

func (p *packedRing) restore(c *Chain, h Head) error {
	c.Head = h
	if int(h) >= len(p.chains) {
		return fmt.Errorf("%w: buffer id %d in a ring of %d", ErrRing, h, p.size)
	}
	for _, d := range p.chains[h].descs {
		if d.flags&descIndirect != 0 {
			switch {
			case !p.q.indirect:
				return errNoFeature
			case len(p.chains[h].descs) != 1:
				return errIndirect
			}
			return c.indirectTable(d.addr, d.len, false)
		}
		if err := c.add(d.addr, d.len, d.flags); err != nil {
			return err
		}
	}
	return nil
}

func (p *packedRing) push(h Head, written uint32) {
	pc := &p.chains[h]
	p.pending = append(p.pending, usedElement{uint16(h), pc.slots, written})
	if p.inflight != nil {
		p.inflight.used(pc.state)
	}
}

// flush writes the used elements of the batch, the first one's flags last: that
// is where the driver is looking.
func (p *packedRing) flush() (notify bool) {
	if len(p.pending) == 0 {
		return false
	}
	first := p.used
	at := first
	for i, u := range p.pending {
		if i > 0 {
			p.write(at, u)
		}
		at.advance(u.slots, p.size)
	}
	p.used = at
	if p.inflight != nil {
		p.inflight.publish(p.used)
	}
	p.write(first, p.pending[0])
	if p.inflight != nil {
		p.inflight.flushed(p.used)
	}
	p.pending = p.pending[:0]
	return p.wants(first)
}

func (p *packedRing) write(at position, u usedElement) {
	var b [4]byte
	off := uint64(at.index) * descSize
	binary.LittleEndian.PutUint32(b[:], u.written)
	p.q.desc.Write(off+8, b[:])
	var flags uint32
	if at.wrap {
		flags = packedAvail | packedUsed
	}
	if u.written > 0 {
		flags |= descWrite
	}
	p.q.desc.Store32(off+12, uint32(u.id)|flags<<16)
	// The packed ring is logged as a whole, by guest address.
	if p.q.cfg.LogUsed {
		p.q.table.MarkDirty(p.q.cfg.UsedLogGPA+off, descSize)
	}
}

// wants tells whether the driver asked to be told of a batch that began at old.
func (p *packedRing) wants(old position) bool {
	v := p.q.driver.Load32(0)
	flags := v >> 16 & 3
	if flags != eventDesc || !p.q.eventIdx {
		return flags != eventDisable
	}
	ev := decodePosition(v)
	// In slots, counted from the start of the round that the batch ended in.
	event, from := int(ev.index), int(old.index)
	if ev.wrap != p.used.wrap {
		event -= int(p.size)
	}
	if old.wrap != p.used.wrap {
		from -= int(p.size)
	}
	return event >= from && event < int(p.used.index)
}

func (p *packedRing) storeEvent(v uint32) {
	if p.event == v {
		return
	}
	p.event = v
	p.q.device.Store32(0, v)
}

func (p *packedRing) disableNotify() { p.storeEvent(p.event&0xffff | eventDisable<<16) }

func (p *packedRing) enableNotify() (pending bool, err error) {
	v := uint32(eventEnable)
	if p.q.eventIdx {
		v = p.avail.encode() | eventDesc<<16
	}
	// Stored even where nothing changes: it is the barrier between asking for
	// a kick and looking again.
	p.event = v
	p.q.device.Store32(0, v)
	return p.available()
}

func (p *packedRing) base() uint32 { return p.avail.encode() | p.used.encode()<<16 }

func (p *packedRing) resubmit() []Head {
	if p.inflight == nil {
		return nil
	}
	return p.inflight.pending
}
