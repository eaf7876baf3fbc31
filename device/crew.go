package device

import (
	"runtime"
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
	// can't be used any more.
	serve func(Thread, *request) bool
	// refuse completes a request that no thread could be started for.
	refuse func(*request, error)
	// crowded is called when a request finds no thread; it may be nil.
	crowded func()

	mu      sync.Mutex
	first   *request // waiting requests
	last    *request
	idle    []*crewThread // the one that went idle last is at the end
	threads int
	closed  bool
	ended   sync.WaitGroup
}

// crewThread is one thread of a crew.
type crewThread struct {
	wake futex
	next *request // what it was woken for; nil: to end
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
	if n := len(c.idle); n > 0 {
		t := c.idle[n-1]
		c.idle = c.idle[:n-1]
		t.next = r
		c.mu.Unlock()
		t.wake.set()
		return
	}
	if c.threads < c.max && !c.closed {
		c.threads++
		c.ended.Add(1)
		c.mu.Unlock()
		go c.run(r)
		return
	}
	c.append(r)
	c.mu.Unlock()
	if c.crowded != nil {
		c.crowded()
	}
}

// yield has r, which a thread of the crew has just served, served again after
// those that wait. The thread itself is going to look for them.
func (c *crew) yield(r *request) {
	c.mu.Lock()
	c.append(r)
	c.mu.Unlock()
}

// append has r wait for a thread. mu is held.
func (c *crew) append(r *request) {
	r.next = nil
	if c.last == nil {
		c.first = r
	} else {
		c.last.next = r
	}
	c.last = r
}

// run is a thread: it serves r and whatever comes after it. The OS thread ends
// with it, because its credentials and the like may have been changed.
func (c *crew) run(r *request) {
	defer c.ended.Done()
	runtime.LockOSThread()
	th, err := c.newThread()
	if err != nil {
		c.leave(r, err)
		return
	}
	t := new(crewThread)
	for r != nil {
		if !c.serve(th, r) {
			c.replace()
			break
		}
		r = c.next(t)
	}
	closeThread(th)
}

// next returns the next request for t, or nil when t has to end. t no longer
// counts as a thread then.
func (c *crew) next(t *crewThread) *request {
	c.mu.Lock()
	if r := c.take(); r != nil {
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

// take removes the request that waits longest. mu is held.
func (c *crew) take() *request {
	r := c.first
	if r != nil {
		c.first = r.next
		if c.first == nil {
			c.last = nil
		}
		r.next = nil
	}
	return r
}

// replace gives up the calling thread, and starts another if requests wait.
func (c *crew) replace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.take()
	if r == nil {
		c.threads--
		return
	}
	c.ended.Add(1)
	go c.run(r)
}

// leave gives up a thread that could not be set up. Its request waits for
// another thread if there is one.
func (c *crew) leave(r *request, err error) {
	c.mu.Lock()
	c.threads--
	if c.threads > 0 {
		r.next = c.first
		c.first = r
		if c.last == nil {
			c.last = r
		}
		// An idle thread would not look by itself.
		if n := len(c.idle); n > 0 {
			t := c.idle[n-1]
			c.idle = c.idle[:n-1]
			t.next = c.take()
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
		r := c.take()
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
