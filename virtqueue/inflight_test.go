package virtqueue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shared returns an in-flight region for a ring of size.
func (m *machine) shared(size uint32, features uint64) []byte {
	n := 16 + 16*int(size)
	if features&FeatureRingPacked != 0 {
		n = 32 + 32*int(size)
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { unix.Munmap(b[:cap(b)]) })
	return b
}

// TestInflightLayout checks every field against the structures in the vhost-user
// specification, by their offsets there.
func TestInflightLayout(t *testing.T) {
	le := binary.LittleEndian
	t.Run("split", func(t *testing.T) {
		m := newMachine(t)
		d, cfg := m.driver(8, split), m.config(8, split)
		cfg.Inflight = m.shared(8, split)
		q := m.queue(cfg)
		b := cfg.Inflight
		state := func(i Head) []byte { return b[16+16*int(i):][:16] }
		var cs [3]Chain
		for i := range cs {
			d.add(in(dataAt, 8), out(dataAt, 8))
			mustPop(t, q, &cs[i])
		}
		q.Push(&cs[1], 0)
		q.Push(&cs[0], 0)
		check := func(what string, got, want uint64) {
			t.Helper()
			if got != want {
				t.Errorf("%s is %d, want %d", what, got, want)
			}
		}
		check("features", le.Uint64(b), 0)
		check("version", uint64(le.Uint16(b[8:])), 1)
		check("desc_num", uint64(le.Uint16(b[10:])), 8)
		check("last_batch_head", uint64(le.Uint16(b[12:])), uint64(cs[0].Head))
		check("used_idx", uint64(le.Uint16(b[14:])), 0)
		for i := range cs {
			s := state(cs[i].Head)
			check("inflight", uint64(s[0]), 1)
			check("counter", le.Uint64(s[8:]), uint64(i))
		}
		check("next of the batch", uint64(le.Uint16(state(cs[0].Head)[6:])), uint64(cs[1].Head))
		q.Flush()
		check("used_idx", uint64(le.Uint16(b[14:])), 2)
		for i, want := range []uint64{0, 0, 1} {
			check("inflight", uint64(state(cs[i].Head)[0]), want)
		}
	})
	t.Run("packed", func(t *testing.T) {
		m := newMachine(t)
		d, cfg := m.driver(8, packed), m.config(8, packed)
		cfg.Inflight = m.shared(8, packed)
		q := m.queue(cfg)
		b := cfg.Inflight
		state := func(i int) []byte { return b[32+32*i:][:32] }
		check := func(what string, got, want uint64) {
			t.Helper()
			if got != want {
				t.Errorf("%s is %#x, want %#x", what, got, want)
			}
		}
		header := func(free, oldFree, used, oldUsed, wrap, oldWrap uint64) {
			t.Helper()
			check("version", uint64(le.Uint16(b[8:])), 1)
			check("desc_num", uint64(le.Uint16(b[10:])), 8)
			check("free_head", uint64(le.Uint16(b[12:])), free)
			check("old_free_head", uint64(le.Uint16(b[14:])), oldFree)
			check("used_idx", uint64(le.Uint16(b[16:])), used)
			check("old_used_idx", uint64(le.Uint16(b[18:])), oldUsed)
			check("used_wrap_counter", uint64(b[20]), wrap)
			check("old_used_wrap_counter", uint64(b[21]), oldWrap)
		}
		header(0, 0, 0, 0, 1, 1)
		var cs [3]Chain
		for i := range cs {
			d.add(in(dataAt, 8), out(dataAt+0x100, 9))
			mustPop(t, q, &cs[i])
		}
		header(6, 6, 0, 0, 1, 1)
		for i := range cs {
			s, s2 := state(2*i), state(2*i+1)
			check("inflight", uint64(s[0]), 1)
			check("next", uint64(le.Uint16(s[2:])), uint64(2*i+1))
			check("last", uint64(le.Uint16(s[4:])), uint64(2*i+1))
			check("num", uint64(le.Uint16(s[6:])), 2)
			check("counter", le.Uint64(s[8:]), uint64(i))
			check("id", uint64(le.Uint16(s2[16:])), uint64(cs[i].Head))
			check("flags", uint64(le.Uint16(s[18:])), descNext|packedAvail)
			check("flags", uint64(le.Uint16(s2[18:])), descWrite|packedAvail)
			check("len", uint64(le.Uint32(s[20:])), 8)
			check("len", uint64(le.Uint32(s2[20:])), 9)
			check("addr", le.Uint64(s[24:]), guestBase+dataAt)
			check("addr", le.Uint64(s2[24:]), guestBase+dataAt+0x100)
		}
		q.Push(&cs[1], 0)
		q.Push(&cs[0], 0)
		q.Flush()
		header(0, 0, 4, 4, 1, 1)
		check("next of the last of the first free", uint64(le.Uint16(state(1)[2:])), 2)
		check("next of the last of the second free", uint64(le.Uint16(state(3)[2:])), 6)
		for i, want := range []uint64{0, 0, 1} {
			check("inflight", uint64(state(2 * i)[0]), want)
		}
		q.Push(&cs[2], 0)
		d.used()
		d.used()
		d.add(in(dataAt, 8))
		d.add(in(dataAt, 8))
		q.Flush()
		for range 2 {
			mustPop(t, q, &cs[0])
			q.Push(&cs[0], 0)
			q.Flush()
		}
		check("used_idx after the wrap", uint64(le.Uint16(b[16:])), 0)
		check("used_wrap_counter", uint64(b[20]), 0)
		check("old_used_wrap_counter", uint64(b[21]), 0)
	})
}

