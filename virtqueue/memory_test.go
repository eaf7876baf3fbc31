package virtqueue

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// TestRingMemoryGoesAway cuts the file that the ring lies in, which makes every
// touch of it a SIGBUS, before each of the queue's calls.
func TestRingMemoryGoesAway(t *testing.T) {
	calls := map[string]func(q *Queue, c *Chain){
		"Pop":           func(q *Queue, c *Chain) { q.Pop(c) },
		"Pending":       func(q *Queue, c *Chain) { q.Pending() },
		"Push and Pop":  func(q *Queue, c *Chain) { q.Push(c, 1); q.Pop(c) },
		"Flush":         func(q *Queue, c *Chain) { q.Push(c, 1); q.Flush() },
		"EnableNotify":  func(q *Queue, c *Chain) { q.EnableNotify() },
		"DisableNotify": func(q *Queue, c *Chain) { q.DisableNotify() },
		"Restore":       func(q *Queue, c *Chain) { q.Restore(c, c.Head) },
	}
	eachFormat(t, func(t *testing.T, features uint64) {
		for name, call := range calls {
			for _, kind := range []guestmem.Kind{guestmem.RAM, guestmem.File} {
				t.Run(name+" in "+kind.String(), func(t *testing.T) {
					m := newMachine(t)
					if err := m.mem.Replace([]guestmem.RegionSpec{m.region(kind)}); err != nil {
						t.Fatal(err)
					}
					d, q := m.driver(8, features), m.queue(m.config(8, features))
					ds := []descr{in(dataAt, 8)}
					d.add(ds...)
					d.add(ds...)
					var c Chain
					mustPop(t, q, &c)
					if err := unix.Ftruncate(m.fd, 0); err != nil {
						t.Fatal(err)
					}
					call(q, &c)
					if ok, err := q.Pop(&c); ok || !errors.Is(err, ErrRing) {
						t.Errorf("pop: %v, %v", ok, err)
					}
					c.Release()
					m.mustBeReleased(q)
				})
			}
		}
	})
}

// TestInflightRegionGoesAway cuts the file of the in-flight region.
func TestInflightRegionGoesAway(t *testing.T) {
	calls := map[string]func(q *Queue, c *Chain){
		"Pop":   func(q *Queue, c *Chain) { q.Pop(c) },
		"Push":  func(q *Queue, c *Chain) { q.Push(c, 1) },
		"Flush": func(q *Queue, c *Chain) { q.Push(c, 1); q.Flush() },
	}
	eachFormat(t, func(t *testing.T, features uint64) {
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				m, other := newMachine(t), newMachine(t)
				d, cfg := m.driver(8, features), m.config(8, features)
				cfg.Inflight = other.ram[:8192]
				q := m.queue(cfg)
				d.add(in(dataAt, 8))
				d.add(in(dataAt, 8))
				var c Chain
				mustPop(t, q, &c)
				if err := unix.Ftruncate(other.fd, 0); err != nil {
					t.Fatal(err)
				}
				call(q, &c)
				q.Flush()
				if ok, err := q.Pop(&c); ok || !errors.Is(err, ErrRing) {
					t.Errorf("pop: %v, %v", ok, err)
				}
				c.Release()
				m.mustBeReleased(q)
			})
		}
	})
}

// TestOtherPanicsGoOn checks that only faults of ring memory are caught.
func TestOtherPanicsGoOn(t *testing.T) {
	m := newMachine(t)
	q := m.queue(m.config(8, split))
	defer func() {
		if recover() == nil {
			t.Error("a nil chain is no panic")
		}
		if q.broken.Load() {
			t.Error("the ring counts as broken")
		}
	}()
	m.driver(8, split).add(in(dataAt, 8))
	q.Pop(nil)
}

// TestRingMovesWithTheMemory changes the memory table between any two calls: the
// queue finds its ring in the new mapping, and what is in flight keeps the old.
func TestRingMovesWithTheMemory(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		change := func() {
			t.Helper()
			if err := m.mem.Remove(guestBase, userBase, ramSize); err != nil {
				t.Fatal(err)
			}
			if err := m.mem.Add(m.region(guestmem.RAM)); err != nil {
				t.Fatal(err)
			}
		}
		d, q := m.driver(8, features), m.queue(m.config(8, features))
		for i := range 20 {
			var c Chain
			ds, sent := m.request(i, 1)
			change()
			h := d.add(ds...)
			change()
			mustPop(t, q, &c)
			change()
			n := serve(t, &c, sent)
			change()
			q.Push(&c, n)
			change()
			q.Flush()
			if u, _, ok := d.used(); !ok || u != h {
				t.Fatalf("used %d, %v", u, ok)
			}
			change()
			if q.EnableNotify() {
				t.Fatal("something is pending")
			}
			change()
			m.mem.Settle()
			if n := m.mappings(); n != 2 {
				t.Fatalf("%d mappings while the ring rests, want the driver's and the current one", n)
			}
			change()
			q.DisableNotify()
		}
		m.mustBeReleased(q)
	})
}

