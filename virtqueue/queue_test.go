package virtqueue

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// formats are the features that change how a ring works.
var formats = []struct {
	name     string
	features uint64
}{
	{"split", split},
	{"split-event", split | event},
	{"packed", packed},
	{"packed-event", packed | event},
}

func eachFormat(t *testing.T, f func(t *testing.T, features uint64)) {
	for _, x := range formats {
		t.Run(x.name, func(t *testing.T) { f(t, x.features) })
	}
}

// request lays out a request of n descriptors in each direction, from slot i of
// the data area, and returns the descriptors and the readable bytes.
func (m *machine) request(i, n int) (ds []descr, sent []byte) {
	at := uint32(dataAt + 0x10000 + i%256*0x8000)
	for k := range n {
		size := uint32(1 + (i*7+k*13)%100)
		for j := range size {
			m.ram[at+j] = byte(i + k + int(j))
		}
		sent = append(sent, m.ram[at:at+size]...)
		ds = append(ds, in(at, size))
		at += 128
	}
	for range n {
		ds = append(ds, out(at, 100))
		at += 128
	}
	return ds, sent
}

// serve reads all of a chain, writes the bytes back, and returns how many.
func serve(t testing.TB, c *Chain, sent []byte) uint32 {
	t.Helper()
	got := make([]byte, c.In.Len())
	if _, err := c.In.CopyOut(got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("chain %d has %d bytes %x, the driver sent %d bytes %x", c.Head, len(got), got, len(sent), sent)
	}
	n := min(len(got), c.Out.Len())
	if _, err := c.Out.CopyIn(got[:n]); err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func mustPop(t testing.TB, q *Queue, c *Chain) {
	t.Helper()
	if ok, err := q.Pop(c); !ok {
		t.Fatal("nothing to pop: ", err)
	}
}

func mustBeEmpty(t testing.TB, q *Queue) {
	t.Helper()
	var c Chain
	if ok, err := q.Pop(&c); ok || err != nil {
		t.Fatalf("an empty ring pops %v, %v", ok, err)
	}
}

// TestChainsInAnyOrder sends requests of random shape through rings of many
// sizes, completes them in random order and batches, and over several rounds of
// the ring.
func TestChainsInAnyOrder(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		sizes := []uint32{2, 4, 8, 64, 1024}
		if features&FeatureRingPacked != 0 {
			sizes = []uint32{2, 3, 5, 7, 64, 100, 1000}
		}
		for _, size := range sizes {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				m := newMachine(t)
				d, q := m.driver(size, features), m.queue(m.config(size, features))
				rnd := rand.New(rand.NewPCG(1, uint64(size)))
				type request struct {
					head  Head
					chain *Chain
					sent  []byte
				}
				var added, popped, pushed []request
				free := int(size)
				for i := range 4000 {
					switch rnd.IntN(3) {
					case 0:
						n := 1 + rnd.IntN(min(4, int(size)/2))
						ds, sent := m.request(i, n)
						if indirect := rnd.IntN(2) == 0; indirect {
							ds = []descr{d.table(uint32(dataAt+0x900000+i%256*0x400), ds...)}
						}
						if len(ds) > free {
							continue
						}
						free -= len(ds)
						added = append(added, request{d.add(ds...), nil, sent})
					case 1:
						var c Chain
						ok, err := q.Pop(&c)
						if err != nil {
							t.Fatal(err)
						}
						if ok != (len(added) > 0) {
							t.Fatalf("pop: %v with %d chains available", ok, len(added))
						}
						if ok {
							r := added[0]
							added = added[1:]
							if c.Head != r.head {
								t.Fatalf("popped chain %d, the next is %d", c.Head, r.head)
							}
							r.chain = &c
							popped = append(popped, r)
						}
					case 2:
						rnd.Shuffle(len(popped), func(i, j int) { popped[i], popped[j] = popped[j], popped[i] })
						n := rnd.IntN(len(popped) + 1)
						for _, r := range popped[:n] {
							q.Push(r.chain, serve(t, r.chain, r.sent))
						}
						pushed = append(pushed, popped[:n]...)
						popped = popped[n:]
						if rnd.IntN(2) == 0 {
							continue
						}
						q.Flush()
						for _, r := range pushed {
							h, n, ok := d.used()
							if !ok || h != r.head || int(n) != len(r.sent) {
								t.Fatalf("used element %d, %d, %v; want chain %d, %d bytes", h, n, ok, r.head, len(r.sent))
							}
						}
						if _, _, ok := d.used(); ok {
							t.Fatal("there is one more used element than were pushed")
						}
						free = int(size)
						for _, r := range append(append([]request{}, added...), popped...) {
							free -= d.descriptors(r.head)
						}
						pushed = nil
					}
				}
			})
		}
	})
}

