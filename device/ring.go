package device

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
	"github.com/virtiofsd-go/virtiofsd-go/virtqueue"
)

// ring is one queue of the device, over all its lives.
type ring struct {
	dev   *Device
	index int
	call  signaller
	errs  signaller
	stats QueueStats

	// place is where the ring stopped, and last the queue that did. Only the
	// session's goroutine uses them.
	place place
	last  *virtqueue.Queue

	mu sync.Mutex
	// run is the life of the ring; nil: it is stopped.
	run *run
	// era counts the times that the driver began anew. What belongs to an
	// era that is over is of no interest to anybody.
	era uint64
	// kept are the chains that a stop cut short, to be served again.
	kept []virtqueue.Head
	// left are those of kept that another process has left in flight.
	left []virtqueue.Head
	// still are those that are being served although the ring has stopped:
	// they must not be served twice.
	still []virtqueue.Head
	// done are those of still that have been served while it was stopped.
	done []completion
}

// completion is a chain that has been served.
type completion struct {
	head    virtqueue.Head
	written uint32
}

// place identifies where a ring is. A ring that starts at the place where it
// stopped goes on; at any other the driver begins anew.
type place struct {
	desc, avail, used uint64
	size, base        uint32
}

// start starts the ring. It takes over the kick descriptor.
func (r *ring) start(cfg vhostuser.Ring) error {
	at, was := place{cfg.Desc, cfg.Avail, cfg.Used, cfg.Size, cfg.Base}, r.place
	if at != was {
		r.forget()
		r.place = was // until the ring has started
	}
	anew := at != was && was != place{}
	if h, ok := r.dev.opts.Server.(Heir); ok && r.last == nil && !anew && isContinued(&cfg) {
		h.TakeOver()
	}
	q, err := virtqueue.New(virtqueue.Config{
		Index: r.index, Size: cfg.Size,
		DescUser: cfg.Desc, AvailUser: cfg.Avail, UsedUser: cfg.Used,
		Base: cfg.Base, Features: cfg.Features, Mem: cfg.Mem,
		Inflight: cfg.Inflight, LogUsed: cfg.Log, UsedLogGPA: cfg.UsedLogGPA,
		Previous: r.last, Anew: anew,
	})
	if err != nil {
		if cfg.Kick >= 0 {
			unix.Close(cfg.Kick)
		}
		return fmt.Errorf("queue %d: %w", r.index, err)
	}
	w, err := newWaiter(cfg.Kick)
	if err != nil {
		q.Close()
		return fmt.Errorf("queue %d: %w", r.index, err)
	}
	r.last, r.place = nil, at
	u := &run{ring: r, dev: r.dev, q: q, w: w, ended: make(chan struct{}), threads: 1, ready: 1}
	u.busy.limit = r.dev.opts.BusyPoll
	u.enabled.Store(cfg.Enabled)
	r.goOn(u)
	if i, ok := r.dev.opts.Server.(Interrupter); ok {
		i.Resume(r.index)
	}
	if r.index == hiprio {
		r.dev.hiprio.Store(u)
	}
	go u.read()
	return nil
}

// isContinued says whether the driver has used the ring before.
func isContinued(cfg *vhostuser.Ring) bool {
	fresh := uint32(0)
	if cfg.Features&featureRingPacked != 0 {
		// Both indices are 0, and both wrap counters 1.
		fresh = 1<<15 | 1<<31
	}
	if cfg.Base != fresh && cfg.Base != 0 {
		return true
	}
	// The version of an in-flight region is 0 until a process has used it.
	const version = 8
	return len(cfg.Inflight) >= version+2 && binary.LittleEndian.Uint16(cfg.Inflight[version:]) != 0
}

