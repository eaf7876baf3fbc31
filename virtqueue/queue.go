package virtqueue

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// Feature bits of virtio that a ring depends on.
const (
	FeatureIndirectDesc = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx     = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1     = 1 << 32 // VIRTIO_F_VERSION_1
	FeatureRingPacked   = 1 << 34 // VIRTIO_F_RING_PACKED
)

// MaxSize is the largest number of descriptors of a ring.
const MaxSize = 32768

// Config describes a ring as the front-end set it up.
type Config struct {
	Index int
	// Size is the number of descriptors: 1 to MaxSize, and a power of two for
	// a split ring.
	Size uint32
	// DescUser, AvailUser and UsedUser are front-end addresses of the
	// descriptor table, available and used ring; for a packed ring of the
	// descriptor ring, driver and device event suppression structures.
	DescUser, AvailUser, UsedUser uint64
	// Base is where the ring goes on, as SET_VRING_BASE encodes it.
	Base     uint32
	Features uint64
	Mem      *guestmem.Memory
	// Inflight is the region of the shared in-flight buffer, or nil. It has
	// to stay mapped until Close.
	Inflight []byte
	// LogUsed has writes to the used ring logged at guest address UsedLogGPA.
	LogUsed    bool
	UsedLogGPA uint64
	// Previous is the queue that stopped at the place where this one begins,
	// for chains that it had popped and that are to be restored or pushed; or
	// nil. It must not be used any more. The in-flight region, if there is
	// one, has them too.
	Previous *Queue
	// Anew says that the driver has begun anew since Inflight was last used:
	// what it tells is of the past. The ring itself does not always show it.
	Anew bool
}

// Queue is the device side of one virtqueue. One goroutine at a time, the
// popper, calls Pop, Pending, Restore, DisableNotify and EnableNotify; any may
// push and flush.
type Queue struct {
	cfg      Config
	eventIdx bool
	canIndir bool
	limit    uint32 // descriptors of a chain
	format   format
	broken   atomic.Bool

	asleep bool // the popper's: EnableNotify has found nothing

	// inFlight has 1 for the heads that were popped and not pushed.
	inFlight []atomic.Uint32

	mu sync.Mutex
	// resting says that the popper is asleep: memory is held only for what
	// others push. Otherwise the popper alone changes held, lease and the
	// spans, with mu held, and reads them without.
	resting bool
	held    bool
	lease   *lease
	// desc, driver and device are the three parts of the ring.
	desc, driver, device guestmem.Span
	descGPA              uint64
	inflight             guestmem.Span // the in-flight region

	logUsed    bool
	usedLogGPA uint64
}

// format is what split and packed rings do differently. Faults in ring memory
// are caught by the callers.
type format interface {
	// sizes returns the lengths in bytes of desc, driver and device.
	sizes() [3]uint64
	start(inflight []byte, previous format) error

	// The popper's.
	available() (bool, error)
	next(c *Chain) error
	restore(c *Chain, h Head) error
	resubmit() []Head

	// With mu held.
	push(h Head, written uint32)
	flush() (notify bool)
	unflushed() bool
	disableNotify()
	enableNotify()
	base() uint32
}

// New sets up a ring. It fails where the ring is not, as a whole, in mapped
// guest memory.
func New(cfg Config) (q *Queue, err error) {
	q = &Queue{
		cfg:        cfg,
		eventIdx:   cfg.Features&FeatureEventIdx != 0,
		canIndir:   cfg.Features&FeatureIndirectDesc != 0,
		limit:      max(cfg.Size, minChain),
		logUsed:    cfg.LogUsed,
		usedLogGPA: cfg.UsedLogGPA,
		inflight:   guestmem.SpanOf(cfg.Inflight),
	}
	q.cfg.Previous, q.cfg.Inflight = nil, nil // not to be kept alive
	switch {
	case cfg.Size == 0 || cfg.Size > MaxSize:
		return nil, fmt.Errorf("a ring of %d descriptors: configure a queue size of 1 to %d in the front-end", cfg.Size, MaxSize)
	case !q.packed() && cfg.Size&(cfg.Size-1) != 0:
		return nil, fmt.Errorf("a split ring of %d descriptors: configure a queue size that is a power of two in the front-end", cfg.Size)
	}
	q.inFlight = make([]atomic.Uint32, cfg.Size)
	if q.packed() {
		q.format = &packedRing{q: q, size: uint16(cfg.Size)}
	} else {
		q.format = &splitRing{q: q, mask: uint16(cfg.Size - 1)}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if err := q.hold(); err != nil {
		return nil, err
	}
	var previous format
	if cfg.Previous != nil && cfg.Inflight == nil && cfg.Previous.cfg.Size == cfg.Size && cfg.Previous.packed() == q.packed() {
		previous, q.inFlight = cfg.Previous.format, cfg.Previous.inFlight
	}
	if cfg.Anew {
		forgetInflight(cfg.Inflight)
	}
	if err := q.format.start(cfg.Inflight, previous); err != nil {
		q.drop()
		return nil, err
	}
	return q, nil
}

func (q *Queue) packed() bool { return q.cfg.Features&FeatureRingPacked != 0 }

// Close gives the memory of the ring back. Nothing may be pushed any more.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.broken.Store(true)
	q.drop()
}

// catch is deferred around all that touches the ring or the in-flight region. It
// turns a fault there, where a mapped file has no page any more, into ErrRing. Any
// other panic goes on.
func (q *Queue) catch(old bool, err *error) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	f, ok := r.(interface{ Addr() uintptr })
	if !ok || !slices.ContainsFunc([]guestmem.Span{q.desc, q.driver, q.device, q.inflight},
		func(s guestmem.Span) bool { return s.Has(f.Addr()) }) {
		panic(r)
	}
	q.broken.Store(true)
	*err = fmt.Errorf("%w: its memory is gone (was its file cut, or are there too few huge pages?)", ErrRing)
}