// TestLargestRing fills a ring of the largest size, twice, with single
// descriptors and with one chain of all of them.
func TestLargestRing(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		d, q := m.driver(MaxSize, features), m.queue(m.config(MaxSize, features))
		for range 2 {
			chains := make([]Chain, 100)
			for range MaxSize {
				d.add(out(dataAt, 1))
			}
			for i := range MaxSize {
				c := &chains[i%len(chains)]
				mustPop(t, q, c)
				q.Push(c, 1)
			}
			mustBeEmpty(t, q)
			q.Flush()
			for range MaxSize {
				if _, n, ok := d.used(); !ok || n != 1 {
					t.Fatal("a used element is missing")
				}
			}
			ds := make([]descr, MaxSize)
			for i := range ds {
				ds[i] = in(dataAt+uint32(i)*16, 8)
			}
			d.add(ds...)
			c := &chains[0]
			mustPop(t, q, c)
			if c.In.Len() != MaxSize*8 {
				t.Fatalf("%d bytes", c.In.Len())
			}
			q.Push(c, 0)
			q.Flush()
			if _, n, ok := d.used(); !ok || n != 0 {
				t.Fatal("the used element is missing")
			}
		}
	})
}

// TestNotifications checks who is told when: the driver by the device only if it
// asked, the device by the driver only between EnableNotify and DisableNotify.
func TestNotifications(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		const size = 4
		m := newMachine(t)
		d, q := m.driver(size, features), m.queue(m.config(size, features))
		var c Chain
		for round := range 20 { // over several rounds of the ring
			if q.EnableNotify() {
				t.Fatal("an empty ring has something pending")
			}
			d.add(out(dataAt, 8))
			if !d.kicks() {
				t.Fatalf("round %d: no kick though the device asked for one", round)
			}
			if !q.Pending() {
				t.Fatal("nothing is pending after a kick")
			}
			q.DisableNotify()
			mustPop(t, q, &c)
			d.add(out(dataAt, 8))
			if d.kicks() && features != split|event {
				t.Fatalf("round %d: a kick though the device asked for none", round)
			}
			if !q.EnableNotify() {
				t.Fatalf("round %d: a chain that came before EnableNotify is not seen", round)
			}
			d.wantCall()
			q.Push(&c, 8)
			if !q.Flush() {
				t.Fatalf("round %d: the driver is not told of the used element that it waits for", round)
			}
			if q.Flush() {
				t.Fatal("an empty flush tells the driver")
			}
			d.used()
			d.noCall()
			mustPop(t, q, &c)
			q.Push(&c, 8)
			if q.Flush() {
				t.Fatalf("round %d: the driver is told though it asked not to be", round)
			}
			d.used()
		}
	})
}

// TestCallForAnyOfABatch checks that with EVENT_IDX the driver is told when the
// element it waits for is anywhere in a batch, and not before nor after.
func TestCallForAnyOfABatch(t *testing.T) {
	for _, features := range []uint64{split | event, packed | event} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			const size, batch = 8, 3
			for start := range 2 * size {
				for ahead := range size {
					m := newMachine(t)
					d, q := m.driver(size, features), m.queue(m.config(size, features))
					var c Chain
					turn := func(n int) (notify bool) {
						for range n {
							d.add(out(dataAt, 8))
							mustPop(t, q, &c)
							q.Push(&c, 8)
						}
						return q.Flush()
					}
					d.noCall()
					for range start {
						turn(1)
						d.used()
					}
					d.wantCallAfter(uint16(ahead))
					if got, want := turn(batch), ahead < batch; got != want {
						t.Fatalf("from %d: told %v of %d used elements, waiting for the one after %d", start, got, batch, ahead)
					}
				}
			}
		})
	}
}

// TestGoOnWhereItStopped stops and starts rings at every position.
func TestGoOnWhereItStopped(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		size := uint32(4)
		if features&FeatureRingPacked != 0 {
			size = 5
		}
		m := newMachine(t)
		d := m.driver(size, features)
		cfg := m.config(size, features)
		for i := range 40 {
			q := m.queue(cfg)
			ds, sent := m.request(i, 1)
			h := d.add(ds...)
			var c Chain
			mustPop(t, q, &c)
			q.Push(&c, serve(t, &c, sent))
			q.Flush()
			if got, n, ok := d.used(); !ok || got != h || int(n) != len(sent) {
				t.Fatalf("start %d: used %d, %d, %v", i, got, n, ok)
			}
			cfg.Base = q.Base()
			q.Close()
		}
	})
}