// field is a range of bytes that is stored in one piece.
type field struct{ at, n int }

// Where TestCrash keeps copies of the parts of a small ring, and of the in-flight
// region behind them.
const (
	crashDevice = 0x200
	crashRing   = 0x300
)

// ring copies the parts of a small ring, or puts a copy back.
func (m *machine) ring(b []byte, back bool) []byte {
	for i, at := range []int{descAt, driverAt, deviceAt} {
		if back {
			copy(m.ram[at:], b[i*0x100:][:0x100])
		} else {
			copy(b[i*0x100:], m.ram[at:][:0x100])
		}
	}
	return b
}

// crashes returns what shared memory looks like in front of each store, given it
// before and after a step, and the fields in the order in which the specification
// has them stored. Offsets from crashRing on are of the in-flight region.
func crashes(before, after []byte, order []field) (states [][]byte) {
	now := bytes.Clone(before)
	for _, f := range order {
		states = append(states, bytes.Clone(now))
		copy(now[f.at:f.at+f.n], after[f.at:])
	}
	return append(states, now)
}

// TestCrash kills the device in front of each of its stores while it pops, pushes
// and flushes, and has another one take over. No request is lost, none that the
// driver has got back is served again, and those left are served in the order in
// which they came. Crashes inside a flush are those between the used ring and the
// in-flight region.
func TestCrash(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		isPacked := features&FeatureRingPacked != 0
		size := uint32(4)
		if isPacked {
			size = 5
		}
		for start := range int(2 * size) {
			for _, batch := range [][]int{{1}, {2, 0}, {0, 1, 2}} {
				t.Run(fmt.Sprintf("at %d, batch %v", start, batch), func(t *testing.T) {
					testCrash(t, size, features, start, batch)
				})
			}
		}
	})
}