// wake ends what EnableNotify began.
func (q *Queue) wake() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wakeLocked()
}

func (q *Queue) wakeLocked() error {
	if q.broken.Load() {
		return ErrRing
	}
	if q.held && !q.cfg.Mem.Is(q.lease.table) {
		q.drop()
	}
	q.asleep, q.resting = false, false
	return q.hold()
}

// Pop takes the next available chain. It returns false and no error where there
// is none, an ErrRing where the ring is broken, and a *ChainError where the
// chain is: then it is c.Head that has to be pushed, with length 0.
func (q *Queue) Pop(c *Chain) (ok bool, err error) {
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if q.broken.Load() {
		return false, ErrRing
	}
	if q.asleep || !q.cfg.Mem.Is(q.lease.table) {
		if err := q.wake(); err != nil {
			return false, err
		}
	}
	if ok, err := q.format.available(); !ok {
		if err != nil {
			q.broken.Store(true)
		}
		return false, err
	}
	c.begin(q.lease)
	if err := q.format.next(c); err != nil {
		c.Release()
		if _, ok := err.(*ChainError); !ok {
			q.broken.Store(true)
		}
		return false, err
	}
	return true, nil
}

// take notes that h is in flight now. It fails if it was already: then the number
// of chains in flight would have no bound.
func (q *Queue) take(h Head) error {
	if q.inFlight[h].Load() != 0 {
		return fmt.Errorf("%w: the driver made chain %d available twice", ErrRing, h)
	}
	q.inFlight[h].Store(1)
	return nil
}

// Pending reports whether Pop has something to say.
func (q *Queue) Pending() bool {
	var err error
	ok := q.pending(&err)
	return ok || err != nil
}

func (q *Queue) pending(err *error) (ok bool) {
	defer q.catch(debug.SetPanicOnFault(true), err)
	if q.broken.Load() {
		*err = ErrRing
		return false
	}
	if q.asleep || !q.cfg.Mem.Is(q.lease.table) {
		if *err = q.wake(); *err != nil {
			return false
		}
	}
	ok, *err = q.format.available()
	return ok
}

// Push completes a chain with written bytes and releases it. The driver sees it
// after Flush.
func (q *Queue) Push(c *Chain, written uint32) {
	q.PushHead(c.Head, written)
	c.Release()
}

// PushHead is Push for a chain that has been released.
func (q *Queue) PushHead(h Head, written uint32) {
	var err error // the popper gets it
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if int(h) >= len(q.inFlight) || q.broken.Load() || q.hold() != nil {
		return
	}
	q.inFlight[h].Store(0)
	q.format.push(h, written)
}

// Flush makes what was pushed visible to the driver and reports whether the
// driver wants to be told.
func (q *Queue) Flush() (notify bool) {
	var err error // the popper gets it
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if !q.format.unflushed() || q.broken.Load() || q.hold() != nil {
		return false
	}
	notify = q.format.flush()
	if q.resting {
		q.drop()
	}
	return notify
}

// DisableNotify tells the driver that it need not kick.
func (q *Queue) DisableNotify() {
	var err error
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if q.wakeLocked() == nil {
		q.format.disableNotify()
	}
}

// EnableNotify asks the driver to kick for the next chain. It reports whether
// one came before the driver could know, or the ring is broken: then no kick may
// follow. If it returns false the queue holds no memory until its next use.
func (q *Queue) EnableNotify() (pending bool) {
	var err error
	pending = true
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if q.wakeLocked() != nil {
		return true
	}
	q.format.enableNotify()
	if ok, err := q.format.available(); ok || err != nil {
		return true
	}
	q.asleep, q.resting = true, true
	if !q.format.unflushed() {
		q.drop()
	}
	return false
}

// SetLog turns the logging of writes to the used ring on or off.
func (q *Queue) SetLog(on bool, usedLogGPA uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.logUsed, q.usedLogGPA = on, usedLogGPA
}

// Base is where the ring goes on, for GET_VRING_BASE. Nobody may pop.
func (q *Queue) Base() uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.format.base()
}

// Resubmit returns the chains that a process before this one had popped and not
// completed, in the order in which it got them. Restore makes chains of them.
func (q *Queue) Resubmit() []Head { return q.format.resubmit() }

// Restore makes c the chain h, of Resubmit or of a Chain that was released
// before its completion. Errors are those of Pop.
func (q *Queue) Restore(c *Chain, h Head) (err error) {
	defer q.catch(debug.SetPanicOnFault(true), &err)
	if q.broken.Load() {
		return ErrRing
	}
	if q.asleep || !q.cfg.Mem.Is(q.lease.table) {
		if err := q.wake(); err != nil {
			return err
		}
	}
	if int(h) >= len(q.inFlight) {
		return fmt.Errorf("%w: chain %d is to be in flight in a ring of %d", ErrRing, h, q.cfg.Size)
	}
	q.inFlight[h].Store(1)
	c.begin(q.lease)
	c.Head = h
	if err := q.format.restore(c, h); err != nil {
		c.Release()
		return err
	}
	return nil
}

// markUsed logs a write of n bytes at offset at of the used ring. mu is held.
func (q *Queue) markUsed(at, n uint64) {
	if q.logUsed {
		q.cfg.Mem.MarkDirty(q.usedLogGPA+at, n)
	}
}