// TestKeptChainsGoOn stops a ring with chains in flight, which the next queue
// serves again or completes at once.
func TestKeptChainsGoOn(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		const size = 16
		m := newMachine(t)
		d := m.driver(size, features)
		cfg := m.config(size, features)
		q := m.queue(cfg)
		var heads []Head
		var sents [][]byte
		for i := range 4 {
			ds, sent := m.request(i, 2)
			heads, sents = append(heads, d.add(ds...)), append(sents, sent)
			var c Chain
			mustPop(t, q, &c)
			if i == 1 {
				// Its used element goes over descriptors of the first.
				q.Push(&c, serve(t, &c, sent))
				q.Flush()
			}
			c.Release()
		}
		cfg.Base = q.Base()
		q.Close()
		cfg.Previous = q
		q = m.queue(cfg)
		mustBeEmpty(t, q)
		var c Chain
		if err := q.Restore(&c, heads[0]); err != nil {
			t.Fatal(err)
		}
		q.Push(&c, serve(t, &c, sents[0]))
		q.PushHead(heads[3], 7)
		if err := q.Restore(&c, heads[2]); err != nil {
			t.Fatal(err)
		}
		q.Push(&c, serve(t, &c, sents[2]))
		q.Flush()
		for _, i := range []int{1, 0, 3, 2} {
			want := len(sents[i])
			if i == 3 {
				want = 7
			}
			if h, n, ok := d.used(); !ok || h != heads[i] || int(n) != want {
				t.Fatalf("used %d, %d, %v; want chain %d, %d bytes", h, n, ok, heads[i], want)
			}
		}
		// And then the ring is as good as new.
		ds, sent := m.request(9, 3)
		d.add(ds...)
		mustPop(t, q, &c)
		q.Push(&c, serve(t, &c, sent))
	})
}

// TestRestoreRefuses lists the heads that Restore does not take.
func TestRestoreRefuses(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		d, q := m.driver(8, features), m.queue(m.config(8, features))
		d.add(in(dataAt, 16), out(dataAt, 8))
		var c Chain
		mustPop(t, q, &c)
		c.In.Skip(10)
		c.Out.Skip(8)
		if c.Rewind(); c.In.Len() != 16 || c.Out.Len() != 8 {
			t.Errorf("after Rewind there are %d and %d bytes", c.In.Len(), c.Out.Len())
		}
		for _, h := range []Head{8, 65535} {
			if err := q.Restore(&c, h); !errors.Is(err, ErrRing) {
				t.Errorf("chain %d: %v", h, err)
			}
			q.PushHead(h, 0) // is ignored
		}
		if features&FeatureRingPacked != 0 {
			if err := q.Restore(&c, 5); !errors.Is(err, ErrRing) {
				t.Errorf("a chain that is not in flight: %v", err)
			}
			q.PushHead(6, 0)
		}
		if q.Flush(); func() bool { _, _, ok := d.used(); return ok }() {
			t.Error("a chain that was not in flight is used")
		}
		c.Release()
		m.mustBeReleased(q)
	})
}

