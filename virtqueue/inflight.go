package virtqueue

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// splitInflight keeps struct QueueRegionSplit of the shared in-flight buffer
// (vhost-user specification, "Inflight I/O tracking"): what a process that takes
// over after this one has died needs to know. Queue.mu guards it, but for begin,
// which touches only the entry of a chain that nobody else has yet.
type splitInflight struct {
	mem     []byte
	size    uint16
	counter uint64
	batch   int    // entries pushed since the last flush
	pending []Head // what the process before this one left
}

// Offsets in QueueRegionSplit and DescStateSplit.
const (
	inflightVersion   = 8
	inflightDescNum   = 10
	inflightLastBatch = 12
	inflightUsedIdx   = 14
	inflightDescs     = 16

	stateSize     = 16
	stateInflight = 0
	stateNext     = 6
	stateCounter  = 8

	splitInflightVersion = 1
)

func newSplitInflight(mem []byte, size uint32, used uint16) (*splitInflight, error) {
	if uint64(len(mem)) < inflightDescs+stateSize*uint64(size) {
		return nil, fmt.Errorf("the in-flight region has %d bytes, too few for a ring of %d", len(mem), size)
	}
	f := &splitInflight{mem: mem, size: uint16(size)}
	le := binary.LittleEndian
	if le.Uint16(mem[inflightVersion:]) == 0 {
		clear(mem[:inflightDescs+stateSize*int(size)])
		le.PutUint16(mem[inflightVersion:], splitInflightVersion)
		le.PutUint16(mem[inflightDescNum:], uint16(size))
		le.PutUint16(mem[inflightUsedIdx:], used)
		return f, nil
	}
	if v := le.Uint16(mem[inflightVersion:]); v != splitInflightVersion {
		return nil, fmt.Errorf("the in-flight region has version %d, only %d is known", v, splitInflightVersion)
	}
	if n := le.Uint16(mem[inflightDescNum:]); uint32(n) != size {
		return nil, fmt.Errorf("the in-flight region is of a ring of %d, not of %d", n, size)
	}
	f.recover(used)
	return f, nil
}

// recover finishes what the last flush had begun, and collects the rest.
func (f *splitInflight) recover(used uint16) {
	le := binary.LittleEndian
	head := le.Uint16(f.mem[inflightLastBatch:])
	for n := used - le.Uint16(f.mem[inflightUsedIdx:]); n > 0 && head < f.size; n-- {
		s := f.state(head)
		s[stateInflight] = 0
		head = le.Uint16(s[stateNext:])
	}
	le.PutUint16(f.mem[inflightUsedIdx:], used)
	type entry struct {
		head    Head
		counter uint64
	}
	var left []entry
	for i := range f.size {
		s := f.state(i)
		c := le.Uint64(s[stateCounter:])
		if s[stateInflight] == 1 {
			left = append(left, entry{Head(i), c})
			f.counter = max(f.counter, c)
		}
	}
	slices.SortStableFunc(left, func(a, b entry) int {
		if a.counter < b.counter {
			return -1
		}
		return 1
	})
	for _, e := range left {
		f.pending = append(f.pending, e.head)
	}
}

func (f *splitInflight) state(head uint16) []byte {
	at := inflightDescs + stateSize*int(head)
	return f.mem[at : at+stateSize]
}

// begin notes that head has been popped.
func (f *splitInflight) begin(head uint16) {
	s := f.state(head)
	f.counter++
	binary.LittleEndian.PutUint64(s[stateCounter:], f.counter)
	s[stateInflight] = 1
}

// used notes that head is in the batch that the next flush publishes.
func (f *splitInflight) used(head uint16) {
	s := f.state(head)
	le := binary.LittleEndian
	le.PutUint16(s[stateNext:], le.Uint16(f.mem[inflightLastBatch:]))
	le.PutUint16(f.mem[inflightLastBatch:], head)
	f.batch++
}

// flushed notes that the batch has been published up to the used index.
func (f *splitInflight) flushed(used uint16) {
	le := binary.LittleEndian
	head := le.Uint16(f.mem[inflightLastBatch:])
	for ; f.batch > 0 && head < f.size; f.batch-- {
		s := f.state(head)
		s[stateInflight] = 0
		head = le.Uint16(s[stateNext:])
	}
	f.batch = 0
	le.PutUint16(f.mem[inflightUsedIdx:], used)
}
