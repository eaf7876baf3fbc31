package device

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/virtqueue"
)

// run is one life of a ring, from its start to its stop.
type run struct {
	ring *ring
	dev  *Device
	q    *virtqueue.Queue
	w    *waiter
	era  uint64

	enabled  atomic.Bool
	stopping atomic.Bool
	resting  atomic.Bool   // the reader rests: others may visit
	givenUp  atomic.Bool   // the ring is not looked at any more
	ended    chan struct{} // closed when the last reader has ended

	// turn is what makes a thread the reader. What follows is the reader's.
	turn turn
	// serving is the head of the chain that the reader serves, plus one.
	serving atomic.Uint32
	recess  recess
	busy    busyPoll
	parts   parts
	// visitor is the request that visitors use, who have left as many as
	// unpublished completed, and may have called the reader back.
	visitor     *request
	unpublished int
	called      bool
	// held is a request that may block, linked, which the reader serves itself
	// if there is nothing else to do.
	held *request
	// takenBack says that it has just served a request that it had given to a helper.
	takenBack bool
	pace      pace

	mu sync.Mutex
	// dead means that the ring belongs to the front-end again: nothing of it
	// may be touched any more.
	dead bool
	// again are chains to be served before any new one, and hasAgain says
	// that there are some.
	again    []virtqueue.Head
	hasAgain atomic.Bool
	// left are those of again that another process has left in flight: it may
	// have served them.
	left []virtqueue.Head
	// parked are chains that wait for the ring to go on.
	parked []virtqueue.Head
	free   freeList
	handed *request // requests that are with a worker, or held
	count  int      // of them
	drain  chan struct{}
	// threads counts the ring's threads, and ready those of them that read or
	// wait to: all but those that start and those that serve a request which
	// may block.
	threads, ready int
}

// A batch is published after this many requests or bytes, so that the driver
// need not wait for all of a full ring.
const (
	batchRequests = 32
	batchBytes    = 256 << 10
)

// serveAvailable serves all available chains in batches, and counts them. *r is
// the request to use; it is replaced when a worker takes it.
func (u *run) serveAvailable(th Thread, r **request) (served int, sane bool, err error) {
	for more := true; more; {
		var n int
		n, more, sane, err = u.serveBatch(th, r)
		if n > 0 {
			served += n
			u.ring.stats.Requests.Add(uint64(n))
			u.ring.stats.Batches.Add(1)
			u.publish()
			if sane && u.ring.index != hiprio {
				if h := u.dev.hiprio.Load(); h != nil {
					sane = h.visit(th)
				}
			}
		}
		if more || !sane || err != nil {
			u.handOver()
		}
		if !sane || err != nil {
			return served, sane, err
		}
	}
	return served, true, nil
}

// serveBatch serves one batch of n chains, some of which it may have published.
// more says that there may be others.
func (u *run) serveBatch(th Thread, r **request) (n int, more, sane bool, err error) {
	u.parts.begin(time.Now())
	defer func() { u.parts.end(n) }()
	for bytes := 0; n < batchRequests && bytes < batchBytes; n++ {
		if u.stopping.Load() || !u.enabled.Load() {
			return n, false, true, nil
		}
		c := &(*r).chain
		ok, err := u.take(*r)
		if err != nil {
			if !u.refuseChain(c, err) {
				return n, false, true, err
			}
			continue
		}
		if !ok {
			if served, sane := u.serveSpread(th); !served || !sane {
				return n, false, sane, nil
			}
			n-- // it was counted when it was taken
			continue
		}
		if u.spread(*r) {
			*r = u.newRequest()
			continue
		}
		bytes += c.In.Len() + c.Out.Len()
		if !u.serveOne(th, r) {
			return n + 1, false, false, nil
		}
		if u.ring.index != hiprio && u.parts.over(time.Now()) {
			u.publish()
		}
	}
	return n, true, true, nil
}