// goOn makes u the life of the ring and gives it what the one before has left.
func (r *ring) goOn(u *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.era = r.era
	u.again, u.left = r.kept, r.left
	for _, c := range r.done {
		u.q.PushHead(c.head, c.written)
	}
	for _, h := range u.q.Resubmit() {
		if !slices.Contains(u.again, h) && !slices.Contains(r.still, h) &&
			!slices.ContainsFunc(r.done, func(c completion) bool { return c.head == h }) {
			u.again = append(u.again, h)
			u.left = append(u.left, h)
		}
	}
	u.hasAgain.Store(len(u.again) > 0)
	u.publish()
	r.kept, r.left, r.done = nil, nil, nil
	r.run = u
}

// enable allows or forbids the reader to look at the ring.
func (r *ring) enable(on bool) {
	if u := r.run; u != nil {
		u.enabled.Store(on)
		u.w.call()
	}
}

// stop stops the ring and returns where it goes on.
func (r *ring) stop() (base uint32, err error) {
	u := r.run
	if u == nil {
		return r.place.base, nil
	}
	u.stop(r.dev.opts.StopLimit)

	r.mu.Lock()
	late := u.kill()
	r.run = nil
	r.kept = append(append(r.kept, u.again...), u.parked...)
	r.left = append(r.left, u.left...)
	r.still = append(r.still, late...)
	r.dev.late.Add(len(late))
	r.mu.Unlock()
	base = u.q.Base()
	r.place.base, r.last = base, u.q
	u.close()
	if n := len(late); n > 0 {
		r.stats.Late.Add(uint64(n))
		err = fmt.Errorf("queue %d: %d requests are still being served after %v; see whether a disk or network file system hangs", r.index, n, r.dev.opts.StopLimit)
	}
	return base, err
}

// forget drops what the ring, which is stopped, has kept for going on.
func (r *ring) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.era++
	r.kept, r.left, r.still, r.done = nil, nil, nil, nil
	r.place, r.last = place{}, nil
}

// late completes a chain of a life u that is over: in the life that goes on from
// there, or when there will be one.
func (r *ring) late(u *run, h virtqueue.Head, written uint32) {
	defer r.dev.late.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.settle(u, h) {
		return
	}
	if r.run != nil && r.run.pushLate(h, written) {
		r.run.publish()
		return
	}
	r.done = append(r.done, completion{h, written})
}

// keep has a chain of a life u that is over served again in the next one.
func (r *ring) keep(u *run, h virtqueue.Head) {
	defer r.dev.late.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.settle(u, h) {
		return
	}
	if next := r.run; next != nil {
		next.mu.Lock()
		alive := !next.dead
		if alive {
			next.again = append(next.again, h)
			next.hasAgain.Store(true)
		}
		next.mu.Unlock()
		if alive {
			next.w.call()
			return
		}
	}
	r.kept = append(r.kept, h)
}

// settle notes that a chain of a life u that is over is no longer being served.
// It returns false if nobody wants to know. mu is held.
func (r *ring) settle(u *run, h virtqueue.Head) bool {
	if r.era != u.era {
		return false
	}
	r.still = slices.DeleteFunc(r.still, func(s virtqueue.Head) bool { return s == h })
	return true
}

// callDriver tells the driver that there are used entries.
func (r *ring) callDriver() {
	r.stats.Calls.Add(1)
	if err := r.call.signal(); err != nil {
		r.dev.limited.warn(kindSignal, "the front-end's eventfd that calls the driver can't be written to; if the guest hangs, restart it", "queue", r.index, "err", err)
	}
}

// setSignal points s at fd, which it takes over.
func (r *ring) setSignal(s *signaller, what string, fd int) {
	if err := s.set(fd); err != nil {
		r.dev.limited.warn(kindSignal, "an eventfd of the front-end can't be used; if the guest hangs, restart it", "queue", r.index, "for", what, "err", err)
	}
}

// setLog turns the logging of writes to the used ring on or off.
func (r *ring) setLog(on bool, usedGPA uint64) {
	if u := r.run; u != nil {
		u.q.SetLog(on, usedGPA)
	}
}
