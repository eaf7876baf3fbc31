package virtqueue

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// packedInflight keeps struct QueueRegionPacked of the shared in-flight buffer
// (vhost-user specification, "Inflight I/O tracking"). Queue.mu guards it.
type packedInflight struct {
	mem     []byte
	size    uint16
	counter uint64
	batch   []uint16 // first entries of the chains pushed since the last flush
	pending []Head
}

// Offsets in QueueRegionPacked and DescStatePacked.
const (
	pkVersion     = 8
	pkDescNum     = 10
	pkFreeHead    = 12
	pkOldFreeHead = 14
	pkUsedIdx     = 16
	pkOldUsedIdx  = 18
	pkUsedWrap    = 20
	pkOldUsedWrap = 21
	pkDescs       = 32

	pkState    = 32
	pkInflight = 0
	pkNext     = 2
	pkLast     = 4
	pkNum      = 6
	pkCounter  = 8
	pkID       = 16
	pkFlags    = 18
	pkLen      = 20
	pkAddr     = 24

	packedInflightVersion = 1
)

func newPackedInflight(mem []byte, size uint16, p *packedRing) (*packedInflight, error) {
	if len(mem) < pkDescs+pkState*int(size) {
		return nil, fmt.Errorf("the in-flight region has %d bytes, too few for a packed ring of %d", len(mem), size)
	}
	f := &packedInflight{mem: mem, size: size}
	if f.get(pkVersion) == 0 {
		clear(mem[:pkDescs+pkState*int(size)])
		f.put(pkVersion, packedInflightVersion)
		f.put(pkDescNum, size)
		for i := range size {
			f.put(f.at(i)+pkNext, i+1)
		}
		f.setUsed(pkUsedIdx, pkUsedWrap, p.used)
		f.setUsed(pkOldUsedIdx, pkOldUsedWrap, p.used)
		return f, nil
	}
	if v := f.get(pkVersion); v != packedInflightVersion {
		return nil, fmt.Errorf("the in-flight region has version %d, only %d is known", v, packedInflightVersion)
	}
	if n := f.get(pkDescNum); n != size {
		return nil, fmt.Errorf("the in-flight region is of a packed ring of %d, not of %d", n, size)
	}
	return f, f.recover(p)
}

func (f *packedInflight) get(at int) uint16    { return binary.LittleEndian.Uint16(f.mem[at:]) }
func (f *packedInflight) put(at int, v uint16) { binary.LittleEndian.PutUint16(f.mem[at:], v) }
func (f *packedInflight) at(i uint16) int      { return pkDescs + pkState*int(i) }

func (f *packedInflight) setUsed(index, wrap int, p position) {
	f.put(index, p.index)
	f.mem[wrap] = 0
	if p.wrap {
		f.mem[wrap] = 1
	}
}

func (f *packedInflight) usedAt(index, wrap int) position {
	return position{f.get(index), f.mem[wrap] != 0}
}

