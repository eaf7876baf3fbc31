package virtqueue

import (
	"fmt"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// packedInflight keeps struct QueueRegionPacked. Queue.mu guards it.
type packedInflight struct {
	s       guestmem.Span
	size    uint16
	counter uint64
	batch   []entries // of the chains pushed since the last flush
	pending []Head
}

// entries are the first and the last of a chain's. What the region has of the last
// is only for others: it may have been damaged.
type entries struct{ first, last uint16 }

// Offsets in QueueRegionPacked and DescStatePacked.
const (
	pkFreeHead    = 12
	pkOldFreeHead = 14
	pkUsed        = 16 // used_idx, old_used_idx, a byte for each of their wrap counters
	pkDescs       = 32

	pkState    = 32
	pkInflight = 0 // a byte, and one of padding
	pkNext     = 2
	pkLast     = 4
	pkNum      = 6
	pkCounter  = 8
	pkID       = 16
	pkFlags    = 18
	pkLen      = 20
	pkAddr     = 24
)

func newPackedInflight(mem []byte, p *packedRing) (*packedInflight, error) {
	s, fresh, err := inflightHeader(mem, pkDescs+pkState*uint64(p.size), uint32(p.size))
	if err != nil {
		return nil, err
	}
	f := &packedInflight{s: s, size: p.size}
	if !fresh {
		return f, f.recover(p)
	}
	for i := range f.size {
		s.Put16(f.state(i)+pkNext, i+1)
	}
	f.setUsed(p.used, p.used)
	s.Put16(inflightVersion, inflightKnown)
	return f, nil
}

func (f *packedInflight) state(i uint16) uintptr { return pkDescs + pkState*uintptr(i) }

// setUsed stores used as the used position and old as the committed one, both
// with one store: used_idx, old_used_idx and their wrap counters are neighbours.
func (f *packedInflight) setUsed(used, old position) {
	v := uint64(used.index) | uint64(old.index)<<16
	if used.wrap {
		v |= 1 << 32
	}
	if old.wrap {
		v |= 1 << 40
	}
	f.s.Store64(pkUsed, v)
}

func (f *packedInflight) usedAt() (used, old position) {
	v := f.s.Load64(pkUsed)
	return position{uint16(v), v>>32&0xff != 0}, position{uint16(v >> 16), v>>40&0xff != 0}
}

// recover finishes or undoes what the last flush had begun, and makes the chains
// that were in flight known to p.
func (f *packedInflight) recover(p *packedRing) error {
	used, old := f.usedAt()
	if old.index >= f.size || used.index >= f.size {
		return fmt.Errorf("the in-flight region is damaged: it says that a packed ring of %d is at %d; start the virtual machine anew", f.size, old.index)
	}
	if used != old && p.load(old.index).flags&(packedAvail|packedUsed) != old.flags(false) {
		// The driver has the whole batch, and may have made the entry available again.
		f.s.Put16(pkOldFreeHead, f.s.Load16(pkFreeHead))
		old = used
	}
	f.s.Put16(pkFreeHead, f.s.Load16(pkOldFreeHead))
	f.setUsed(old, old)
	free := f.s.Load16(pkFreeHead)
	for n := uint16(0); free < f.size && n < f.size; n++ {
		f.s.Put16(f.state(free)+pkInflight, 0)
		free = f.s.Load16(f.state(free) + pkNext)
	}
	p.used, p.avail = old, old
	return f.collect(p)
}

// collect finds the chains that are in flight.
func (f *packedInflight) collect(p *packedRing) error {
	var left []leftOver
	slots := 0
	for i := range f.size {
		at := f.state(i)
		num := f.s.Load16(at + pkNum)
		if f.s.Load16(at+pkInflight)&0xff != 1 {
			continue
		}
		if slots += int(num); num == 0 || slots > int(f.size) {
			return fmt.Errorf("the in-flight region is damaged: %d descriptors in flight in a packed ring of %d; start the virtual machine anew", slots, f.size)
		}
		p.scratch = p.scratch[:0]
		last := i
		for j, n := i, num; n > 0; n-- {
			if j >= f.size {
				return fmt.Errorf("the in-flight region is damaged: entry %d of a packed ring of %d; start the virtual machine anew", j, f.size)
			}
			last = j
			b := f.state(j)
			p.scratch = append(p.scratch, descriptor{
				addr: f.s.Load64(b + pkAddr), len: f.s.Load32(b + pkLen),
				link: f.s.Load16(b + pkID), flags: f.s.Load16(b + pkFlags)})
			j = f.s.Load16(b + pkNext)
		}
		id := p.scratch[num-1].link
		if id >= f.size || p.chains[id].slots != 0 {
			return fmt.Errorf("the in-flight region is damaged: buffer id %d in a packed ring of %d; start the virtual machine anew", id, f.size)
		}
		p.insert(Head(id))
		p.chains[id].state = entries{i, last}
		p.q.inFlight[id].Store(1)
		c := f.s.Load64(at + pkCounter)
		f.counter = max(f.counter, c+1)
		left = append(left, leftOver{Head(id), c})
	}
	p.avail.advance(uint16(slots), f.size)
	f.pending = resubmission(left)
	return nil
}

// begin notes that a chain has been popped and returns its entries.
func (f *packedInflight) begin(descs []descriptor) (entries, error) {
	first := f.s.Load16(pkFreeHead)
	free, last := first, first
	for _, d := range descs {
		if free >= f.size {
			return entries{}, fmt.Errorf("%w: the driver has more than %d descriptors in flight", ErrRing, f.size)
		}
		b := f.state(free)
		f.s.Put64(b+pkAddr, d.addr)
		f.s.Put32(b+pkLen, d.len)
		f.s.Put16(b+pkID, d.link)
		f.s.Put16(b+pkFlags, d.flags)
		last, free = free, f.s.Load16(b+pkNext)
	}
	a := f.state(first)
	f.s.Put64(a+pkCounter, f.counter)
	f.counter++
	f.s.Put16(a+pkNum, uint16(len(descs)))
	f.s.Put16(a+pkLast, last)
	f.s.Put16(a+pkInflight, 1)
	// With free_head and old_free_head, in one store, the entries are taken.
	f.s.Put32(pkFreeHead, uint32(free)|uint32(free)<<16)
	return entries{first, last}, nil
}

// used notes that the chain with the entries e is in the next batch.
func (f *packedInflight) used(e entries) { f.batch = append(f.batch, e) }

// publish notes where the ring will be when the batch is out.
func (f *packedInflight) publish(p position) {
	free := f.s.Load16(pkFreeHead)
	for _, e := range f.batch {
		f.s.Put16(f.state(e.last)+pkNext, free)
		free = e.first
	}
	f.s.Put16(pkFreeHead, free)
	_, old := f.usedAt()
	f.setUsed(p, old)
}

// flushed notes that the batch is out.
func (f *packedInflight) flushed() {
	for _, e := range f.batch {
		f.s.Put16(f.state(e.first)+pkInflight, 0)
	}
	f.batch = f.batch[:0]
	f.s.Put16(pkOldFreeHead, f.s.Load16(pkFreeHead))
	used, _ := f.usedAt()
	f.setUsed(used, used)
}