// take gets the next chain for r, one that is to be served again first.
func (u *run) take(r *request) (ok bool, err error) {
	r.repeated = false
	if !u.hasAgain.Load() {
		return u.q.Pop(&r.chain)
	}
	u.mu.Lock()
	h := u.again[0]
	u.again = u.again[1:]
	u.hasAgain.Store(len(u.again) > 0)
	if i := slices.Index(u.left, h); i >= 0 {
		r.repeated = true
		u.left = slices.Delete(u.left, i, i+1)
	}
	u.mu.Unlock()
	u.ring.stats.Recovered.Add(1)
	err = u.q.Restore(&r.chain, h)
	return err == nil, err
}

// refuseChain completes a chain that the driver made wrong with length 0. It
// returns false when it is the ring that is wrong.
func (u *run) refuseChain(c *virtqueue.Chain, err error) bool {
	if !errors.As(err, new(*virtqueue.ChainError)) {
		return false
	}
	u.ring.stats.BrokenChains.Add(1)
	u.dev.limited.warn(kindChain, "the guest made a request that can't be read, and gets no answer; see the guest's kernel log", "queue", u.ring.index, "err", err)
	u.push(c.Head, 0)
	return true
}

// serveOne serves the request *r, or passes it on.
func (u *run) serveOne(th Thread, r **request) (sane bool) {
	req := *r
	h := req.chain.Head
	u.serving.Store(uint32(h) + 1)
	written, v, sane := u.dev.serve(th, req, u.dev.inline)
	if v != Done {
		*r = u.newRequest()
		u.link(req)
		if j, ok := th.(Joiner); ok && v == Again {
			req.joint = j.Joint()
		}
		if v == Again && u.relieved() {
			u.handOver()
			u.held = req
		} else {
			u.route(req, v)
		}
		return sane
	}
	req.chain.Release()
	if !u.push(h, written) {
		u.ring.late(u, h, written)
	}
	return sane
}

// route brings r, which is linked, to where it is served, or parks it.
func (u *run) route(r *request, v Verdict) {
	r.chain.Rewind()
	switch v {
	case Again:
		u.ring.stats.Handed.Add(1)
		u.dev.pool.submit(r)
	case Detach:
		if r.detached {
			u.dev.detached.yield(r)
			return
		}
		r.detached = true
		u.ring.stats.Detached.Add(1)
		u.dev.detached.submit(r)
	default:
		u.ring.stats.Requeued.Add(1)
		u.park(r)
	}
}

// work serves r on a thread of a crew, and those that join it, and completes
// them, or passes them on.
func (d *Device) work(th Thread, r *request) (sane bool) {
	if r.next == nil {
		written, v, sane := d.serve(th, r, true)
		d.pool.served(r.leads)
		r.run.finish(r, written, v)
		return sane
	}
	// The driver is called once for all.
	var pushed *run
	leads := r.leads
	sane = true
	for joins := false; r != nil && sane; joins = true {
		next, u := r.next, r.run
		r.next = nil
		if j, ok := th.(Joiner); ok && joins {
			j.Join()
		}
		var written uint32
		var v Verdict
		written, v, sane = d.serve(th, r, true)
		if pushed != nil && pushed != u {
			pushed.publish()
		}
		pushed = u
		if v == Done {
			u.complete(r, written, false)
		} else {
			u.route(r, v)
		}
		r = next
	}
	d.pool.served(leads)
	pushed.publish()
	for r != nil {
		next := r.next
		r.next = nil // each by itself: another thread may get it
		d.pool.submit(r)
		r = next
	}
	return sane
}

// finish completes a request that was linked, or passes it on.
func (u *run) finish(r *request, written uint32, v Verdict) {
	if v == Done {
		u.complete(r, written, true)
	} else {
		u.route(r, v)
	}
}

// refuse completes r unserved, because there is no thread to serve it.
func (d *Device) refuse(r *request, err error) {
	d.limited.warn(kindThread, "a thread can't be started; the request is answered with an error", "err", err)
	r.run.complete(r, 0, true)
}