// recover finishes or undoes what the last flush had begun, and makes the chains
// that were in flight known to p.
func (f *packedInflight) recover(p *packedRing) error {
	old := f.usedAt(pkOldUsedIdx, pkOldUsedWrap)
	if old.index >= f.size || f.get(pkUsedIdx) >= f.size {
		return fmt.Errorf("the in-flight region says that a packed ring of %d is at %d", f.size, old.index)
	}
	if f.usedAt(pkUsedIdx, pkUsedWrap) != old {
		flags := uint16(p.q.desc.Load32(uint64(old.index)*descSize+12) >> 16)
		if flags&packedAvail != 0 == old.wrap && flags&packedUsed != 0 == old.wrap {
			// The driver has the whole batch.
			f.commit()
		}
	}
	f.put(pkFreeHead, f.get(pkOldFreeHead))
	f.setUsed(pkUsedIdx, pkUsedWrap, f.usedAt(pkOldUsedIdx, pkOldUsedWrap))
	free := f.get(pkFreeHead)
	for n := 0; free < f.size && n < int(f.size); n++ {
		f.mem[f.at(free)+pkInflight] = 0
		free = f.get(f.at(free) + pkNext)
	}
	p.used = f.usedAt(pkUsedIdx, pkUsedWrap)
	p.avail = p.used
	type entry struct {
		head    Head
		counter uint64
	}
	var left []entry
	slots := 0
	for i := range f.size {
		a := f.at(i)
		num := f.get(a + pkNum)
		if f.mem[a+pkInflight] != 1 || num == 0 || num > f.size {
			continue
		}
		pc := packedChain{slots: num, state: i}
		for j, n := i, num; n > 0 && j < f.size; n-- {
			b := f.at(j)
			pc.descs = append(pc.descs, descriptor{
				addr: binary.LittleEndian.Uint64(f.mem[b+pkAddr:]), len: binary.LittleEndian.Uint32(f.mem[b+pkLen:]),
				link: f.get(b + pkID), flags: f.get(b + pkFlags)})
			j = f.get(b + pkNext)
		}
		id := pc.descs[len(pc.descs)-1].link
		if id >= f.size {
			return fmt.Errorf("the in-flight region holds buffer id %d of a packed ring of %d", id, f.size)
		}
		p.chains[id] = pc
		c := binary.LittleEndian.Uint64(f.mem[a+pkCounter:])
		f.counter = max(f.counter, c)
		left = append(left, entry{Head(id), c})
		slots += int(num)
	}
	if slots > int(f.size) {
		return fmt.Errorf("the in-flight region holds %d descriptors of a packed ring of %d", slots, f.size)
	}
	p.avail.advance(uint16(slots), f.size)
	slices.SortStableFunc(left, func(a, b entry) int { return cmp.Compare(a.counter, b.counter) })
	for _, e := range left {
		f.pending = append(f.pending, e.head)
	}
	return nil
}

// begin notes that a chain has been popped and returns its first entry.
func (f *packedInflight) begin(descs []descriptor) uint16 {
	first := f.get(pkFreeHead)
	if first >= f.size {
		return f.size
	}
	f.counter++
	a := f.at(first)
	binary.LittleEndian.PutUint64(f.mem[a+pkCounter:], f.counter)
	f.put(a+pkNum, uint16(len(descs)))
	free, last := first, first
	for _, d := range descs {
		if free >= f.size {
			break
		}
		b := f.at(free)
		binary.LittleEndian.PutUint64(f.mem[b+pkAddr:], d.addr)
		binary.LittleEndian.PutUint32(f.mem[b+pkLen:], d.len)
		f.put(b+pkID, d.link)
		f.put(b+pkFlags, d.flags)
		last, free = free, f.get(b+pkNext)
	}
	f.put(a+pkLast, last)
	f.mem[a+pkInflight] = 1
	f.put(pkFreeHead, free)
	f.put(pkOldFreeHead, free)
	return first
}

// used notes that the chain whose first entry is i is in the next batch.
func (f *packedInflight) used(i uint16) {
	if i < f.size {
		f.batch = append(f.batch, i)
	}
}

// publish notes where the ring will be when the batch is out.
func (f *packedInflight) publish(p position) {
	free := f.get(pkFreeHead)
	for _, i := range f.batch {
		f.put(f.at(f.get(f.at(i)+pkLast))+pkNext, free)
		free = i
	}
	f.put(pkFreeHead, free)
	f.setUsed(pkUsedIdx, pkUsedWrap, p)
}

// flushed notes that the batch is out.
func (f *packedInflight) flushed(position) {
	for _, i := range f.batch {
		f.mem[f.at(i)+pkInflight] = 0
	}
	f.batch = f.batch[:0]
	f.commit()
}

func (f *packedInflight) commit() {
	f.put(pkOldFreeHead, f.get(pkFreeHead))
	f.setUsed(pkOldUsedIdx, pkOldUsedWrap, f.usedAt(pkUsedIdx, pkUsedWrap))
}
