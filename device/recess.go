package device

import "time"

// hiprio is the queue on which the driver waits for no answer: Linux sends
// FORGETs there, one at a time, right behind requests on other queues.
const hiprio = 0

const (
	// recessLength is how long such a request may lie there.
	recessLength = 200 * time.Microsecond
	// recessBelow is how soon requests have to follow each other for a recess
	// to spare wake-ups.
	recessBelow = 200 * time.Microsecond
	// recessMost is the number of requests that are worth a wake-up, and below
	// which no ring runs full.
	recessMost = 32
)

// recess decides when the reader of the hiprio queue, rather than be woken by a
// kick for the next request, leaves kicks off and looks again by itself a
// moment later. A wake-up costs several times what a FORGET does, and takes a
// processor from the request that the driver does wait for. A reader that then
// finds nothing goes to sleep for good. A driver that finds its ring full kicks
// all the same, which ends the recess.
type recess struct {
	last time.Time // when the reader last had something to do, or came back
}

// due reports whether a recess is due for a reader that has just served that
// many requests.
func (r *recess) due(served int, now time.Time) bool {
	if served == 0 {
		return false
	}
	soon := now.Sub(r.last) < recessBelow
	r.last = now
	return soon && served < recessMost
}

// over tells that the recess has ended.
func (r *recess) over(now time.Time) { r.last = now }
