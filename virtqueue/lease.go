package virtqueue

import (
	"fmt"
	"sync/atomic"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// lease is one reference on a memory table, shared by a queue and the chains that
// it popped from there. Counting them here keeps the queues of a device from
// fighting for the table's own counter.
type lease struct {
	table *guestmem.Table
	// refs counts the chains, and the queue if it holds the lease. At 0 the
	// reference on the table is gone; only the queue, with mu held, may then
	// get it again.
	refs atomic.Int64
}

// join adds a reference unless there is none.
func (l *lease) join() bool {
	for n := l.refs.Load(); n > 0; n = l.refs.Load() {
		if l.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (l *lease) release() {
	if l.refs.Add(-1) == 0 {
		l.table.Release()
	}
}

// hold makes sure that the queue holds memory in which its ring is found. mu is
// held.
func (q *Queue) hold() error {
	if q.held {
		return nil
	}
	if l := q.lease; l != nil && q.cfg.Mem.Is(l.table) && l.join() {
		q.held = true
		return nil
	}
	table := q.cfg.Mem.Acquire()
	if l := q.lease; l == nil || l.table != table || !l.refs.CompareAndSwap(0, 1) {
		if err := q.resolve(table); err != nil {
			table.Release()
			q.broken.Store(true)
			return err
		}
		q.lease = &lease{table: table}
		q.lease.refs.Store(1)
	}
	q.held = true
	return nil
}

// drop gives up what hold got. mu is held.
func (q *Queue) drop() {
	if q.held {
		q.held = false
		q.lease.release()
	}
}

// resolve finds the parts of the ring in table.
func (q *Queue) resolve(table *guestmem.Table) error {
	size := q.format.sizes()
	for i, p := range []struct {
		name  string
		at    uint64
		align uint64
		span  *guestmem.Span
	}{
		{"descriptors", q.cfg.DescUser, 16, &q.desc},
		{"driver area", q.cfg.AvailUser, q.driverAlign(), &q.driver},
		{"device area", q.cfg.UsedUser, 4, &q.device},
	} {
		s, err := table.Span(p.at, size[i], p.align)
		if err != nil {
			return fmt.Errorf("%w: the front-end has no memory for its %s: %w", ErrRing, p.name, err)
		}
		*p.span = s
	}
	var err error
	q.descGPA, err = table.GuestAddr(q.cfg.DescUser, size[0])
	return err
}

// driverAlign is the alignment of the driver area: the available ring of a split
// queue may lie at any even address.
func (q *Queue) driverAlign() uint64 {
	if q.packed() {
		return 4
	}
	return 2
}
