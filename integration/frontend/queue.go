package frontend

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Seg is a buffer in guest memory, one descriptor.
type Seg struct {
	GPA uint64
	Len uint32
}

// Chain is one request on a queue. It is the caller's to reuse once it has come back from Poll.
type Chain struct {
	Readable, Writable []Seg  // what the device reads, and what it writes
	Used               uint32 // bytes written, as the device says
	Head               uint16
	Tag                any // the caller's

	descs int  // ring descriptors taken
	alone bool // as one descriptor pointing to a table
}

// ErrFull means that the ring has no room for the chain until something completes.
var ErrFull = errors.New("the queue is full")

// Queue is the driver's side of one virtqueue. All methods may be called by any goroutine; Wait by one at a time.
type Queue struct {
	// The parts of the ring in guest memory: for a packed ring, the descriptor ring, and the driver's and the device's
	// event suppression area.
	DescGPA, AvailGPA, UsedGPA uint64

	f     *Frontend
	index int
	size  int
	call  int // eventfd, written by the device
	kick  int // eventfd, read by the device
	errfd int

	mu          sync.Mutex
	ring        ring
	outstanding []*Chain // by head, nil if free
	inFlight    int
	broken      bool // the device named a chain that it does not have
	indirect    bool
	tables      []table // by head
	base        uint32  // for SET_VRING_BASE
	notified    atomic.Uint64
	completed   atomic.Uint64

	spin  time.Duration
	calls [8]byte // read from call by the one goroutine that waits
}

// table is an indirect descriptor table; it grows to what was needed and is kept.
type table struct {
	gpa uint64
	mem []byte
}

// ring is the format of a queue. Called with Queue.mu.
type ring interface {
	setFeatures(eventIdx bool)
	reset()
	initialBase() uint32
	// restore is SET_VRING_BASE for a ring that goes on after the device died, when it last was known.
	restore(known uint32) uint32

	// room says whether c.descs descriptors are free, nextHead which head the next chain gets. add makes a chain
	// available, as its segments or, if it is alone, as one indirect descriptor of table. needsKick says whether the device wants to hear of
	// what was added since it was last asked.
	room(n int) bool
	nextHead() uint16
	add(c *Chain, table Seg)
	needsKick() bool

	// ready says whether there is a used element, pop reads it, release frees the chain that it names. arm asks for
	// a call at the next one.
	ready() bool
	pop() (id, length uint32)
	release(c *Chain)
	arm()
}

func newQueue(f *Frontend, index, size int, packed bool) (*Queue, error) {
	q := &Queue{f: f, index: index, size: size, call: -1, kick: -1, errfd: -1}
	for _, fd := range []*int{&q.call, &q.kick, &q.errfd} {
		var err error
		if *fd, err = eventfd(); err != nil {
			return nil, err
		}
	}
	q.outstanding = make([]*Chain, size)
	q.tables = make([]table, size)
	if err := q.allocRing(packed); err != nil {
		return nil, err
	}
	q.reset()
	return q, nil
}

func (q *Queue) allocRing(packed bool) error {
	desc, avail, used := uint64(16*q.size), uint64(6+2*q.size), uint64(6+8*q.size)
	if packed {
		avail, used = 4, 4
	}
	for _, part := range []struct {
		gpa     *uint64
		n       uint64
		aligned uint64
	}{{&q.DescGPA, desc, 16}, {&q.AvailGPA, avail, 64}, {&q.UsedGPA, used, PageSize}} {
		var err error
		if *part.gpa, err = q.f.Mem.Alloc(part.n, part.aligned); err != nil {
			return err
		}
	}
	// The used ring has its page to itself, so that dirty logging of it can be told apart.
	if _, err := q.f.Mem.Alloc(0, PageSize); err != nil {
		return err
	}
	d, a, u := q.f.Mem.Bytes(q.DescGPA, desc), q.f.Mem.Bytes(q.AvailGPA, avail), q.f.Mem.Bytes(q.UsedGPA, used)
	if packed {
		q.ring = newPackedRing(q.size, d, a, u)
	} else {
		q.ring = newSplitRing(q.size, d, a, u)
	}
	return nil
}

