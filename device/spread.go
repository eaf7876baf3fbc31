package device

import (
	"sync/atomic"
	"time"
)

// helpers answer large requests beside the reader, so that several processors
// copy what a driver with many requests under way has asked for. Only answers
// are spread: a request that brings data would wait there for the lock of the
// file that the reader writes.
type helpers struct {
	crew
	// room is how many more requests they may be given: of each thread one that it
	// serves and one to go on with, so that it need not be woken for the next. A
	// reader with nothing else to do takes that one back.
	room atomic.Int32
	// off is until when they are given none, in Unix nanoseconds.
	off atomic.Int64
}

const (
	// spreadBytes is the room for an answer from which a request is large: to copy
	// less takes hardly longer than to wake a thread for it.
	spreadBytes = 128 << 10
	// helpersOff is how long there are no helpers after one that could not be
	// started.
	helpersOff = 10 * time.Second
)

func (h *helpers) init(d *Device, threads int) {
	h.crew.init(d, threads)
	h.room.Store(2 * int32(threads))
	h.serve = func(th Thread, r *request) (sane bool) {
		// What can't be answered at once is not for a helper, behind which others wait.
		written, v, sane := d.serve(th, r, false)
		h.room.Add(1)
		r.run.finish(r, written, v)
		return sane
	}
	h.refuse = func(r *request, err error) {
		d.limited.warn(kindThread, "a thread can't be started; large requests are not spread over processors for a while", "queue", r.run.ring.index, "err", err)
		h.off.Store(time.Now().Add(helpersOff).UnixNano())
		h.room.Add(1)
		r.run.giveBack(r)
	}
}

// spread gives r, which the reader has taken and the ring has more behind, to a
// helper if it is large and one has room for it.
func (u *run) spread(r *request) bool {
	h := &u.dev.helpers
	if r.chain.Out.Len() < spreadBytes || r.repeated || h.room.Load() <= 0 || !u.q.Pending() {
		return false
	}
	if off := h.off.Load(); off != 0 && time.Now().UnixNano() < off {
		return false
	}
	if h.room.Add(-1) < 0 {
		h.room.Add(1)
		return false
	}
	u.link(r)
	u.ring.stats.Spread.Add(1)
	h.submit(r)
	return true
}

// serveSpread has the reader, which finds nothing in the ring, serve a request of it
// that no helper has begun, if there is one.
func (u *run) serveSpread(th Thread) (served, sane bool) {
	h := &u.dev.helpers
	if h.room.Load() == 2*int32(h.max) {
		return false, true
	}
	r := h.withdraw(u)
	if r == nil {
		return false, true
	}
	h.room.Add(1)
	written, v, sane := u.dev.serve(th, r, false)
	u.finish(r, written, v)
	u.takenBack = true
	return true, sane
}

// withdraw takes back a request of u's that waits for a thread; nil: there is none.
func (c *crew) withdraw(u *run) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting.takeOf(u)
}

// giveBack has the ring's reader serve r, which is linked.
func (u *run) giveBack(r *request) {
	h := r.chain.Head
	r.chain.Release()
	u.mu.Lock()
	late := u.dead
	if !late {
		r.settled = true
		u.again = append(u.again, h)
		u.hasAgain.Store(true)
	}
	u.mu.Unlock()
	if late {
		u.ring.keep(u, h)
	} else {
		u.w.call()
	}
	u.unlink(r)
}
