package device

import "sync/atomic"

// helpers answer large requests beside the reader, so that several processors
// copy what a driver with many requests under way has asked for. Only answers
// are spread: a request that brings data would wait there for the lock of the
// file that the reader writes.
type helpers struct {
	crew
	// room is how many more requests they may be given: of each thread one that it
	// serves and one to go on with, so that it need not be woken for the next.
	room atomic.Int32
}

const (
	// spreadBytes is the room for an answer from which a request is large: to copy
	// less takes hardly longer than to wake a thread for it.
	spreadBytes = 128 << 10
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
	h.refuse = func(r *request, _ error) {
		h.room.Add(1)
		r.run.route(r, Again)
	}
}

// spread gives r, which the reader has taken and the ring has more behind, to a
// helper if it is large and one has room for it.
func (u *run) spread(r *request) bool {
	h := &u.dev.helpers
	if r.chain.Out.Len() < spreadBytes || r.repeated || h.room.Load() <= 0 || !u.q.Pending() {
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
