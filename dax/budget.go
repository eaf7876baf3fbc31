package dax

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// budget is the server's estimate of the window's resident bytes: what the engine
// has told, and the READs since. It wakes the engine when the estimate passes
// the high-water mark, and holds READs back while it is near the limit, so that
// the guest does not bring pages in faster than the engine takes them away.
type budget struct {
	limit  uint64 // bytes, 0 for none
	kicked int    // eventfd

	mu       sync.Mutex
	resident int64
	told     bool          // the engine is awake
	taking   span          // the engine is taking these pages, or none
	less     chan struct{} // closed when resident has gone down
}

// maxHold bounds how long a READ is held back, should the engine make no headway:
// it may have to wait for a request of the daemon that waits for this READ.
const maxHold = time.Second

// charge counts the bytes of w, which are about to be read, and returns when there
// is room for them, or when somebody who takes pages away waits for this READ:
// the engine, or an exclusion, of which excluded tells.
func (b *budget) charge(w span, excluded func(span) bool) {
	if b.limit == 0 {
		return
	}
	limit := int64(b.limit / 16 * holdWater)
	b.mu.Lock()
	b.resident += int64(w.Len)
	b.wake()
	if b.resident <= limit {
		b.mu.Unlock()
		return
	}
	t := time.NewTimer(maxHold)
	defer t.Stop()
	for b.resident > limit && !b.taking.overlaps(w) {
		less := b.less
		b.mu.Unlock()
		if excluded(w) {
			return
		}
		select {
		case <-less:
		case <-t.C:
			return
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
}

func (b *budget) wake() {
	if b.told || b.resident < int64(b.limit/16*highWater) {
		return
	}
	b.told = true
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(b.kicked, one[:])
}

// set takes over what the engine has measured.
func (b *budget) set(resident uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resident = int64(resident)
	b.changed()
}

// free takes note of bytes that the engine has freed, and of what it takes next.
func (b *budget) free(n uint64, next span) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resident = max(b.resident-int64(n), 0)
	b.taking = next
	b.changed()
}

// done says that the engine goes to sleep.
func (b *budget) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = false
	b.wake()
}

// look makes every READ that is held back look again.
func (b *budget) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed()
}

func (b *budget) changed() {
	close(b.less)
	b.less = make(chan struct{})
}