func testCrash(t *testing.T, size uint32, features uint64, start int, batch []int) {
	isPacked := features&FeatureRingPacked != 0
	m := newMachine(t)
	d, cfg := m.driver(size, features), m.config(size, features)
	cfg.Inflight = m.shared(size, features)
	q := m.queue(cfg)
	for range start {
		var c Chain
		d.add(in(dataAt, 8))
		mustPop(t, q, &c)
		q.Push(&c, 0)
		q.Flush()
		d.used()
	}
	shared := func() []byte { return append(m.ring(make([]byte, crashRing), false), cfg.Inflight...) }

	// Three requests, the first of two descriptors. They differ in length.
	var cs [3]Chain
	for i := range cs {
		ds := []descr{in(dataAt+uint32(i)*0x100, uint32(10+i))}
		if i == 0 {
			ds = append(ds, out(dataAt+0x1000, 100))
		}
		d.add(ds...)
	}
	check := func(what string, states [][]byte) {
		for i, s := range states {
			m.mustTakeOver(fmt.Sprintf("%s, in front of store %d of %d", what, i, len(states)-1), s, d, cfg)
		}
	}
	state := func(i int) int { return crashRing + 16 + 16*i }
	if isPacked {
		state = func(i int) int { return crashRing + 32 + 32*i }
	}
	for i := range cs {
		before := shared()
		mustPop(t, q, &cs[i])
		var order []field
		if isPacked {
			for k := range int(size) { // all but the inflight byte
				order = append(order, field{state(k) + 2, 30})
			}
			for k := range int(size) {
				order = append(order, field{state(k), 1})
			}
			order = append(order, field{crashRing + 12, 4})
		} else {
			h := int(cs[i].Head)
			order = []field{{state(h) + 8, 8}, {state(h), 1}}
		}
		check(fmt.Sprint("pop ", i), crashes(before, shared(), order))
	}

	before := shared()
	for _, i := range batch {
		q.Push(&cs[i], 5)
	}
	pushed := shared()
	check("push", [][]byte{pushed})
	q.Flush()
	after := shared()
	var order []field
	if isPacked {
		for k := range int(size) {
			order = append(order, field{state(k) + 2, 2}) // next
		}
		order = append(order, field{crashRing + 12, 2}) // free_head
		// used_idx and its wrap counter: one store with the old ones unchanged.
		order = append(order, field{})
		first := (start) % int(size)
		for k := 1; k < int(size); k++ {
			order = append(order, field{(first + k) % int(size) * 16, 16})
		}
		order = append(order, field{first * 16, 16})
		for k := range int(size) {
			order = append(order, field{state(k), 1})
		}
		order = append(order, field{crashRing + 14, 2}, field{crashRing + 16, 6})
		states := crashes(before, after, order)
		// The field left empty: used_idx without old_used_idx.
		for i := int(size) + 2; i < len(states)-1; i++ {
			copy(states[i][crashRing+16:], after[crashRing+16:crashRing+18])
			states[i][crashRing+20] = after[crashRing+20]
		}
		check("flush", states)
	} else {
		order = append(order, field{crashDevice, 4})
		for i := len(batch) - 1; i >= 0; i-- {
			order = append(order, field{state(int(cs[batch[i]].Head)), 1})
		}
		order = append(order, field{crashRing + 14, 2})
		check("flush", crashes(pushed, after, order))
	}
}

