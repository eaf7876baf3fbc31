package dax

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// budget is the server's estimate of the window's resident bytes: what the engine
// has told, and the READs since. It wakes the engine when the estimate passes
// the high-water mark, and holds READs back while it is near the limit: who
// faults waits for the engine, however long that takes to get a processor, as
// who allocates memory waits for reclaim.
//
// A READ is not held back where the engine waits for it, taking its pages; nor
// where it may be waiting for it in a roundabout way, being at one thing for long.
type budget struct {
	limit  uint64 // bytes, 0 for none
	kicked int    // eventfd

	mu       sync.Mutex
	resident int64
	charged  int64         // since the engine began to measure
	told     bool          // the engine is awake
	off      bool          // the engine has ended, or can take nothing
	taking   span          // the engine is taking these pages, or none
	waiting  bool          // the engine is taking pages, or waits for a lock
	since    time.Time     // when that began
	less     chan struct{} // closed when resident has gone down
}

const (
	// maxHold is how long a READ is held back when the engine has been at one
	// thing for as long.
	maxHold = time.Second
	// nearHold is the same for a READ near the pages that the engine takes:
	// the kernel reads ahead in pieces, one after the other, and has the
	// pages of all of them locked.
	nearHold = 2 * time.Millisecond
	near     = 2 * RangeSize
)

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
	b.charged += int64(w.Len)
	b.wake()
	if b.resident <= limit {
		b.mu.Unlock()
		return
	}
	for start := time.Now(); b.resident > limit && !b.off && !b.taking.overlaps(w); {
		hold := maxHold
		if b.isNear(w) {
			hold = nearHold
		}
		if b.waiting && time.Since(start) >= hold && time.Since(b.since) >= hold {
			break
		}
		less := b.less
		b.mu.Unlock()
		if excluded(w) {
			return
		}
		t := time.NewTimer(hold)
		select {
		case <-less:
		case <-t.C:
		}
		t.Stop()
		b.mu.Lock()
	}
	b.mu.Unlock()
}

func (b *budget) isNear(w span) bool {
	t := b.taking
	return t.Len > 0 && w.Off < t.end()+near && t.Off < w.end()+near
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

// measure says that the engine begins to measure.
func (b *budget) measure() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.charged = 0
}

// set takes over what the engine has measured. READs since it began may be part
// of it or not.
func (b *budget) set(resident uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resident = int64(resident) + b.charged
	b.changed()
}

// free takes note of bytes that the engine has freed.
func (b *budget) free(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resident = max(b.resident-int64(n), 0)
	b.taking, b.waiting = span{}, false
	b.off = b.off && n == 0
	b.changed()
}

// step takes note of what the engine does next: take the pages of w or, if that
// is empty, wait for a lock.
func (b *budget) step(w span) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taking, b.waiting, b.since = w, true, time.Now()
	b.changed()
}

// done says that the engine goes to sleep. If it can take nothing, nobody is to
// wait for it.
func (b *budget) done(nothing bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told, b.taking, b.waiting = false, span{}, false
	b.off = nothing
	if nothing {
		b.changed()
		return
	}
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
