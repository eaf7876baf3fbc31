package device

import (
	"fmt"
	"runtime/debug"

	"github.com/virtiofsd-go/virtiofsd-go/virtqueue"
)

// request is one chain on its way through the device. Requests are reused.
type request struct {
	chain virtqueue.Chain
	run   *run
	next  *request // in a crew's queue or a free list

	// before and after link the requests of a run that are with a worker.
	before, after *request
	// settled says that the chain has been completed or parked. run.mu
	// guards it.
	settled bool
	// detached says that it is served by the threads for requests that wait.
	detached bool
	// repeated says that a process that died may have served it.
	repeated bool
	// joint is what Joiner has said of it, 0 for nothing.
	joint uint64
	// leads is the thread that others wait for while it serves this one.
	leads *crewThread
}

// serve has th answer r. sane is false when the server panicked; the request
// is answered with length 0 then (an error for the driver), and th is not to
// be used again.
func (d *Device) serve(th Thread, r *request, mayBlock bool) (written uint32, v Verdict, sane bool) {
	defer func() {
		if sane {
			return
		}
		p := recover()
		ring := r.run.ring
		ring.stats.Panics.Add(1)
		d.limited.warn(kindPanic, "a fault of the server, please report it; the request is answered with an error",
			"queue", ring.index, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		written, v = 0, Done
	}()
	if rep, ok := th.(Repeater); ok && r.repeated {
		rep.Repeat()
	}
	room := r.chain.Out.Len()
	written, v = th.Serve(r.run.ring.index, &r.chain.In, &r.chain.Out, mayBlock)
	if v == Done && int64(written) > int64(room) {
		d.limited.warn(kindLength, "a fault of the server, please report it; the request is answered with an error",
			"queue", r.run.ring.index, "written", written, "room", room)
		written = 0
	}
	return written, v, true
}

// freeList keeps requests for reuse. Its owner has the lock.
type freeList struct {
	first *request
	n     int
}

// keptRequests bounds what a ring keeps: a request remembers the room that the
// longest chain has needed, which a hostile driver may have made long.
const keptRequests = 128

func (l *freeList) get() *request {
	r := l.first
	if r == nil {
		return new(request)
	}
	l.first, r.next = r.next, nil
	l.n--
	return r
}

func (l *freeList) put(r *request) {
	r.run = nil
	if l.n < keptRequests {
		l.first, r.next = r, l.first
		l.n++
	}
}
