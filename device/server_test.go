package device_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// echo is a server that answers what it gets, and does before what the first
// word says:
//
//	block   not on a reader; waits for release
//	wait    not on a reader or a worker; waits for release or an interrupt
//	turn    as wait, but lets others have the thread in between
//	aside   not on a reader or a worker
//	joint   as block, but one that joins another does not wait
//	broken  as joint, and panics then
//	burst   as joint, but panics at once
//	hold    waits for release; "hold later" for later
//	panic   panics
//	die     not on a reader; panics
//	long    claims to have written more than there is
type echo struct {
	release  chan struct{}
	later    chan struct{}
	threads  atomic.Int32 // that exist
	failNew  atomic.Bool  // NewThread fails
	served   atomic.Int64
	resets   atomic.Int32
	stops    atomic.Int32
	heir     atomic.Int32 // calls of TakeOver
	repeated atomic.Int32 // requests served of which Repeat was told
	blocking atomic.Int32 // requests that wait for release
	yields   atomic.Int32 // calls of Yield
	joined   atomic.Int32 // requests served of which Join was told

	mu          sync.Mutex
	interrupted map[int]chan struct{}
}

func newEcho() *echo {
	return &echo{release: make(chan struct{}), later: make(chan struct{}), interrupted: map[int]chan struct{}{}}
}

func newEchoMachine(t testing.TB, opts device.Options) (*machine, *echo) {
	e := newEcho()
	opts.Server = e
	m := newMachine(t, opts)
	return m, e
}

// releaseAtEnd has what still waits go on when the test ends.
func (e *echo) releaseAtEnd(t testing.TB) {
	t.Cleanup(func() {
		select {
		case <-e.release:
		default:
			close(e.release)
		}
	})
}

func (e *echo) NewThread() (device.Thread, error) {
	if e.failNew.Load() {
		return nil, errors.New("no more threads")
	}
	e.threads.Add(1)
	return &echoThread{server: e, buf: make([]byte, inSize)}, nil
}

func (e *echo) RingsStopped() { e.stops.Add(1) }
func (e *echo) Reset()        { e.resets.Add(1) }

func (e *echo) Yield() { e.yields.Add(1) }

func (e *echo) TakeOver() { e.heir.Add(1) }

func (e *echo) Interrupt(q int) {
	c := e.interruption(q)
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

func (e *echo) Resume(q int) {
	e.mu.Lock()
	delete(e.interrupted, q)
	e.mu.Unlock()
}

func (e *echo) interruption(q int) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.interrupted[q] == nil {
		e.interrupted[q] = make(chan struct{})
	}
	return e.interrupted[q]
}

type echoThread struct {
	server *echo
	buf    []byte
	spoilt bool
	repeat bool // Repeat was called before this request
	join   bool // Join was
	joint  uint64
}

func (t *echoThread) Joint() uint64 { return t.joint }

func (t *echoThread) Join() { t.join = true }

func (t *echoThread) Close() { t.server.threads.Add(-1) }

func (t *echoThread) Repeat() { t.repeat = true }

func (t *echoThread) Serve(q int, in, out *guestmem.Buffers, mayBlock bool) (uint32, device.Verdict) {
	if t.spoilt {
		panic("the thread is used after a panic")
	}
	repeat := t.repeat
	t.repeat, t.joint = false, 0
	defer func() { t.join = false }()
	n, err := in.CopyOut(t.buf[:min(in.Len(), len(t.buf))])
	if err != nil {
		return 0, device.Done
	}
	if v := t.before(q, t.buf[:n], mayBlock); v != device.Done {
		return 0, v
	}
	if string(t.buf[:n]) == "long" {
		return 1 << 30, device.Done
	}
	written, err := out.CopyIn(t.buf[:n])
	if err != nil {
		return 0, device.Done
	}
	t.server.served.Add(1)
	if repeat {
		t.server.repeated.Add(1)
	}
	return uint32(written), device.Done
}

func (t *echoThread) before(q int, text []byte, mayBlock bool) device.Verdict {
	word, _, _ := bytes.Cut(text, []byte(" "))
	switch string(word) {
	case "die":
		if !mayBlock {
			return device.Again
		}
		fallthrough
	case "panic":
		t.spoilt = true
		panic("as told")
	case "joint", "broken":
		if !mayBlock {
			t.joint = 1
			return device.Again
		}
		if t.join {
			t.server.joined.Add(1)
			break
		}
		t.server.blocking.Add(1)
		<-t.server.release
		t.server.blocking.Add(-1)
		if string(word) == "broken" {
			t.spoilt = true
			panic("as told")
		}
	case "block":
		if !mayBlock {
			return device.Again
		}
		t.server.blocking.Add(1)
		<-t.server.release
		t.server.blocking.Add(-1)
	case "slow": // in line
		time.Sleep(time.Millisecond)
	case "burst":
		if !mayBlock {
			t.joint = 1
			return device.Again
		}
		t.spoilt = true
		panic("as told")
	case "hold": // in line
		t.server.blocking.Add(1)
		if string(text) == "hold later" {
			<-t.server.later
		} else {
			<-t.server.release
		}
		t.server.blocking.Add(-1)
	case "aside":
		if !mayBlock {
			return device.Detach
		}
	case "turn":
		if !mayBlock {
			return device.Detach
		}
		stop := t.server.interruption(q)
		select {
		case <-t.server.release:
		case <-stop:
			return device.Requeue
		case <-time.After(time.Millisecond):
			return device.Detach
		}
	case "wait":
		if !mayBlock {
			return device.Detach
		}
		stop := t.server.interruption(q)
		t.server.blocking.Add(1)
		defer t.server.blocking.Add(-1)
		select {
		case <-t.server.release:
		case <-stop:
			return device.Requeue
		}
	}
	return device.Done
}