func (q *Queue) close() {
	for _, fd := range []int{q.call, q.kick, q.errfd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Index and Size are the queue's number and its number of descriptors.
func (q *Queue) Index() int { return q.index }
func (q *Queue) Size() int  { return q.size }

// KickFD and CallFD are the eventfds, for tests that signal by hand.
func (q *Queue) KickFD() int { return q.kick }
func (q *Queue) CallFD() int { return q.call }

// ErrFD is the eventfd by which the device says that the queue is broken.
func (q *Queue) ErrFD() int { return q.errfd }

// InFlight counts chains that are with the device.
func (q *Queue) InFlight() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inFlight
}

// Notified counts kicks, Completed chains that came back.
func (q *Queue) Notified() uint64  { return q.notified.Load() }
func (q *Queue) Completed() uint64 { return q.completed.Load() }

// SetSpin lets Wait look at the ring for that long before it sleeps.
func (q *Queue) SetSpin(d time.Duration) { q.spin = d }

func (q *Queue) setFeatures(features uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.indirect = features&FRingIndirect != 0
	q.ring.setFeatures(features&FEventIdx != 0)
}

// reset makes the ring new, as a driver does that starts.
func (q *Queue) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ring.reset()
	clear(q.outstanding)
	q.inFlight, q.broken = 0, false
	q.base = q.ring.initialBase()
}

// stopped takes note of GET_VRING_BASE.
func (q *Queue) stopped(base uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.base = base
}

// restoreBase is virtio_queue_restore_last_avail_idx: after a daemon died the ring goes on where it was used last.
func (q *Queue) restoreBase() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.base = q.ring.restore(q.base)
}

// Base is what SET_VRING_BASE says at the next start; SetBase changes it.
func (q *Queue) Base() uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.base
}

func (q *Queue) SetBase(base uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.base = base
}

// Submit makes a chain available; with more than one segment it goes by an indirect table where the ring has them.
// The device is not told: call Kick.
func (q *Queue) Submit(c *Chain) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(c.Readable) + len(c.Writable)
	if n == 0 {
		return errors.New("a chain needs a descriptor")
	}
	c.descs, c.alone = n, false
	if n > 1 && q.indirect {
		c.descs, c.alone = 1, true
	}
	if c.descs > q.size || n > q.size {
		return fmt.Errorf("%d descriptors do not fit a queue of %d", n, q.size)
	}
	if !q.ring.room(c.descs) {
		return ErrFull
	}
	var table Seg
	if c.alone {
		var err error
		if table, err = q.fillTable(c, n); err != nil {
			return err
		}
	}
	q.ring.add(c, table)
	q.outstanding[c.Head] = c
	q.inFlight++
	return nil
}

// fillTable writes an indirect table. Its memory belongs to the entry of outstanding that the chain will get, which the
// ring has already chosen.
func (q *Queue) fillTable(c *Chain, n int) (Seg, error) {
	t := &q.tables[q.ring.nextHead()]
	if len(t.mem) < 16*n {
		size := 1
		for size < n {
			size *= 2
		}
		gpa, err := q.f.Mem.Alloc(uint64(16*size), 16)
		if err != nil {
			return Seg{}, err
		}
		t.gpa, t.mem = gpa, q.f.Mem.Bytes(gpa, uint64(16*size))
	}
	packed := q.f.opts.Packed
	i := 0
	for k, list := range [2][]Seg{c.Readable, c.Writable} {
		for _, s := range list {
			flags, last := uint16(0), uint16(0)
			if k == 1 {
				flags = descWrite
			}
			if packed {
				putDesc(t.mem[16*i:], s, 0, flags)
			} else {
				if i < n-1 {
					flags, last = flags|descNext, uint16(i+1)
				}
				putDesc(t.mem[16*i:], s, flags, last)
			}
			i++
		}
	}
	return Seg{t.gpa, uint32(16 * n)}, nil
}

