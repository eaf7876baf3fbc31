package virtqueue

import (
	"errors"
	"fmt"
	"sync"

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

// MaxChainBytes bounds what one chain may describe in one direction.
const MaxChainBytes = 64 << 20

// ErrRing says that the ring itself is broken: nothing of it can be trusted, and
// it must not be looked at again before it is set up anew.
var ErrRing = errors.New("the ring is broken")

// ChainError says that the driver made a chain that can't be served. The chain's
// Head is set: completing it with length 0 tells the driver.
type ChainError struct{ Reason string }

func (e *ChainError) Error() string { return "bad descriptor chain: " + e.Reason }

// The reasons are values of their own so that a hostile driver costs no memory.
var (
	errLoop      = &ChainError{"it is longer than the ring, or has a loop"}
	errNext      = &ChainError{"its next index is outside the table"}
	errOrder     = &ChainError{"a device-readable descriptor follows a writable one"}
	errAddress   = &ChainError{"a buffer is not in guest memory"}
	errLength    = &ChainError{"it describes too many bytes"}
	errIndirect  = &ChainError{"an indirect descriptor has a wrong length, or flags that exclude it"}
	errNested    = &ChainError{"an indirect table holds an indirect descriptor"}
	errNoFeature = &ChainError{"it is indirect, which was not negotiated"}
)

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
	// Inflight is the region of the shared in-flight buffer, or nil.
	Inflight []byte
	// LogUsed has writes to the used ring logged at guest address UsedLogGPA.
	LogUsed    bool
	UsedLogGPA uint64
	// Previous is the queue that stopped at the place where this one begins,
	// for chains that it had popped and that are to be restored; or nil. It
	// must not be used any more.
	Previous *Queue
}

// Queue is the device side of one virtqueue. One goroutine at a time pops;
// pushing and flushing may be done by any.
type Queue struct {
	cfg      Config
	eventIdx bool
	indirect bool
	format   format

	mu sync.Mutex // guards everything below against pushers
	// table is the snapshot that the rings below lie in. Only the popper
	// changes it, with mu held.
	table                *guestmem.Table
	desc, driver, device guestmem.Ring
}

// format is what split and packed rings do differently.
type format interface {
	sizes(n uint64) (desc, driver, device uint64)
	start() error
	available() (bool, error)
	next(c *Chain) error
	push(h Head, written uint32)
	flush() (notify bool)
	disableNotify()
	enableNotify() (pending bool, err error)
	base() uint32
	resubmit() []Head
	restore(c *Chain, h Head) error
}

// Head identifies a chain that has been popped and not yet pushed.
type Head uint16

// New sets up a ring. It fails where the ring is not, as a whole, in mapped
// guest memory.
func New(cfg Config) (*Queue, error) {
	packed := cfg.Features&FeatureRingPacked != 0
	switch {
	case cfg.Size == 0 || cfg.Size > MaxSize:
		return nil, fmt.Errorf("a ring of %d descriptors: 1 to %d are possible", cfg.Size, MaxSize)
	case !packed && cfg.Size&(cfg.Size-1) != 0:
		return nil, fmt.Errorf("a split ring of %d descriptors: the number must be a power of two", cfg.Size)
	case cfg.DescUser%16 != 0 || cfg.AvailUser%4 != 0 && packed || cfg.AvailUser%2 != 0 || cfg.UsedUser%4 != 0:
		return nil, fmt.Errorf("the ring at %#x, %#x, %#x is not aligned", cfg.DescUser, cfg.AvailUser, cfg.UsedUser)
	}
	q := &Queue{cfg: cfg, eventIdx: cfg.Features&FeatureEventIdx != 0, indirect: cfg.Features&FeatureIndirectDesc != 0}
	if packed {
		q.format = &packedRing{q: q, size: uint16(cfg.Size)}
	} else {
		q.format = &splitRing{q: q, size: uint16(cfg.Size - 1)}
	}
	if err := q.resolve(); err != nil {
		return nil, err
	}
	if err := q.format.start(); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Close gives the memory of the ring back. No chain may be pushed any more.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.table != nil {
		q.table.Release()
		q.table = nil
	}
}

// resolve finds the rings in the current memory.
func (q *Queue) resolve() error {
	table := q.cfg.Mem.Acquire()
	dn, an, un := q.format.sizes(uint64(q.cfg.Size))
	desc, err1 := table.Ring(q.cfg.DescUser, dn)
	driver, err2 := table.Ring(q.cfg.AvailUser, an)
	device, err3 := table.Ring(q.cfg.UsedUser, un)
	if err := errors.Join(err1, err2, err3); err != nil {
		table.Release()
		return fmt.Errorf("%w: %w", ErrRing, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.table != nil {
		q.table.Release()
	}
	q.table, q.desc, q.driver, q.device = table, desc, driver, device
	return nil
}

// Pop takes the next available chain. It returns false and no error where there
// is none, an ErrRing where the ring is broken, and a *ChainError where the
// chain is: then it is c.Head that has to be pushed, with length 0.
func (q *Queue) Pop(c *Chain) (ok bool, err error) {
	if !q.cfg.Mem.Is(q.table) {
		if err := q.resolve(); err != nil {
			return false, err
		}
	}
	if ok, err := q.format.available(); !ok {
		return false, err
	}
	c.begin(q.table)
	if err := q.format.next(c); err != nil {
		c.Release()
		return false, err
	}
	return true, nil
}

// Pending reports whether a chain is available.
func (q *Queue) Pending() bool {
	ok, err := q.format.available()
	return ok || err != nil
}

// Push completes a chain with written bytes. The driver sees it after Flush.
func (q *Queue) Push(c *Chain, written uint32) { q.PushHead(c.Head, written) }

// PushHead is Push for a chain that has been released.
func (q *Queue) PushHead(h Head, written uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.format.push(h, written)
}

// Flush makes what was pushed visible to the driver and reports whether the
// driver wants to be told.
func (q *Queue) Flush() (notify bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.format.flush()
}

// DisableNotify tells the driver that it need not kick.
func (q *Queue) DisableNotify() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.format.disableNotify()
}

// EnableNotify asks the driver to kick for the next chain. It reports whether
// one came before the driver could know: then no kick follows.
func (q *Queue) EnableNotify() (pending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending, err := q.format.enableNotify()
	return pending || err != nil
}

// Base is where the ring goes on, for GET_VRING_BASE.
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
func (q *Queue) Restore(c *Chain, h Head) error {
	c.begin(q.table)
	if err := q.format.restore(c, h); err != nil {
		c.Release()
		return err
	}
	return nil
}

// logUsed logs a write of n bytes at offset at of the used ring.
func (q *Queue) logUsed(at, n uint64) {
	if q.cfg.LogUsed {
		q.table.MarkDirty(q.cfg.UsedLogGPA+at, n)
	}
}
