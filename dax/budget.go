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
	readers  int                  // READs being served
	most     int                  // of them at a time, ever
	threads  map[uint32]time.Time // that faulted, and when
	resident int64
	charged  int64         // since the engine began to measure
	told     bool          // the engine is awake
	off      bool          // the engine has ended, or can take nothing
	taking   span          // the engine is taking these pages, or none
	waiting  bool          // the engine is taking pages, or waits for a lock
	since    time.Time     // when that began
	let      time.Time     // when a READ was last let go for that
	less     chan struct{} // closed when resident has gone down
}

const (
	// maxHold is how long a READ is held back when the engine has been at one
	// thing for as long. It may only be slow, so one READ goes at a time.
	maxHold = time.Second
	// nearHold is the same for a READ near the pages that the engine takes:
	// the kernel reads ahead in pieces, one after the other, and has the
	// pages of all of them locked.
	nearHold = 2 * time.Millisecond
	near     = 2 * RangeSize
	// threadIdle is for how long a thread counts that does not fault.
	threadIdle = time.Minute
)

// ahead is what a thread that faults brings into memory before its first READ is
// here to be counted: the range, and as much again behind it.
const ahead = 2 * RangeSize

// Water marks, in sixteenths of the budget. The server holds READs back from
// holdWater on.
const (
	holdWater = 14
	highWater = 12
	lowWater  = 9
)

// marks are the water marks in bytes, for that many threads that fault at a time:
// the lower the more they are, so that what they bring in at once stays within a
// tenth above the budget. To what they have under way comes what they bring in when
// the engine, with nothing else left, takes the ranges of that: each is let go once
// in a round of it, with a range that stays. A quarter of the budget is there for any
// number, so the tenth is not kept where they bring in more than 17/20 of it at once.
func marks(limit uint64, threads int) (hold, high, low uint64) {
	hold = limit / 16 * holdWater
	if most, room := limit+limit/10, uint64(threads+max(1, threads/2))*ahead; room < most {
		hold = min(hold, most-room)
	} else {
		hold = 0
	}
	hold = max(hold, limit/4)
	return hold, hold / holdWater * highWater, hold / holdWater * lowWater
}

// charge counts the bytes of w, which are about to be read, and returns when there
// is room for them, or when somebody who takes pages away waits for this READ:
// the engine, or an exclusion, of which excluded tells. With [budget.leave] it is
// served.
func (b *budget) charge(w span, thread uint32, excluded func(span) bool) {
	if b.limit == 0 {
		return
	}
	now := time.Now()
	b.mu.Lock()
	b.readers++
	b.most = max(b.most, b.readers)
	b.threads[thread] = now
	b.resident += int64(w.Len)
	b.charged += int64(w.Len)
	b.wake()
	if !b.full() {
		b.mu.Unlock()
		return
	}
	for start := now; b.full() && !b.off && !b.taking.overlaps(w); {
		hold := maxHold
		if b.isNear(w) {
			hold = nearHold
		}
		if b.waiting && time.Since(start) >= hold && time.Since(b.since) >= hold {
			if hold == nearHold {
				break
			}
			if time.Since(b.let) >= hold {
				b.let = time.Now()
				break
			}
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

// leave ends what began with charge.
func (b *budget) leave() {
	if b.limit == 0 {
		return
	}
	b.mu.Lock()
	b.readers--
	b.mu.Unlock()
}

func (b *budget) full() bool {
	hold, _, _ := marks(b.limit, b.faulting())
	return b.resident > int64(hold)
}

// faulting is how many threads may fault at a time. The kernel tells who does; or
// it does not, if the front-end is in a pid namespace that this process is not in.
func (b *budget) faulting() int { return max(b.most, len(b.threads)) }

func (b *budget) isNear(w span) bool {
	t := b.taking
	return t.Len > 0 && w.Off < t.end()+near && t.Off < w.end()+near
}

func (b *budget) wake() {
	if _, high, _ := marks(b.limit, b.faulting()); b.told || b.resident < int64(high) {
		return
	}
	b.told = true
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(b.kicked, one[:])
}

// measure says that the engine begins to measure. It returns how many threads may
// fault at a time.
func (b *budget) measure() (threads int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.charged = 0
	for thread, seen := range b.threads {
		if time.Since(seen) > threadIdle {
			delete(b.threads, thread)
		}
	}
	return b.faulting()
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
