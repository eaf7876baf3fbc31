package virtqueue

import "fmt"

// packedRing is a packed virtqueue (virtio 1.3, section 2.8).
type packedRing struct {
	q    *Queue
	size uint16

	// The popper's.
	avail   position
	scratch []descriptor

	// Guarded by q.mu, but for the slots of chains in flight, which do not
	// change.
	chains   []packedChain // by buffer id
	slots    []packedSlot
	free     uint16 // the first free slot; size: there is none
	used     position
	pending  []usedElement // pushed since the last flush
	inflight *packedInflight
	mute     bool // the driver was told not to kick
}

// position is a slot of the ring and the wrap counter there.
type position struct {
	index uint16
	wrap  bool
}

// encode returns p as SET_VRING_BASE and event suppression structures have it.
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
	if next := uint32(p.index) + uint32(n); next >= uint32(size) {
		p.index = uint16(next - uint32(size))
		p.wrap = !p.wrap
	} else {
		p.index = uint16(next)
	}
}

// packedChain remembers a chain that is in flight: its descriptors in the ring
// may be overwritten by used elements of others before it is done.
type packedChain struct {
	first, last uint16  // its list of slots
	slots       uint16  // their number; 0: it is not in flight
	state       entries // in the in-flight region
}

// packedSlot holds a descriptor of a chain in flight. There are as many as the
// ring has.
type packedSlot struct {
	desc descriptor
	next uint16
}

type usedElement struct {
	head    Head
	slots   uint16
	written uint32
}

const (
	// Flags of descriptors.
	packedAvail = 1 << 7
	packedUsed  = 1 << 15

	// Flags of event suppression structures.
	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2

	// Offsets in a descriptor: the address, and the word of length, buffer id
	// and flags.
	packedAddr = 0
	packedRest = 8
)

func (p *packedRing) sizes() [3]uint64 { return [3]uint64{uint64(p.size) * descSize, 4, 4} }

func (p *packedRing) start(inflight []byte, previous format) error {
	p.avail = decodePosition(p.q.cfg.Base)
	p.used = decodePosition(p.q.cfg.Base >> 16)
	if p.avail.index >= p.size || p.used.index >= p.size {
		return fmt.Errorf("a packed ring of %d can't begin at %#x; report this as a bug of the front-end", p.size, p.q.cfg.Base)
	}
	p.chains = make([]packedChain, p.size)
	p.slots = make([]packedSlot, p.size)
	for i := range p.slots {
		p.slots[i].next = uint16(i + 1)
	}
	if inflight == nil {
		if old, ok := previous.(*packedRing); ok {
			p.chains, p.slots, p.free = old.chains, old.slots, old.free
		}
		return nil
	}
	var err error
	p.inflight, err = newPackedInflight(inflight, p)
	return err
}

// flags returns the flags of a descriptor that is available at p, or used there.
func (p position) flags(used bool) uint16 {
	var f uint16
	if p.wrap {
		f = packedAvail
	}
	if p.wrap == used {
		f |= packedUsed
	}
	return f
}

func (p *packedRing) available() (bool, error) {
	rest := p.q.desc.Load64(uintptr(p.avail.index)*descSize + packedRest)
	return uint16(rest>>48)&(packedAvail|packedUsed) == p.avail.flags(false), nil
}

func (p *packedRing) load(index uint16) descriptor {
	at := uintptr(index) * descSize
	// The flags first: they say that the rest is there.
	rest := p.q.desc.Load64(at + packedRest)
	return decodePacked(p.q.desc.Load64(at+packedAddr), rest)
}

func (p *packedRing) next(c *Chain) error {
	at := p.avail
	p.scratch = p.scratch[:0]
	for {
		if len(p.scratch) == int(p.size) {
			return fmt.Errorf("%w: the driver made a chain longer than the ring of %d", ErrRing, p.size)
		}
		d := p.load(at.index)
		p.scratch = append(p.scratch, d)
		at.advance(1, p.size)
		if d.flags&descNext == 0 {
			break
		}
	}
	// The buffer id stands in the last descriptor.
	id := p.scratch[len(p.scratch)-1].link
	if id >= p.size {
		return fmt.Errorf("%w: the driver gave a chain the buffer id %d in a ring of %d", ErrRing, id, p.size)
	}
	if err := p.q.take(Head(id)); err != nil {
		return err
	}
	c.Head = Head(id)
	p.avail = at
	if err := p.keep(c.Head); err != nil {
		return err
	}
	return p.fill(c)
}

