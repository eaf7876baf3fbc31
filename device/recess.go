package device

import "time"

// hiprio is the queue on which the driver waits for no answer: Linux sends
// FORGETs there, one at a time, right behind requests on other queues.
const hiprio = 0

const (
	// recessFirst and recessMost are how long such a request may lie there at
	// first, and when the readers of other queues take care of it.
	recessFirst = time.Millisecond
	recessMost  = 8 * time.Millisecond
	// recessBelow is how soon requests have to follow each other for a recess
	// to spare wake-ups.
	recessBelow = 200 * time.Microsecond
	// recessWorth is the number of requests that are worth a wake-up, and below
	// which no ring runs full.
	recessWorth = 32
)

// recess decides when the reader of the hiprio queue, rather than be woken by a
// kick for the next request, leaves kicks off and looks again by itself a
// moment later. A wake-up costs several times what a FORGET does, and takes a
// processor from the request that the driver does wait for. Meanwhile the
// readers of other queues, which are awake, look at it now and then (visit). A
// reader that then finds nothing, and that nobody has done anything for, goes to
// sleep for good. A driver that finds its ring full kicks all the same, which
// ends the recess.
type recess struct {
	last   time.Time // when the reader last had something to do, or came back
	length time.Duration
	visits int // requests that others have served since
}

// due returns how long a recess is due for a reader that has just served that
// many requests, or 0.
func (r *recess) due(served int, now time.Time) time.Duration {
	visited := r.visits > 0
	r.visits = 0
	if visited && served < recessWorth {
		r.last = now
		r.length = min(2*r.length, recessMost)
		return r.length
	}
	r.length = recessFirst
	if served == 0 {
		return 0
	}
	soon := now.Sub(r.last) < recessBelow
	r.last = now
	if soon && served < recessWorth {
		return r.length
	}
	return 0
}

// over tells that the recess has ended.
func (r *recess) over(now time.Time) { r.last = now }

// rest is a recess of the reader, which has the turn before and after.
func (u *run) rest(d time.Duration) (err error) {
	u.resting.Store(true)
	u.turn.drop()
	for {
		err = u.w.pause(d)
		u.ring.stats.Wakeups.Add(1)
		if u.turn.take() {
			break
		}
		if err != nil {
			time.Sleep(d) // a visitor needs a moment
		}
	}
	u.resting.Store(false)
	u.unpublished, u.called = 0, false
	u.publish()
	u.recess.over(time.Now())
	return err
}

// visitPublish is how many requests a visit may leave unpublished: until there
// are more, or the recess ends. Each publication calls the driver, which waits
// for none of them.
const visitPublish = 16

// visit has th, whose own ring is another one, serve what there is in u, if u's
// reader rests. sane is false when th can't be used any more.
func (u *run) visit(th Thread) (sane bool) {
	if !u.resting.Load() || !u.turn.takeFree() {
		return true
	}
	u.mu.Lock()
	if !u.resting.Load() || u.stopping.Load() || u.threads == 0 {
		// The reader may have sought the turn meanwhile.
		u.turn.drop()
		if u.threads > 0 {
			u.w.call()
		}
		u.mu.Unlock()
		return true
	}
	u.threads++
	u.mu.Unlock()
	if u.visitor == nil {
		u.visitor = u.newRequest()
	}
	n, more, sane, err := u.serveBatch(th, &u.visitor)
	u.ring.stats.Requests.Add(uint64(n))
	u.recess.visits += n
	if u.unpublished += n; u.unpublished >= visitPublish || err != nil {
		u.unpublished = 0
		u.ring.stats.Batches.Add(1)
		u.publish()
	}
	if err != nil {
		u.giveUp(kindRing, err)
	}
	if more && !u.called {
		// It is too much to be done on the side.
		u.called = true
		u.w.call()
	}
	u.turn.drop()
	u.end()
	return sane
}