// TestRestingQueueHoldsNoMemory checks that a queue whose popper sleeps does not
// keep removed memory, not even after others have pushed, and that a chain does.
func TestRestingQueueHoldsNoMemory(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		d, q := m.driver(8, features), m.queue(m.config(8, features))
		d.add(in(dataAt, 8))
		var c Chain
		mustPop(t, q, &c)
		if q.EnableNotify() {
			t.Fatal("something is pending")
		}
		check := func(when string, want int) {
			t.Helper()
			m.mem.Settle()
			if n := m.mappings(); n != want {
				t.Errorf("%s: %d mappings, want %d", when, n, want)
			}
		}
		renew := func() {
			t.Helper()
			m.mem.Remove(guestBase, userBase, ramSize)
			if err := m.mem.Add(m.region(guestmem.RAM)); err != nil {
				t.Fatal(err)
			}
		}
		renew()
		check("with a chain in flight", 3)
		q.Push(&c, 0)
		q.Flush()
		renew()
		check("after the chain is done", 2)
		if _, _, ok := d.used(); !ok {
			t.Error("the used element is missing")
		}
		d.add(in(dataAt, 8))
		mustPop(t, q, &c)
		q.Push(&c, 0)
		q.Flush()
		m.mustBeReleased(q)
	})
}

// TestRingLosesItsMemory removes the region of the ring: that breaks the ring.
func TestRingLosesItsMemory(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		m := newMachine(t)
		q := m.queue(m.config(8, features))
		m.mustBeRemoved()
		if ok, err := q.Pop(new(Chain)); ok || !errors.Is(err, ErrRing) || !errors.Is(err, guestmem.ErrNotMapped) {
			t.Fatalf("pop: %v, %v", ok, err)
		}
		m.mustBeReleased(q)
	})
}

func (m *machine) mustBeRemoved() {
	m.t.Helper()
	if err := m.mem.Remove(guestBase, userBase, ramSize); err != nil {
		m.t.Fatal(err)
	}
}

// TestMemoryChangesUnderLoad has a driver, a popper, workers that push, and a
// session that takes away and gives back all memory, all at the same time. A
// mapping that goes too early is a fault, which ends the test's process.
func TestMemoryChangesUnderLoad(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		const size, requests, workers = 64, 10000, 3
		m := newMachine(t)
		d, q := m.driver(size, features), m.queue(m.config(size, features))
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() { // the session
			for !stop.Load() {
				if err := m.mem.Replace([]guestmem.RegionSpec{m.region(guestmem.RAM), {
					GuestAddr: nextBase, UserAddr: userBase + ramSize, Size: 4096, FD: m.region(guestmem.RAM).FD}}); err != nil {
					t.Error(err)
				}
				m.mem.Remove(nextBase, userBase+ramSize, 4096)
				runtime.Gosched()
			}
		})
		work := make(chan *Chain, size)
		free := make(chan *Chain, size)
		for range size {
			free <- new(Chain)
		}
		for range workers {
			wg.Go(func() {
				var b [8]byte
				for c := range work {
					if _, err := c.In.CopyOut(b[:]); err != nil {
						t.Error(err)
					}
					if _, err := c.Out.CopyIn(b[:]); err != nil {
						t.Error(err)
					}
					q.Push(c, 8)
					q.Flush()
					free <- c
				}
			})
		}
		wg.Go(func() { // the popper
			defer close(work)
			for n := 0; n < requests; {
				c := <-free
				ok, err := q.Pop(c)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					n++
					work <- c
					continue
				}
				free <- c
				if !q.EnableNotify() {
					runtime.Gosched()
				}
				q.DisableNotify()
			}
		})
		added, done := 0, 0
		for done < requests && !t.Failed() {
			for added < requests && added-done < size/2 {
				d.add(in(dataAt+uint32(added%1000)*16, 8), out(dataAt+0x10000+uint32(added%1000)*16, 8))
				added++
			}
			if _, n, ok := d.used(); ok {
				if n != 8 {
					t.Fatalf("used length %d", n)
				}
				done++
			} else {
				runtime.Gosched()
			}
		}
		stop.Store(true)
		wg.Wait()
		m.mustBeReleased(q)
	})
}

// TestKicksAreNotLost has a driver that kicks only when asked, and a popper that
// sleeps until then. It fails when either side can miss what the other has
// stored. Without the barrier in enableNotify that takes two idle processors and
// about a million requests.
func TestKicksAreNotLost(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		const size, requests = 4, 300000
		end := time.Now().Add(2 * time.Second) // on a busy machine
		m := newMachine(t)
		d, q := m.driver(size, features), m.queue(m.config(size, features))
		var kicked, done atomic.Uint32
		var wg sync.WaitGroup
		var stop atomic.Bool
		wg.Go(func() {
			var c Chain
			for !stop.Load() {
				ok, err := q.Pop(&c)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					q.Push(&c, 0)
					q.Flush()
					done.Add(1)
					continue
				}
				kicked.Store(0)
				if q.EnableNotify() {
					continue
				}
				for kicked.Load() == 0 && !stop.Load() {
					runtime.Gosched()
				}
			}
		})
		for i := range uint32(requests) {
			if i%100 == 0 && time.Now().After(end) {
				break
			}
			d.add(in(dataAt, 8))
			if d.kicks() {
				kicked.Store(1)
			}
			for begin := time.Now(); done.Load() == i && !t.Failed(); {
				runtime.Gosched()
				if time.Since(begin) > 20*time.Second {
					t.Errorf("request %d waits without a kick", i)
				}
			}
			if t.Failed() {
				break
			}
			d.used()
		}
		stop.Store(true)
		wg.Wait()
	})
}