// keep remembers the descriptors in scratch as those of chain h.
func (p *packedRing) keep(h Head) (err error) {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	if !p.insert(h) {
		return fmt.Errorf("%w: the driver has more than %d descriptors in flight", ErrRing, p.size)
	}
	if p.inflight != nil {
		p.chains[h].state, err = p.inflight.begin(p.scratch)
	}
	return err
}

// insert makes the descriptors in scratch those of chain h. It fails if there are
// too few slots. mu is held.
func (p *packedRing) insert(h Head) bool {
	pc := packedChain{first: p.free, slots: uint16(len(p.scratch))}
	for _, d := range p.scratch {
		if p.free >= p.size {
			return false
		}
		s := &p.slots[p.free]
		s.desc = d
		pc.last, p.free = p.free, s.next
	}
	p.chains[h] = pc
	return true
}

func (p *packedRing) restore(c *Chain, h Head) error {
	pc := p.chains[h]
	if pc.slots == 0 {
		return fmt.Errorf("%w: chain %d is not in flight", ErrRing, h)
	}
	p.scratch = p.scratch[:0]
	for i, n := pc.first, pc.slots; n > 0; n-- {
		p.scratch = append(p.scratch, p.slots[i].desc)
		i = p.slots[i].next
	}
	return p.fill(c)
}

// fill gives c the buffers that the descriptors in scratch describe.
func (p *packedRing) fill(c *Chain) error {
	for _, d := range p.scratch {
		if d.flags&descIndirect != 0 {
			switch {
			case !p.q.canIndir:
				return errNoFeature
			case len(p.scratch) != 1:
				return errIndirect
			}
			return c.indirect(d, p.q.limit, false)
		}
		if err := c.add(d); err != nil {
			return err
		}
	}
	return nil
}

func (p *packedRing) push(h Head, written uint32) {
	pc := &p.chains[h]
	if pc.slots == 0 {
		return // it was never popped
	}
	p.pending = append(p.pending, usedElement{h, pc.slots, written})
	p.slots[pc.last].next = p.free
	p.free = pc.first
	pc.slots = 0
	if p.inflight != nil {
		p.inflight.used(pc.state)
	}
}

func (p *packedRing) unflushed() bool { return len(p.pending) > 0 }

// flush writes the used elements of the batch, the first one last: that is where
// the driver is looking.
func (p *packedRing) flush() (notify bool) {
	first := p.used
	at := first
	for i, u := range p.pending {
		if i > 0 {
			p.write(at, u, false)
		}
		at.advance(u.slots, p.size)
	}
	p.used = at
	if p.inflight != nil {
		p.inflight.publish(at)
	}
	p.write(first, p.pending[0], true)
	if p.inflight != nil {
		p.inflight.flushed()
	}
	p.pending = p.pending[:0]
	return p.wants(first)
}

func (p *packedRing) write(at position, u usedElement, first bool) {
	flags := at.flags(true)
	if u.written > 0 {
		flags |= descWrite
	}
	off := uintptr(at.index) * descSize
	word := uint64(u.written) | uint64(u.head)<<32 | uint64(flags)<<48
	if first {
		// This is the barrier before reading what the driver wants.
		p.q.desc.Store64(off+packedRest, word)
	} else {
		p.q.desc.Put64(off+packedRest, word)
	}
	if p.q.logUsed {
		// Used elements lie among the descriptors, not in the device area.
		p.q.cfg.Mem.MarkDirty(p.q.descGPA+uint64(off), descSize)
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
	p.q.device.Store32(0, v)
	p.q.markUsed(0, 4)
}

func (p *packedRing) disableNotify() {
	if !p.mute {
		p.mute = true
		p.storeEvent(eventDisable << 16)
	}
}

func (p *packedRing) enableNotify() {
	v := uint32(eventEnable << 16)
	if p.q.eventIdx {
		v = p.avail.encode() | eventDesc<<16
	}
	p.mute = false
	p.storeEvent(v) // the barrier before looking again
}

func (p *packedRing) base() uint32 { return p.avail.encode() | p.used.encode()<<16 }

func (p *packedRing) resubmit() []Head {
	if p.inflight == nil {
		return nil
	}
	return p.inflight.pending
}