// complete completes a request that was handed over, and frees it. Without flush
// the driver sees it after publish.
func (u *run) complete(r *request, written uint32, flush bool) {
	h := r.chain.Head
	r.chain.Release()
	u.mu.Lock()
	late, notify := u.dead, false
	if !late {
		r.settled = true
		u.q.PushHead(h, written)
		notify = flush && u.q.Flush()
	}
	u.mu.Unlock()
	if late {
		u.ring.late(u, h, written)
	}
	if notify {
		u.ring.callDriver()
	}
	u.unlink(r)
}

// park keeps a chain uncompleted for the next life of the ring.
func (u *run) park(r *request) {
	h := r.chain.Head
	r.chain.Release()
	u.mu.Lock()
	late := u.dead
	if !late {
		r.settled = true
		u.parked = append(u.parked, h)
	}
	u.mu.Unlock()
	if late {
		u.ring.keep(u, h)
	}
	u.unlink(r)
}

// push completes a chain of the reader's, which the driver sees after publish.
// It returns false when the ring is not ours any more.
func (u *run) push(h virtqueue.Head, written uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	pushed := u.pushLocked(h, written)
	if pushed {
		u.serving.Store(0)
	}
	return pushed
}

// pushLate is push for a chain that a life before this one has served.
func (u *run) pushLate(h virtqueue.Head, written uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.pushLocked(h, written)
}

func (u *run) pushLocked(h virtqueue.Head, written uint32) bool {
	if u.dead {
		return false
	}
	u.q.PushHead(h, written)
	return true
}

// publish makes what was pushed visible to the driver, and calls it if it wants
// to be called.
func (u *run) publish() {
	u.mu.Lock()
	notify := !u.dead && u.q.Flush()
	u.mu.Unlock()
	if notify {
		u.ring.callDriver()
	}
}

func (u *run) newRequest() *request {
	u.mu.Lock()
	r := u.free.get()
	u.mu.Unlock()
	r.run = u
	return r
}

// link adds r, which the reader has served so far, to those that are with a
// worker or held.
func (u *run) link(r *request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.serving.Store(0)
	r.settled, r.detached, r.joint, r.leads = false, false, 0, nil
	r.before, r.after = nil, u.handed
	if u.handed != nil {
		u.handed.before = r
	}
	u.handed = r
	u.count++
}

// unlink removes r from them and frees it.
func (u *run) unlink(r *request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.before != nil {
		r.before.after = r.after
	} else {
		u.handed = r.after
	}
	if r.after != nil {
		r.after.before = r.before
	}
	r.before, r.after = nil, nil
	if u.count--; u.count == 0 && u.drain != nil {
		close(u.drain)
		u.drain = nil
	}
	u.free.put(r)
}

// stop ends the readers and waits at most limit for what is being served.
func (u *run) stop(limit time.Duration) {
	u.stopping.Store(true)
	u.w.call()
	if i, ok := u.dev.opts.Server.(Interrupter); ok {
		i.Interrupt(u.ring.index)
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-u.ended:
		u.waitHanded(timeout.C)
	case <-timeout.C:
	}
}

// kill gives the ring back to the front-end. It returns the chains that are
// still being served: nothing is written to the ring for them any more.
func (u *run) kill() (late []virtqueue.Head) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.q.Flush() {
		u.ring.callDriver()
	}
	u.dead = true
	if h := u.serving.Load(); h != 0 {
		late = append(late, virtqueue.Head(h-1))
	}
	for r := u.handed; r != nil; r = r.after {
		if !r.settled {
			late = append(late, r.chain.Head)
		}
	}
	return late
}

// close gives back what the life of the ring has used, now or when its readers
// have ended.
func (u *run) close() {
	select {
	case <-u.ended:
		u.w.close()
		u.q.Close()
	default:
		go func() {
			<-u.ended
			u.w.close()
			u.q.Close()
		}()
	}
}

// waitHanded waits until no request is with a worker, or until timeout.
func (u *run) waitHanded(timeout <-chan time.Time) {
	u.mu.Lock()
	drain := make(chan struct{})
	if u.count == 0 {
		close(drain)
	} else {
		u.drain = drain
	}
	u.mu.Unlock()
	select {
	case <-drain:
	case <-timeout:
	}
}
