package virtqueue

import (
	"fmt"
	"testing"
)

// shape is a ring and how a request lies in it.
type shape struct {
	name     string
	features uint64
	descs    int // descriptors of a request, half in each direction
	indirect bool
	batch    int
}

var shapes = []shape{
	{"split", split, 2, false, 1},
	{"split-event", split | event, 2, false, 1},
	{"split-event-batch", split | event, 4, false, 16},
	{"split-indirect", split | event, 4, true, 1},
	{"split-indirect-260", split | event, 260, true, 1},
	{"packed", packed, 2, false, 1},
	{"packed-event", packed | event, 2, false, 1},
	{"packed-event-batch", packed | event, 4, false, 16},
	{"packed-indirect", packed | event, 4, true, 1},
}

// roundTrip returns a function that sends batch requests through the ring; the
// device reads 40 bytes of each and writes 16.
func (s shape) roundTrip(t testing.TB) func() {
	const size = 128
	m := newMachine(t)
	d := m.driver(size, s.features)
	q := m.queue(m.config(size, s.features))
	var ds []descr
	for i := range s.descs {
		if at := uint32(dataAt + 0x20000 + i*8192); i < s.descs/2 {
			ds = append(ds, in(at, 64))
		} else {
			ds = append(ds, out(at, 4096))
		}
	}
	var chains [16]Chain
	var header [40]byte
	var reply [16]byte
	add := d.prepare(ds, s.indirect)
	return func() {
		for range s.batch {
			add()
		}
		for i := range s.batch {
			c := &chains[i]
			ok, err := q.Pop(c)
			if !ok {
				t.Fatal("nothing to pop: ", err)
			}
			if _, err := c.In.CopyOut(header[:]); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Out.CopyIn(reply[:]); err != nil {
				t.Fatal(err)
			}
		}
		for i := range s.batch {
			q.Push(&chains[i], uint32(len(reply)))
		}
		q.Flush()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, s := range shapes {
		b.Run(fmt.Sprintf("%s/descs=%d/batch=%d", s.name, s.descs, s.batch), func(b *testing.B) {
			step := s.roundTrip(b)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += s.batch {
				step()
			}
		})
	}
}

func TestRequestsDoNotAllocate(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			step := s.roundTrip(t)
			for range 300 {
				step() // to grow what grows
			}
			if n := testing.AllocsPerRun(200, step); n != 0 {
				t.Errorf("%v allocations in %d requests", n, s.batch)
			}
		})
	}
}