// TestRingsThatCannotBe lists what New refuses.
func TestRingsThatCannotBe(t *testing.T) {
	for _, x := range []struct {
		name     string
		features uint64
		size     uint32
		change   func(*Config)
	}{
		{"size 0", split, 0, nil},
		{"packed size 0", packed, 0, nil},
		{"size above the limit", split, 65536, nil},
		{"packed size above the limit", packed, 32769, nil},
		{"size that is no power of two", split, 12, nil},
		{"descriptors misaligned", split, 8, func(c *Config) { c.DescUser += 8 }},
		{"available ring misaligned", split, 8, func(c *Config) { c.AvailUser++ }},
		{"used ring misaligned", split, 8, func(c *Config) { c.UsedUser += 2 }},
		{"packed descriptors misaligned", packed, 8, func(c *Config) { c.DescUser += 4 }},
		{"packed driver area misaligned", packed, 8, func(c *Config) { c.AvailUser += 2 }},
		{"packed device area misaligned", packed, 8, func(c *Config) { c.UsedUser += 2 }},
		{"descriptors outside memory", split, 8, func(c *Config) { c.DescUser = 0x1000 }},
		{"available ring outside memory", split, 8, func(c *Config) { c.AvailUser = userBase + ramSize }},
		{"used ring outside memory", split, 8, func(c *Config) { c.UsedUser = ^uint64(3) }},
		{"descriptors over the end of memory", split, 8, func(c *Config) { c.DescUser = userBase + ramSize - 7*16 }},
		{"available ring over the end of memory", split, 8, func(c *Config) { c.AvailUser = userBase + ramSize - 18 }},
		{"used ring over the end of memory", split, 8, func(c *Config) { c.UsedUser = userBase + ramSize - 64 }},
		{"packed descriptors over the end of memory", packed, 8, func(c *Config) { c.DescUser = userBase + ramSize - 7*16 }},
		{"base past 16 bits", split, 8, func(c *Config) { c.Base = 0x10000 }},
		{"packed available index past the size", packed, 8, func(c *Config) { c.Base = 8 }},
		{"packed used index past the size", packed, 8, func(c *Config) { c.Base = 8 << 16 }},
		{"in-flight region too short", split, 8, func(c *Config) { c.Inflight = make([]byte, 16+8*16-1) }},
		{"packed in-flight region too short", packed, 8, func(c *Config) { c.Inflight = make([]byte, 32+8*32-1) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newMachine(t)
			cfg := m.config(x.size, x.features)
			if x.change != nil {
				x.change(&cfg)
			}
			if q, err := New(cfg); err == nil {
				q.Close()
				t.Fatal("it is accepted")
			}
			m.mustBeUnmapped()
		})
	}
}

// TestRingAtTheEndOfMemory has rings that just fit.
func TestRingAtTheEndOfMemory(t *testing.T) {
	for _, x := range []struct {
		name     string
		features uint64
		change   func(*Config)
	}{
		{"split descriptors", split, func(c *Config) { c.DescUser = userBase + ramSize - 8*16 }},
		{"split available ring", split, func(c *Config) { c.AvailUser = userBase + ramSize - 20 }},
		{"split available ring with event", split | event, func(c *Config) { c.AvailUser = userBase + ramSize - 22 }},
		{"split used ring", split, func(c *Config) { c.UsedUser = userBase + ramSize - 68 }},
		{"packed descriptors", packed, func(c *Config) { c.DescUser = userBase + ramSize - 8*16 }},
		{"packed driver area", packed, func(c *Config) { c.AvailUser = userBase + ramSize - 4 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newMachine(t)
			cfg := m.config(8, x.features)
			x.change(&cfg)
			q := m.queue(cfg)
			mustBeEmpty(t, q)
			q.EnableNotify()
		})
	}
}

// TestUsedRingIsLogged checks that what the device writes to a ring is marked.
func TestUsedRingIsLogged(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		log, dirty := m.dirtyLog()
		m.mem.SetLog(log)
		log.Close()
		const size = 1024 // its parts have several pages
		d, q := m.driver(size, features), m.queue(m.config(size, features))
		var c Chain
		step := func() {
			d.add(in(dataAt, 8))
			mustPop(t, q, &c)
			q.Push(&c, 0)
			q.Flush()
			d.used()
		}
		step()
		if n := dirty(); len(n) != 0 {
			t.Fatalf("pages %v are marked though the ring's log is off", n)
		}
		q.SetLog(true, guestBase+deviceAt)
		for range size {
			step()
		}
		q.EnableNotify()
		var want []uint64
		pages := func(at, n uint64) {
			for page := at / 4096; page <= (at+n-1)/4096; page++ {
				want = append(want, page)
			}
		}
		if features&FeatureRingPacked != 0 {
			// The used elements lie where the descriptors do.
			pages(guestBase+descAt, 16*size)
			pages(guestBase+deviceAt, 4)
		} else {
			pages(guestBase+deviceAt, 4+8*size)
		}
		if n := dirty(); fmt.Sprint(n) != fmt.Sprint(want) {
			t.Fatalf("pages %#x are marked, want %#x", n, want)
		}
	})
}

// TestErrorsNameTheirKind checks that callers can tell the two apart.
func TestErrorsNameTheirKind(t *testing.T) {
	if errors.Is(errLoop, ErrRing) || !errors.As(error(errLoop), new(*ChainError)) {
		t.Error("a broken chain counts as a broken ring")
	}
}