// Kick tells the device about what was submitted, if it wants to be told.
func (q *Queue) Kick() error {
	q.mu.Lock()
	need := q.ring.needsKick()
	q.mu.Unlock()
	if !need {
		return nil
	}
	return q.ForceKick()
}

// ForceKick signals the device in any case.
func (q *Queue) ForceKick() error {
	q.notified.Add(1)
	return signal(q.kick)
}

var eventfdOne = [8]byte{1}

func signal(fd int) error {
	for {
		_, err := unix.Write(fd, eventfdOne[:])
		if err != unix.EINTR {
			return err
		}
	}
}

// Poll takes completed chains, at most len(done), without waiting. What the device did wrong with them is a fault.
func (q *Queue) Poll(done []*Chain) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(done) && !q.broken && q.ring.ready() {
		id, length := q.ring.pop()
		if id >= uint32(len(q.outstanding)) || q.outstanding[id] == nil {
			q.f.fault("queue %d: used element names head %d, which is not in flight", q.index, id)
			q.broken = true // as Linux's BAD_RING
			break
		}
		c := q.outstanding[id]
		q.outstanding[id] = nil
		q.inFlight--
		q.ring.release(c)
		c.Used = length
		if room := total(c.Writable); uint64(length) > room {
			q.f.fault("queue %d: used length %d of a chain with %d writable bytes", q.index, length, room)
		}
		done[n] = c
		n++
	}
	q.completed.Add(uint64(n))
	return n
}

func total(segs []Seg) uint64 {
	var n uint64
	for _, s := range segs {
		n += uint64(s.Len)
	}
	return n
}

// Wait returns when there may be something to poll: the device called, or Wake was. It is for one goroutine.
func (q *Queue) Wait() error {
	if q.readyOrArm(q.spin == 0) {
		return nil
	}
	if q.spin > 0 {
		for end := time.Now().Add(q.spin); time.Now().Before(end); {
			if q.readyOrArm(false) {
				return nil
			}
		}
		if q.readyOrArm(true) {
			return nil
		}
	}
	for {
		_, err := unix.Read(q.call, q.calls[:])
		if err != unix.EINTR {
			return err
		}
	}
}

// readyOrArm says whether there is a used element; if not, it may ask the device to call at the next.
func (q *Queue) readyOrArm(arm bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken {
		return false
	}
	if arm && !q.ring.ready() {
		q.ring.arm()
	}
	return q.ring.ready()
}

// Arm asks the device to write to CallFD at the next completion, for callers that wait by themselves. It says whether
// there is one already; then no call may follow.
func (q *Queue) Arm() (ready bool) { return q.readyOrArm(true) }

// Wake ends a Wait.
func (q *Queue) Wake() error { return signal(q.call) }

// WaitTimeout is Wait with a limit; it returns ETIMEDOUT. A device may call with nothing to poll, so callers poll and wait again.
func (q *Queue) WaitTimeout(d time.Duration) error {
	if q.readyOrArm(true) {
		return nil
	}
	end := time.Now().Add(d)
	for {
		left := time.Until(end)
		if left < 0 {
			return unix.ETIMEDOUT
		}
		fds := []unix.PollFd{{Fd: int32(q.call), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n == 1 {
			var b [8]byte
			_, err := unix.Read(q.call, b[:])
			return err
		}
	}
}

// Do submits a chain, kicks, and waits for it alone: for tests that use a queue by hand.
func (q *Queue) Do(c *Chain, timeout time.Duration) error {
	if err := q.Submit(c); err != nil {
		return err
	}
	if err := q.Kick(); err != nil {
		return err
	}
	end := time.Now().Add(timeout)
	var done [1]*Chain
	for {
		if q.Poll(done[:]) == 1 {
			if done[0] == c {
				return nil
			}
			continue
		}
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		if err := q.WaitTimeout(left); err != nil {
			return err
		}
	}
}
