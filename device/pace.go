package device

import (
	"runtime"
	"time"
)

// pace has a thread that serves requests which may block pass through the Go
// scheduler now and then. A goroutine that has not done so for ten milliseconds,
// because it never waits for another one, is taken for one that hogs its
// processor: the run-time's monitor then takes that away in each system call
// that it finds it in, and stays awake to look again every 20 microseconds. That
// costs up to a fifth of what such requests do. Threads whose requests are quick
// gain less by it than it costs: it takes them to another processor.
type pace struct{ last time.Time }

// paceLength is how long a thread stays out of the scheduler.
const paceLength = 8 * time.Millisecond

func (p *pace) step() {
	if now := time.Now(); now.Sub(p.last) > paceLength {
		p.last = now
		runtime.Gosched()
	}
}
