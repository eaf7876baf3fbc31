package device

import "time"

// parts decides when a batch is published in parts. A driver that waits for all
// of its requests then wakes up, and goes on with the first, while the others are
// being served. As each part may call the driver, the next takes twice as long, up
// to a limit. A driver that has many requests under way has others to go on
// with: its batches stay whole.
type parts struct {
	last  int           // requests of the batch before
	begun time.Time     // when this part was
	least time.Duration // what it takes at least
}

const (
	partsFirst = 4 * time.Microsecond
	partsMost  = 16 * time.Microsecond
	// partsBelow is the number of requests in the batch before.
	partsBelow = batchRequests / 2
)

// begin begins a batch.
func (p *parts) begin(now time.Time) {
	p.begun, p.least = now, partsFirst
}

// over says whether a part ends here; the next one begins then.
func (p *parts) over(now time.Time) bool {
	if p.last >= partsBelow || now.Sub(p.begun) < p.least {
		return false
	}
	p.begun, p.least = now, min(2*p.least, partsMost)
	return true
}

// end ends a batch of n requests.
func (p *parts) end(n int) {
	if n > 0 {
		p.last = n
	}
}
