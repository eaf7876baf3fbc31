package device

import (
	"time"

	"golang.org/x/sys/unix"
)

// busyPoll decides when a reader that has nothing left to serve looks for the
// next request for a moment before it goes to sleep. A processor that has
// nothing to do takes longer to wake up than most requests take to serve, and the
// driver can do without a kick. Where requests don't come that soon it is of no
// use: after each look in vain the reader goes to sleep at once for a number of
// times, which doubles.
type busyPoll struct {
	limit  time.Duration // 0: never
	misses int           // looks in vain, one after the other
	skip   int           // times to go to sleep at once
}

const (
	// busyPollSkipFirst and busyPollSkipMost are how often the reader goes to sleep
	// at once after the first look in vain, and after many.
	busyPollSkipFirst = 4
	busyPollSkipMost  = 128
	// busyPollLate is how many times its limit a look takes if the processor was
	// wanted by others: then there is none that sleeps.
	busyPollLate = 4
	// busyPollBatch is for how many requests at most that have just been served it
	// looks: what looking costs each of them is bounded by its limit.
	busyPollBatch = 4
)

// due says whether the reader should look.
func (p *busyPoll) due() bool {
	if p.limit == 0 {
		return false
	}
	if p.skip > 0 {
		p.skip--
		return false
	}
	return true
}

// found tells that there was something.
func (p *busyPoll) found() { p.misses = 0 }

// patience is how long a look may take after as many requests as served.
func (p *busyPoll) patience(served int) time.Duration {
	return time.Duration(min(served, busyPollBatch)) * p.limit
}

// missed tells that there was nothing in the time that it took to look.
func (p *busyPoll) missed(took, patience time.Duration) {
	p.skip = min(busyPollSkipFirst<<min(p.misses, 16), busyPollSkipMost)
	p.misses++
	if took > busyPollLate*patience {
		p.skip = busyPollSkipMost
	}
}

// poll looks for the next request, with kicks off, and says whether there is
// one. Between two looks it gives the processor to who else wants it: it may be
// the driver.
func (u *run) poll(served int) bool {
	if u.ring.index == hiprio || u.held != nil || !u.w.kicked() || !u.busy.due() {
		return false
	}
	u.ring.stats.Polls.Add(1)
	patience := u.busy.patience(served)
	for start := time.Now(); !u.stopping.Load() && u.enabled.Load(); {
		if u.hasAgain.Load() || u.q.Pending() {
			u.busy.found()
			u.ring.stats.PollsFound.Add(1)
			return true
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if took := time.Since(start); took > patience {
			u.busy.missed(took, patience)
			break
		}
	}
	return false
}
