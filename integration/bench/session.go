package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// session is a guest that has mounted a daemon.
type session struct {
	fe     *frontend.Frontend
	client *fuseclient.Client
	tree   *tree
	queues int

	// What the workloads use, looked up once and kept.
	names, churn   uint64 // nodes
	data, dataFH   uint64
	write, writeFH uint64
	cold, coldFH   uint64

	forgets forgets
	stamp   uint64 // of the last write
}

const (
	queueSize = 1024 // room for a request of 256 pages
	guestRAM  = 4 << 30
	patience  = 30 * time.Second
)

var errNoReply = errors.New("no reply from the daemon")

func newSession(socket string, tr *tree, queues int) (*session, error) {
	fe, err := frontend.Open(socket, frontend.Options{Queues: 1 + queues, QueueSize: queueSize, Regions: frontend.PCRegions(guestRAM)})
	if err != nil {
		return nil, err
	}
	s := &session{fe: fe, tree: tr, queues: queues}
	s.client = fuseclient.New(fe, fuseclient.Options{Polled: true})
	s.forgets.s = s
	if err := s.mount(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() { s.fe.Close() }

func (s *session) mount() error {
	if err := s.init(); err != nil {
		return err
	}
	for _, n := range []struct {
		name  string
		node  *uint64
		fh    *uint64
		flags uint32
	}{
		{namesDir, &s.names, nil, 0},
		{churnDir, &s.churn, nil, 0},
		{readFile, &s.data, &s.dataFH, 0},
		{coldFile, &s.cold, &s.coldFH, 0},
		{writeFile, &s.write, &s.writeFH, 2},
	} {
		err := s.call(fuseclient.OpLookup, fuseclient.RootID,
			func(r *fuseclient.Request) { r.Lookup(n.name) },
			func(r *fuseclient.Request) { *n.node = r.Entry().NodeId })
		if err == nil && n.fh != nil {
			err = s.call(fuseclient.OpOpen, *n.node,
				func(r *fuseclient.Request) { r.Open(n.flags) },
				func(r *fuseclient.Request) { *n.fh = r.OpenOut().Fh })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

// init is the FUSE handshake, with the flags of Linux.
func (s *session) init() error {
	const size = 64
	in := make([]byte, size)
	for i, v := range []uint32{7, 45, 128 << 10, uint32(fuseclient.LinuxInitFlags & (1<<32 - 1)), uint32(fuseclient.LinuxInitFlags >> 32)} {
		binary.LittleEndian.PutUint32(in[4*i:], v)
	}
	var major uint32
	err := s.call(fuseclient.OpInit, 0, func(r *fuseclient.Request) {
		r.Append(in)
		r.Expect(size, true)
	}, func(r *fuseclient.Request) { major = binary.LittleEndian.Uint32(r.Reply()) })
	if err == nil && major != 7 {
		err = fmt.Errorf("major version %d", major)
	}
	if err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	return nil
}

// call does one request on the first request queue and waits for it.
func (s *session) call(op fuseclient.Opcode, node uint64, fill, get func(*fuseclient.Request)) error {
	r, err := s.client.Acquire(1)
	if err != nil {
		return err
	}
	r.Begin(op, node, fuseclient.Caller{})
	fill(r)
	if err := r.Submit(); err != nil {
		return err
	}
	if err := s.client.Kick(1); err != nil {
		return err
	}
	var done [1]*fuseclient.Request
	for end := time.Now().Add(patience); s.client.Reap(1, done[:]) == 0; {
		if time.Now().After(end) {
			return errNoReply
		}
		if err := s.fe.Queue(1).WaitTimeout(time.Second); err != nil && time.Now().After(end) {
			return err
		}
	}
	if r.Err != 0 {
		return r.Err
	}
	if get != nil {
		get(r)
	}
	s.client.Release(r)
	return nil
}

// forgets sends FORGETs on the hiprio queue as Linux does: nobody waits for them, and what finds the ring full is sent
// later.
type forgets struct {
	s *session

	mu      sync.Mutex // held by one driver at a time
	waiting []forget
	free    []*fuseclient.Request
	out     int // in flight
	done    [256]*fuseclient.Request
}

type forget struct{ node, count uint64 }

// forgetsWaiting is how many a driver keeps before it waits for room.
const forgetsWaiting = 4096

// add notes a FORGET for the next flush.
func (f *forgets) add(node, count uint64) {
	f.mu.Lock()
	f.waiting = append(f.waiting, forget{node, count})
	f.mu.Unlock()
}

// flush sends what waits, as far as it can. With all set it waits until every FORGET has been served.
func (f *forgets) flush(all bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 && f.out == 0 {
		return nil
	}
	var deadline time.Time
	for {
		f.reap()
		if err := f.send(); err != nil {
			return err
		}
		if all && f.out == 0 && len(f.waiting) == 0 || !all && len(f.waiting) < forgetsWaiting {
			// As Linux, be called for each completion, although nobody sleeps for it.
			f.s.fe.Queue(0).Arm()
			return nil
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(patience)
		}
		if err := f.s.fe.Queue(0).WaitTimeout(time.Second); err != nil && time.Now().After(deadline) {
			return fmt.Errorf("FORGET: %w", errNoReply)
		}
	}
}

func (f *forgets) reap() {
	for f.out > 0 {
		n := f.s.client.Reap(0, f.done[:])
		if n == 0 {
			return
		}
		f.free = append(f.free, f.done[:n]...)
		f.out -= n
	}
}

func (f *forgets) send() error {
	sent := 0
	for len(f.waiting) > 0 {
		if f.out == queueSize {
			// As Linux's virtqueue_add, which notifies in any case where a ring is full.
			return f.s.fe.Queue(0).ForceKick()
		}
		var r *fuseclient.Request
		if n := len(f.free); n > 0 {
			r = f.free[n-1]
			f.free = f.free[:n-1]
		} else {
			var err error
			if r, err = f.s.client.Acquire(0); err != nil {
				return err
			}
		}
		w := f.waiting[len(f.waiting)-1]
		f.waiting = f.waiting[:len(f.waiting)-1]
		r.Begin(fuseclient.OpForget, w.node, fuseclient.Caller{})
		r.Forget(w.count)
		if err := r.Submit(); err != nil {
			return err
		}
		f.out++
		sent++
	}
	if sent == 0 {
		return nil
	}
	return f.s.client.Kick(0)
}

// fault says what the daemon did against the rules of the transport, if it did.
func (s *session) fault() error {
	if f := s.fe.Faults(); len(f) > 0 {
		return errors.New(f[0])
	}
	return nil
}
