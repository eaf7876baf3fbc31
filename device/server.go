package device

import (
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// Server answers the requests that arrive on the queues. It is shared by all
// queues of a device and used from many threads at once.
type Server interface {
	// NewThread returns the per-thread state for one more OS thread. It is
	// called on that thread, after runtime.LockOSThread, so that it may set
	// properties of the thread; on an error the thread is not used.
	NewThread() (Thread, error)

	// RingsStopped tells that the last running ring has stopped and that
	// nothing is being served. What the driver set up stays: a stopped
	// virtual machine goes on with it.
	RingsStopped()

	// Reset tells that the driver is gone (device reset, or the front-end
	// has closed the connection), after RingsStopped. Whatever belongs to
	// the driver's session is to be dropped.
	Reset()
}

// Interrupter is implemented by a Server whose requests may wait for a long
// time in Serve.
type Interrupter interface {
	// Interrupt makes each request of queue q that waits, or begins to wait
	// before Resume, end soon with Requeue, having changed nothing. It is
	// called when the ring stops and does not itself wait.
	Interrupt(q int)
	// Resume allows waiting again, when the ring starts.
	Resume(q int)
}

// Yielder is implemented by a Server whose requests wait on threads that others
// may need.
type Yielder interface {
	// Yield tells that a request with the verdict Detach finds no thread
	// free: those that have one and can wait return Detach soon. It does not
	// itself wait.
	Yield()
}

// Heir is implemented by a Server that can go on with a driver's session that it
// has no memory of, because another process, or this one for an earlier
// connection, has served it.
type Heir interface {
	// TakeOver tells that a ring starts in the middle of such a session. It
	// is called before any of its requests is served, perhaps several times,
	// also where the server knows the session.
	TakeOver()
}

// Thread is the state that a Server keeps for one OS thread: scratch buffers,
// credentials. It is used only on the thread that NewThread was called on.
type Thread interface {
	// Serve answers one request of queue q (0 is hiprio). in holds the
	// device-readable and out the device-writable bytes of its chain, each
	// at its start; both are valid until Serve returns. written is the
	// length for the used ring: the number of bytes of out, counted from
	// its start, that hold the reply.
	//
	// With mayBlock false the caller is a queue's reader, and every request
	// behind this one waits for it. A request that may block then returns
	// Again or Detach, having changed nothing; in and out may have been
	// moved, the next call gets them at their start again. With mayBlock
	// true nothing else waits for the caller, which may return Detach but not
	// Again.
	Serve(q int, in, out *guestmem.Buffers, mayBlock bool) (written uint32, v Verdict)

	// Close drops the state. The thread ends.
	Close()
}

// Repeater is implemented by a Thread of a Server that carries out some requests
// at most once.
type Repeater interface {
	// Repeat tells that the request of the next Serve was in flight when
	// another process that served the ring died: that one may have carried
	// it out, and could not complete it.
	Repeat()
}

// Joiner is implemented by a Thread of a Server some of whose requests one answer
// is good for, if they have all come before the first of them begins.
type Joiner interface {
	// Joint returns what the request for which Serve has just returned Again
	// shares with those that it may be answered with, or 0. Of requests that
	// have it in common one thread is kept, and the others wait: none of them may
	// return Detach.
	Joint() uint64
	// Join tells that the request of the next Serve had come, and waited, when
	// the first of those served on this thread without a Join in between
	// began, which has the same Joint. The server may still serve it by itself.
	Join()
}

// Verdict is what becomes of a request after Serve.
type Verdict uint8

const (
	// Done completes the chain with the written length.
	Done Verdict = iota
	// Again has it served with mayBlock set, by a worker of the pool or by a
	// reader whose place another thread takes.
	Again
	// Detach has it served by a thread of its own, with mayBlock set, for
	// it may wait for what other requests do (a lock). Their number is
	// bounded: on such a thread Detach again lets the others have it
	// before the request is served again.
	Detach
	// Requeue keeps the chain uncompleted, because a stop of the ring cut
	// the wait short: it is served again when the ring goes on from the
	// same place, and forgotten when it is reset.
	Requeue
)
