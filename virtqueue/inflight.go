package virtqueue

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// The in-flight region of a queue says, to a process that takes over after this
// one has died, what had been popped and not completed (vhost-user specification,
// "Inflight I/O tracking"). Both formats begin with the features, 8 bytes that
// nobody uses, the version, and the number of descriptors.
const (
	inflightVersion = 8
	inflightDescNum = 10

	// inflightKnown is the only version there is. 0 is a region that nobody has
	// used yet.
	inflightKnown = 1
)

// inflightHeader checks a region for a ring of size, of which need bytes are
// used. fresh says that the caller has to fill it in.
func inflightHeader(mem []byte, need uint64, size uint32) (s guestmem.Span, fresh bool, err error) {
	s = guestmem.SpanOf(mem)
	if s.Len() < need {
		return s, false, fmt.Errorf("the in-flight region has %d bytes, too few for a ring of %d; report this as a bug of the front-end", s.Len(), size)
	}
	if !s.Aligned(8) {
		return s, false, fmt.Errorf("the in-flight region is not aligned to 8 bytes; report this as a bug of the front-end")
	}
	switch v := s.Load16(inflightVersion); {
	case v == 0:
		clear(mem[:need])
		s.Put16(inflightDescNum, uint16(size))
		return s, true, nil
	case v != inflightKnown:
		return s, false, fmt.Errorf("the in-flight region has version %d, only %d is known; start the virtual machine anew", v, inflightKnown)
	}
	if n := s.Load16(inflightDescNum); uint32(n) != size {
		return s, false, fmt.Errorf("the in-flight region is of a ring of %d, not of %d; start the virtual machine anew", n, size)
	}
	return s, false, nil
}

// forgetInflight makes a region one that nobody has used yet.
func forgetInflight(mem []byte) {
	if len(mem) >= inflightVersion+2 {
		guestmem.SpanOf(mem).Put16(inflightVersion, 0)
	}
}

// leftOver is a chain that the process before this one has left.
type leftOver struct {
	head    Head
	counter uint64
}

// resubmission returns the order in which chains are to be served again: that in
// which they were popped.
func resubmission(left []leftOver) (heads []Head) {
	slices.SortStableFunc(left, func(a, b leftOver) int { return cmp.Compare(a.counter, b.counter) })
	for _, l := range left {
		heads = append(heads, l.head)
	}
	return heads
}

// splitInflight keeps struct QueueRegionSplit. Queue.mu guards it.
//
// The process may die between any two stores here, and what it had stored by then
// is what the next one finds: stores are in the order of the program.
type splitInflight struct {
	s       guestmem.Span
	size    uint16
	counter uint64
	batch   int    // entries pushed since the last flush
	pending []Head // what the process before this one left
	fresh   bool   // there was none
}

// Offsets in QueueRegionSplit and DescStateSplit.
const (
	inflightLastBatch = 12 // last_batch_head
	inflightUsedIdx   = 14
	inflightDescs     = 16

	stateSize     = 16
	stateInflight = 0
	stateNext     = 6
	stateCounter  = 8
)

func newSplitInflight(mem []byte, size uint32, used uint16) (*splitInflight, error) {
	s, fresh, err := inflightHeader(mem, inflightDescs+stateSize*uint64(size), size)
	if err != nil {
		return nil, err
	}
	f := &splitInflight{s: s, size: uint16(size), fresh: fresh}
	if !fresh && uint32(used-s.Load16(inflightUsedIdx)) > size {
		// No batch is that large: the driver has begun anew, and what the
		// region tells is of its past.
		clear(mem[inflightLastBatch : inflightDescs+stateSize*int(size)])
		f.fresh = true
	}
	if f.fresh {
		s.Put16(inflightUsedIdx, used)
		s.Put16(inflightVersion, inflightKnown)
		return f, nil
	}
	f.recover(used)
	return f, nil
}

// recover finishes what the last flush had begun, and collects the rest.
func (f *splitInflight) recover(used uint16) {
	head := f.s.Load16(inflightLastBatch)
	for n := used - f.s.Load16(inflightUsedIdx); n > 0 && head < f.size; n-- {
		f.setInflight(head, 0)
		head = f.s.Load16(f.state(head) + stateNext)
	}
	f.s.Put16(inflightUsedIdx, used)
	var left []leftOver
	for i := range f.size {
		at := f.state(i)
		if f.s.Load16(at+stateInflight)&0xff == 1 {
			c := f.s.Load64(at + stateCounter)
			left = append(left, leftOver{Head(i), c})
			f.counter = max(f.counter, c+1)
		}
	}
	f.pending = resubmission(left)
}

func (f *splitInflight) state(head uint16) uintptr {
	return inflightDescs + stateSize*uintptr(head)
}

func (f *splitInflight) setInflight(head uint16, v uint16) {
	// A byte, and one of padding.
	f.s.Put16(f.state(head)+stateInflight, v)
}

// begin notes that head has been popped.
func (f *splitInflight) begin(head uint16) {
	f.s.Put64(f.state(head)+stateCounter, f.counter)
	f.counter++
	f.setInflight(head, 1)
}

// used notes that head is in the batch that the next flush publishes.
func (f *splitInflight) used(head uint16) {
	f.s.Put16(f.state(head)+stateNext, f.s.Load16(inflightLastBatch))
	f.s.Put16(inflightLastBatch, head)
	f.batch++
}

// flushed notes that the batch has been published up to the used index.
func (f *splitInflight) flushed(used uint16) {
	head := f.s.Load16(inflightLastBatch)
	for ; f.batch > 0 && head < f.size; f.batch-- {
		f.setInflight(head, 0)
		head = f.s.Load16(f.state(head) + stateNext)
	}
	f.batch = 0
	f.s.Put16(inflightUsedIdx, used)
}