// mustTakeOver starts a device on what is left in shared memory, serves all
// requests, and checks that the driver gets each of them once. Afterwards all is
// as it was.
func (m *machine) mustTakeOver(what string, shared []byte, d driver, cfg Config) {
	m.t.Helper()
	ring, inflight := m.ring(make([]byte, crashRing), false), bytes.Clone(cfg.Inflight)
	defer func() {
		m.ring(ring, true)
		copy(cfg.Inflight, inflight)
	}()
	m.ring(shared[:crashRing], true)
	copy(cfg.Inflight, shared[crashRing:])
	d = d.clone()

	// What the driver has got, it got before the crash.
	got := map[int]bool{}
	was := map[Head]int{}
	for h, i := range d.order() {
		was[h] = i
	}
	for {
		h, _, ok := d.used()
		if !ok {
			break
		}
		got[was[h]] = true
	}
	// The front-end sets the base as QEMU does: from the used index, which
	// the in-flight region overrides.
	cfg.Base = d.base()
	q, err := New(cfg)
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
	defer q.Close()
	var c Chain
	last := -1
	take := func() {
		m.t.Helper()
		i := c.In.Len() - 10
		if i <= last {
			m.t.Fatalf("%s: request %d is served after request %d", what, i, last)
		}
		if got[i] {
			m.t.Fatalf("%s: request %d is served again though the driver has it back", what, i)
		}
		last = i
		got[i] = true
		q.Push(&c, 0)
	}
	for _, h := range q.Resubmit() {
		if err := q.Restore(&c, h); err != nil {
			m.t.Fatalf("%s: %v", what, err)
		}
		take()
	}
	for {
		ok, err := q.Pop(&c)
		if err != nil {
			m.t.Fatalf("%s: %v", what, err)
		}
		if !ok {
			break
		}
		take()
	}
	q.Flush()
	for i := range 3 {
		if !got[i] {
			m.t.Fatalf("%s: request %d is lost", what, i)
		}
	}
	for range len(d.order()) {
		if _, _, ok := d.used(); !ok {
			m.t.Fatalf("%s: the driver misses a used element", what)
		}
	}
	// The ring goes on for two rounds, and the next crash is survived too.
	for range 2 * cfg.Size {
		h := d.add(in(dataAt, 8))
		mustPop(m.t, q, &c)
		q.Push(&c, 0)
		q.Flush()
		if u, _, ok := d.used(); !ok || u != h {
			m.t.Fatalf("%s: the ring does not go on", what)
		}
	}
	cfg.Base = d.base()
	again, err := New(cfg)
	if err != nil || len(again.Resubmit()) != 0 {
		m.t.Fatalf("%s: after all is done %v is left, %v", what, again.Resubmit(), err)
	}
	again.Close()
}

// TestInflightOfADriverThatBeganAnew tells the queue that what is in flight is of
// the driver's past: nothing of it is served, wherever the ring was.
func TestInflightOfADriverThatBeganAnew(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		for _, served := range []int{0, 3, 8, 16, 20} {
			m := newMachine(t)
			d, cfg := m.driver(8, features), m.config(8, features)
			cfg.Inflight = m.shared(8, features)
			q := m.queue(cfg)
			var c Chain
			for range served {
				d.add(in(dataAt, 8))
				mustPop(t, q, &c)
				q.Push(&c, 0)
				q.Flush()
				d.used()
			}
			for range 2 {
				d.add(in(dataAt, 8))
				mustPop(t, q, &c)
				c.Release()
			}
			q.Close()

			clear(m.ram[:dataAt])
			d = m.driver(8, features)
			cfg.Anew = true
			q = m.queue(cfg)
			if heads := q.Resubmit(); len(heads) != 0 {
				t.Fatalf("after %d requests chains %v of the past are served", served, heads)
			}
			for range 20 {
				h := d.add(in(dataAt, 8))
				mustPop(t, q, &c)
				q.Push(&c, 0)
				q.Flush()
				if u, _, ok := d.used(); !ok || u != h {
					t.Fatalf("after %d requests: used %d, %v", served, u, ok)
				}
			}
			q.Close()
		}
	})
}

// TestInflightOfAPastDriver starts a ring that the driver has set up anew, with
// the region as it was: nothing of it is served.
func TestInflightOfAPastDriver(t *testing.T) {
	m := newMachine(t)
	d, cfg := m.driver(8, split), m.config(8, split)
	cfg.Inflight = m.shared(8, split)
	q := m.queue(cfg)
	var c Chain
	for range 20 {
		d.add(in(dataAt, 8))
		mustPop(t, q, &c)
		q.Push(&c, 0)
		q.Flush()
		d.used()
	}
	d.add(in(dataAt, 8))
	mustPop(t, q, &c)
	c.Release()
	q.Close()

	clear(m.ram[:dataAt])
	d = m.driver(8, split)
	q = m.queue(cfg)
	if heads := q.Resubmit(); len(heads) != 0 {
		t.Fatalf("chains %v of the past are served", heads)
	}
	h := d.add(in(dataAt, 8))
	mustPop(t, q, &c)
	q.Push(&c, 0)
	q.Flush()
	if u, _, ok := d.used(); !ok || u != h {
		t.Fatalf("used %d, %v", u, ok)
	}
}

