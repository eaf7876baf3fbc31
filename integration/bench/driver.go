package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// lane makes one operation after the other, each of one or more requests, with one request in flight.
type lane interface {
	// start fills in the first request of an operation.
	start(r *fuseclient.Request)
	// reply checks the answer and, if more, fills in the operation's next request.
	reply(r *fuseclient.Request) (more bool, err error)
}

// endless is a lane whose operation may not end by itself; it is told to.
type endless interface{ end() error }

// sample is what one run of a workload gave.
type sample struct {
	ops     uint64
	elapsed time.Duration
	hist    *hdrhistogram.Histogram // ns
	used    usage
}

const (
	histLow  = 100
	histHigh = int64(120 * time.Second)
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(histLow, histHigh, 3) }

// slot is a lane with its request.
type slot struct {
	lane  lane
	r     *fuseclient.Request
	begun time.Time
	quiet bool // its operations are not counted
}

// driver keeps a queue busy from one OS thread.
type driver struct {
	s     *session
	queue int // request queue, from 1
	slots []*slot
	hist  *hdrhistogram.Histogram
	ops   uint64
	last  time.Time // when the last operation that counts was completed

	reaped   [256]*fuseclient.Request
	deadline atomic.Int64 // unix ns at which a sleeping driver gives up
}

func newDriver(s *session, queue int, lanes []lane, quiet []lane) (*driver, error) {
	d := &driver{s: s, queue: queue, hist: newHistogram()}
	for i, l := range append(lanes, quiet...) {
		r, err := s.client.Acquire(queue)
		if err != nil {
			return nil, err
		}
		sl := &slot{lane: l, r: r, quiet: i >= len(lanes)}
		r.Tag = sl
		d.slots = append(d.slots, sl)
	}
	return d, nil
}

// release gives the requests back. None may be in flight.
func (d *driver) release() {
	for _, sl := range d.slots {
		sl.r.Tag = nil
		d.s.client.Release(sl.r)
	}
}

// run starts operations until the time is over, and waits for those under way.
func (d *driver) run(until time.Time) error {
	busy := 0
	for _, sl := range d.slots {
		sl.begun = time.Now()
		sl.lane.start(sl.r)
		if err := sl.r.Submit(); err != nil {
			return err
		}
		busy++
	}
	told := false
	for {
		if err := d.s.client.Kick(d.queue); err != nil {
			return err
		}
		if err := d.s.forgets.flush(false); err != nil {
			return err
		}
		n := d.s.client.Reap(d.queue, d.reaped[:])
		if n == 0 {
			if err := d.wait(); err != nil {
				return err
			}
			continue
		}
		for _, r := range d.reaped[:n] {
			now := time.Now()
			over := now.After(until)
			if over && !told {
				told = true
				if err := d.tell(); err != nil {
					return err
				}
			}
			goesOn, err := d.completed(r.Tag.(*slot), now, over)
			if err != nil {
				return err
			}
			if !goesOn {
				busy--
			}
		}
		if busy == 0 {
			return nil
		}
	}
}

// tell ends the endless lanes.
func (d *driver) tell() error {
	for _, sl := range d.slots {
		if e, ok := sl.lane.(endless); ok {
			if err := e.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

// completed takes a reply and submits what comes next, if anything does.
func (d *driver) completed(sl *slot, now time.Time, over bool) (goesOn bool, err error) {
	more, err := sl.lane.reply(sl.r)
	if err != nil {
		return false, err
	}
	if !more {
		if !sl.quiet {
			d.ops++
			d.last = now
			if err := d.hist.RecordValue(max(histLow, min(histHigh, int64(now.Sub(sl.begun))))); err != nil {
				return false, err
			}
		}
		if over {
			return false, nil
		}
		sl.begun = time.Now()
		sl.lane.start(sl.r)
	}
	return true, sl.r.Submit()
}

// wait sleeps until something has completed.
func (d *driver) wait() error {
	q := d.s.fe.Queue(d.queue)
	if q.Arm() {
		return nil
	}
	d.deadline.Store(time.Now().Add(patience).UnixNano())
	defer d.deadline.Store(0)
	if err := readEventfd(q.CallFD()); err != nil {
		return err
	}
	if end := d.deadline.Load(); end < 0 {
		return fmt.Errorf("queue %d: %w", d.queue, errNoReply)
	}
	return nil
}

// watch wakes drivers that have slept for too long, until done is closed.
func watch(drivers []*driver, done chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			for _, d := range drivers {
				if end := d.deadline.Load(); end > 0 && now.UnixNano() > end && d.deadline.CompareAndSwap(end, -1) {
					d.s.fe.Queue(d.queue).Wake()
				}
			}
		}
	}
}

// measure runs lanes, an equal number on each queue, for the time d, after a moment that does not count.
func measure(t *target, lanes, quiet []lane, d time.Duration) (sample, error) {
	s := t.sess
	var drivers []*driver
	defer func() {
		for _, dr := range drivers {
			dr.release()
		}
	}()
	for q := range s.queues {
		share := func(all []lane) []lane {
			n := (len(all) + s.queues - 1) / s.queues
			return append([]lane(nil), all[min(len(all), q*n):min(len(all), (q+1)*n)]...)
		}
		dr, err := newDriver(s, q+1, share(lanes), share(quiet))
		if err != nil {
			return sample{}, err
		}
		drivers = append(drivers, dr)
	}
	done := make(chan struct{})
	defer close(done)
	go watch(drivers, done)

	if err := runAll(drivers, max(d/8, 5*time.Millisecond)); err != nil {
		return sample{}, err
	}
	for _, dr := range drivers {
		dr.ops = 0
		dr.hist.Reset()
	}
	before := t.usage()
	start := time.Now()
	if err := runAll(drivers, d); err != nil {
		return sample{}, err
	}
	out := sample{hist: newHistogram()}
	out.used = t.usage().since(before)
	for _, dr := range drivers {
		out.ops += dr.ops
		// What is beside them may take longer to end.
		out.elapsed = max(out.elapsed, dr.last.Sub(start))
		out.hist.Merge(dr.hist)
	}
	if out.ops == 0 {
		return out, errors.New("no operation was completed")
	}
	return out, s.fault()
}

func runAll(drivers []*driver, d time.Duration) error {
	until := time.Now().Add(d)
	errs := make([]error, len(drivers))
	var wg sync.WaitGroup
	for i, dr := range drivers {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs[i] = dr.run(until)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return drivers[0].s.forgets.flush(true)
}
