package device

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// crew is a bounded set of locked OS threads that serve the requests which a
// queue's reader must not wait for. Threads start when there is work for them
// and end when there has been none for a while, so that an idle daemon has
// none. A request that finds all of them busy waits in the order of arrival, and
// so does one that yields its thread.
type crew struct {
	max         int
	idleTimeout time.Duration

	newThread func() (Thread, error)
	// serve serves one request; it returns false when the thread's state
	// can't be used any more. Those linked behind the request join it.
	serve func(Thread, *request) bool
	// refuse completes a request that no thread could be started for.
	refuse func(*request, error)
	// crowded is called when a request finds no thread; it may be nil.
	crowded func()

	mu      sync.Mutex
	waiting requestList
	idle    []*crewThread // the one that went idle last is at the end
	leading []*crewThread // those that others may join
	threads int
	closed  bool
	ended   sync.WaitGroup
}

// crewThread is one thread of a crew.
type crewThread struct {
	wake futex
	next *request // what it was woken for; nil: to end

	// joint is that of the request which it serves. Others with the same wait
	// for it to end, and are served together then; crew.mu guards them.
	joint  uint64
	joined requestList
}

// init makes c a crew of at most max threads of d.
func (c *crew) init(d *Device, max int) {
	c.max = max
	c.idleTimeout = d.opts.WorkerIdle
	c.newThread = d.opts.Server.NewThread
	c.serve = d.work
	c.refuse = d.refuse
}

// submit has the request served by a thread of the crew. It does not wait.
func (c *crew) submit(r *request) {
	c.mu.Lock()
	if c.joinLocked(r) {
		c.mu.Unlock()
		return
	}
	if n := len(c.idle); n > 0 {
		t := c.idle[n-1]
		c.idle = c.idle[:n-1]
		t.next = r
		c.lead(t, r)
		c.mu.Unlock()
		t.wake.set()
		return
	}
	if c.threads < c.max && !c.closed {
		c.threads++
		c.start(r)
		c.mu.Unlock()
		return
	}
	c.waiting.push(r)
	c.mu.Unlock()
	if c.crowded != nil {
		c.crowded()
	}
}

// join has r wait for a thread that serves a request which it has its joint in
// common with, if there is one.
func (c *crew) join(r *request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joinLocked(r)
}

func (c *crew) joinLocked(r *request) bool {
	if r.joint == 0 {
		return false
	}
	for _, t := range c.leading {
		if t.joint == r.joint {
			t.joined.push(r)
			return true
		}
	}
	return false
}

// lead notes that t is going to serve r. mu is held.
func (c *crew) lead(t *crewThread, r *request) {
	if t.joint = r.joint; t.joint != 0 {
		r.leads = t
		c.leading = append(c.leading, t)
	}
}

// served has nobody wait any more for t, which leads or is nil, unless somebody
// does. It comes before the driver knows that t is done: what the driver does
// next can be served by a thread that is awake already, its reader.
func (c *crew) served(t *crewThread) {
	if t == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.joined.first == nil {
		c.unlead(t)
	}
}

// unlead is the end of lead. mu is held.
func (c *crew) unlead(t *crewThread) {
	if t.joint != 0 {
		t.joint = 0
		c.leading = slices.DeleteFunc(c.leading, func(o *crewThread) bool { return o == t })
	}
}

// follow returns those that wait for t, linked: none has begun before. t leads
// no more if there are none. mu is held.
func (c *crew) follow(t *crewThread) *request {
	r := t.joined.takeAll()
	if r == nil {
		c.unlead(t)
	} else {
		r.leads = t
	}
	return r
}

// disband has those that wait for t, which ends, wait for any thread. mu is held.
func (c *crew) disband(t *crewThread) {
	for r := t.joined.take(); r != nil; r = t.joined.take() {
		c.waiting.push(r)
	}
	c.unlead(t)
}

// yield has r, which a thread of the crew has just served, served again after
// those that wait. The thread itself is going to look for them.
func (c *crew) yield(r *request) {
	c.mu.Lock()
	c.waiting.push(r)
	c.mu.Unlock()
}

// start starts a thread, counted already, for r. mu is held.
func (c *crew) start(r *request) {
	t := new(crewThread)
	c.lead(t, r)
	c.ended.Add(1)
	go c.run(t, r)
}

// run is a thread: it serves r and whatever comes after it. The OS thread ends
// with it, because its credentials and the like may have been changed.
func (c *crew) run(t *crewThread, r *request) {
	defer c.ended.Done()
	runtime.LockOSThread()
	th, err := c.newThread()
	if err != nil {
		c.leave(t, r, err)
		return
	}
	for r != nil {
		if !c.serve(th, r) {
			c.replace(t)
			break
		}
		r = c.next(t)
	}
	closeThread(th)
}

// next returns the next request for t, with those that join it, or nil when t has
// to end. t no longer counts as a thread then.
func (c *crew) next(t *crewThread) *request {
	c.mu.Lock()
	if r := c.follow(t); r != nil {
		c.mu.Unlock()
		return r
	}
	if r := c.waiting.take(); r != nil {
		c.lead(t, r)
		c.mu.Unlock()
		return r
	}
	if c.closed {
		c.threads--
		c.mu.Unlock()
		return nil
	}
	t.next = nil
	c.idle = append(c.idle, t)
	c.mu.Unlock()

	if t.wake.wait(c.idleTimeout) {
		return t.next
	}
	c.mu.Lock()
	for i, other := range c.idle {
		if other == t {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			c.threads--
			c.mu.Unlock()
			return nil
		}
	}
	c.mu.Unlock()
	// Somebody has just picked t: its call is on the way.
	for !t.wake.wait(time.Hour) {
	}
	return t.next
}

// replace gives up the calling thread, and starts another if requests wait.
func (c *crew) replace(t *crewThread) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disband(t)
	r := c.waiting.take()
	if r == nil {
		c.threads--
		return
	}
	c.start(r)
}

// leave gives up a thread that could not be set up. Its request waits for
// another thread if there is one.
func (c *crew) leave(t *crewThread, r *request, err error) {
	c.mu.Lock()
	c.disband(t)
	c.threads--
	if c.threads > 0 {
		c.waiting.pushFront(r)
		// An idle thread would not look by itself.
		if n := len(c.idle); n > 0 {
			t := c.idle[n-1]
			c.idle = c.idle[:n-1]
			t.next = c.waiting.take()
			c.lead(t, t.next)
			c.mu.Unlock()
			t.wake.set()
			return
		}
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.refuse(r, err)
	// Others may have come to wait meanwhile, with no thread to serve them.
	for {
		c.mu.Lock()
		if c.threads > 0 {
			c.mu.Unlock()
			return
		}
		r := c.waiting.take()
		c.mu.Unlock()
		if r == nil {
			return
		}
		c.refuse(r, err)
	}
}

// close ends the threads after what they do, and waits for them. No request
// may be submitted any more.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	c.threads -= len(idle)
	c.mu.Unlock()
	for _, t := range idle {
		t.next = nil
		t.wake.set()
	}
	c.ended.Wait()
}

// closeThread closes th, which may be a thread whose state a panic has spoiled.
func closeThread(th Thread) {
	defer func() { _ = recover() }()
	th.Close()
}