// TestBaseIsThatOfTheInflightRegion gives a wrong base to the next process, as a
// front-end does that could not ask the one that died.
func TestBaseIsThatOfTheInflightRegion(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		d, cfg := m.driver(8, features), m.config(8, features)
		cfg.Inflight = m.shared(8, features)
		q := m.queue(cfg)
		var c Chain
		for range 5 {
			d.add(in(dataAt, 8))
			mustPop(t, q, &c)
			q.Push(&c, 0)
			q.Flush()
			d.used()
		}
		q.Close()
		q = m.queue(cfg) // with the base of the first start
		mustBeEmpty(t, q)
		h := d.add(in(dataAt, 8))
		mustPop(t, q, &c)
		q.Push(&c, 0)
		q.Flush()
		if u, _, ok := d.used(); !ok || u != h {
			t.Fatalf("used %d, %v", u, ok)
		}
	})
}

// TestInflightOfAHeadThatIsReusedAtOnce has one thread flush, and another pop the
// same head, which the driver reuses as soon as it sees the used index. Whatever the
// first is still at, the region says that the second has it.
func TestInflightOfAHeadThatIsReusedAtOnce(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		d, cfg := m.driver(1, features), m.config(1, features)
		cfg.Inflight = m.shared(1, features)
		cfg.LogUsed = true
		at := 16
		if features&FeatureRingPacked != 0 {
			at = 32
		}
		// The log's event is written to in the middle of the flush.
		log, _ := m.dirtyLog()
		event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(event)
		if err := log.SetEvent(event); err != nil {
			t.Fatal(err)
		}
		m.mem.SetLog(log)
		log.Close()
		q := m.queue(cfg)
		begin, flushed := make(chan Head), make(chan bool)
		go func() {
			for h := range begin {
				q.PushHead(h, 0)
				q.Flush()
				flushed <- true
			}
		}()
		defer close(begin)
		var c Chain
		d.add(in(dataAt, 8))
		mustPop(t, q, &c)
		for i := range 2000 {
			h := c.Head
			c.Release()
			begin <- h
			for deadline := time.Now().Add(10 * time.Second); ; {
				if _, _, ok := d.used(); ok {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nothing is used")
				}
			}
			d.add(in(dataAt, 8))
			mustPop(t, q, &c)
			<-flushed
			if cfg.Inflight[at] != 1 {
				t.Fatalf("request %d is in flight, and the region does not say so", i)
			}
		}
		c.Release()
	})
}

// TestCrashBetweenABatchAndItsRecord has the driver go on with what it got before the
// device, which is killed there, has noted that: the next one takes nothing back.
func TestCrashBetweenABatchAndItsRecord(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		for start := range 8 {
			m := newMachine(t)
			d, cfg := m.driver(4, features), m.config(4, features)
			cfg.Inflight = m.shared(4, features)
			q := m.queue(cfg)
			var c Chain
			for range start {
				d.add(in(dataAt, 8))
				mustPop(t, q, &c)
				q.Push(&c, 0)
				q.Flush()
				d.used()
			}
			for range 4 {
				d.add(in(dataAt, 8))
				mustPop(t, q, &c)
				q.Push(&c, 0)
			}
			pushed := bytes.Clone(cfg.Inflight)
			if features&FeatureRingPacked != 0 {
				// What comes before the used elements: free_head, used_idx and its
				// wrap counter, and the list of free entries.
				q.Flush()
				after := cfg.Inflight
				for k := range 4 {
					copy(pushed[32+32*k+2:][:2], after[32+32*k+2:])
				}
				copy(pushed[12:14], after[12:])
				copy(pushed[16:18], after[16:])
				pushed[20] = after[20]
			} else {
				q.Flush()
			}
			q.Close()
			copy(cfg.Inflight, pushed)
			for range 4 {
				if _, _, ok := d.used(); !ok {
					t.Fatal("the driver misses a used element")
				}
			}
			cfg.Base = d.base()
			var want []Head
			for range 4 {
				want = append(want, d.add(in(dataAt, 8)))
			}
			q, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if left := q.Resubmit(); len(left) != 0 {
				t.Fatalf("at %d: chains %v, which the driver got, are served again", start, left)
			}
			for _, h := range want {
				mustPop(t, q, &c)
				q.Push(&c, 0)
				q.Flush()
				if u, _, ok := d.used(); !ok || u != h {
					t.Fatalf("at %d: used %d, %v instead of %d", start, u, ok, h)
				}
			}
			q.Close()
		}
	})
}

// TestDamagedInflightRegion has regions that no device leaves. They are refused,
// or the ring works.
func TestDamagedInflightRegion(t *testing.T) {
	le := binary.LittleEndian
	const size = 4
	for _, x := range []struct {
		name     string
		features uint64
		damage   func(b []byte)
		refused  bool
	}{
		{"split version", split, func(b []byte) { le.PutUint16(b[8:], 2) }, true},
		{"split size", split, func(b []byte) { le.PutUint16(b[10:], size+1) }, true},
		{"split last batch outside", split, func(b []byte) { le.PutUint16(b[12:], size); le.PutUint16(b[14:], 5) }, false},
		{"split batch that loops", split, func(b []byte) { le.PutUint16(b[14:], 65532) }, false},
		{"split next outside", split, func(b []byte) { le.PutUint16(b[14:], 65534); le.PutUint16(b[16+6:], 65535) }, false},
		{"packed version", packed, func(b []byte) { le.PutUint16(b[8:], 2) }, true},
		{"packed size", packed, func(b []byte) { le.PutUint16(b[10:], size-1) }, true},
		{"packed used outside", packed, func(b []byte) { le.PutUint16(b[16:], size); le.PutUint16(b[18:], size) }, true},
		{"packed old used outside", packed, func(b []byte) { le.PutUint16(b[18:], size) }, true},
		{"packed free list that loops", packed, func(b []byte) { le.PutUint16(b[32+2:], 0) }, false},
		{"packed free head outside", packed, func(b []byte) { le.PutUint16(b[12:], 65535); le.PutUint16(b[14:], 65535) }, false},
		{"packed chain of none", packed, func(b []byte) { b[32+3*32] = 1; le.PutUint16(b[14:], size) }, true},
		{"packed chain longer than the ring", packed, func(b []byte) {
			b[32] = 1
			le.PutUint16(b[32+6:], size+1)
			le.PutUint16(b[14:], size)
		}, true},
		{"packed chain that leads outside", packed, func(b []byte) {
			b[32] = 1
			le.PutUint16(b[32+6:], 2)
			le.PutUint16(b[32+2:], 65535)
			le.PutUint16(b[14:], size)
		}, true},
		{"packed buffer id outside", packed, func(b []byte) {
			b[32] = 1
			le.PutUint16(b[32+6:], 1)
			le.PutUint16(b[32+16:], size)
			le.PutUint16(b[14:], size)
		}, true},
		{"packed buffer id twice", packed, func(b []byte) {
			for i := range 2 {
				b[32+32*i] = 1
				le.PutUint16(b[32+32*i+6:], 1)
			}
			le.PutUint16(b[14:], size)
		}, true},
		{"packed last outside", packed, func(b []byte) {
			b[32] = 1
			le.PutUint16(b[32+4:], 65535)
			le.PutUint16(b[32+6:], 1)
			le.PutUint16(b[14:], size)
		}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newMachine(t)
			d, cfg := m.driver(size, x.features), m.config(size, x.features)
			cfg.Inflight = m.shared(size, x.features)
			q := m.queue(cfg)
			q.Close()
			x.damage(cfg.Inflight)
			q, err := New(cfg)
			if (err != nil) != x.refused {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			var c Chain
			for _, h := range q.Resubmit() {
				q.PushHead(h, 0)
			}
			q.Flush()
			for range 10 {
				d.add(in(dataAt, 8))
				if ok, _ := q.Pop(&c); !ok {
					break
				}
				q.Push(&c, 0)
				q.Flush()
				d.used()
			}
			q.Close()
		})
	}
}
