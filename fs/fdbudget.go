package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fdBudget bounds the descriptors held for the guest, so that the daemon always
// has some left for itself. Inodes that can be opened again by file handle give
// theirs up when the budget runs out.
type fdBudget struct {
	fs    *FS
	limit int64 // 0: none
	pins  int64 // inodes' share of limit while handles work
	count atomic.Int64
	// parked counts the inodes that have no descriptor, and a sweep.
	parked atomic.Int64
	// blind counts the removals that have not looked for their victim: no
	// sweep may take its descriptor.
	blind atomic.Int64
	// spared is how many descriptors more are taken without a sweep: the last one
	// has closed none, and looked at all inodes for it.
	spared atomic.Int64

	mu     sync.Mutex // held over one sweep
	hand   uint32     // where the next sweep starts, guarded by mu
	looked uint64     // inodes that sweeps have looked at, guarded by mu
}

const (
	sweepGoal = 64
	// sweepShare is how many inodes a sweep that closes none may look at for each
	// descriptor: where no file handles are to be had, none ever does.
	sweepShare = 16
)

// reserveInode takes one descriptor for an inode.
func (b *fdBudget) reserveInode() unix.Errno { return b.reserve(b.pins) }

// reserveFile takes one descriptor for an open file.
func (b *fdBudget) reserveFile() unix.Errno { return b.reserve(b.limit) }

func (b *fdBudget) reserve(soft int64) unix.Errno {
	n := b.count.Add(1)
	if b.limit == 0 || n <= soft {
		return 0
	}
	if n <= b.limit && b.spared.Load() > 0 && b.spared.Add(-1) >= 0 {
		return 0
	}
	b.sweep()
	if b.count.Load() > b.limit {
		b.count.Add(-1)
		return unix.ENFILE
	}
	return 0
}

func (b *fdBudget) release() { b.count.Add(-1) }

// sweep closes descriptors of inodes that were not used since the last one came
// by, and at the second round of any that are idle.
func (b *fdBudget) sweep() {
	if !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	// Removals that begin from here on look for their victim.
	b.parked.Add(1)
	defer b.parked.Add(-1)
	if b.blind.Load() > 0 {
		// They end soon, and no others begin while the budget is short.
		return
	}
	closed, seen := 0, 0
	limit := 4 * b.fs.inodes.byID.len()
	for round := 0; round < 2 && closed < sweepGoal && seen < limit; round++ {
		b.hand = b.fs.inodes.byID.each(b.hand, func(_ uint64, n *inode) bool {
			seen++
			if n.used.Load() {
				n.used.Store(false)
				return true
			}
			if n.unpin() {
				closed++
			}
			return closed < sweepGoal
		})
	}
	b.looked += uint64(seen)
	b.spared.Store(0)
	if closed == 0 {
		b.spared.Store(int64(seen / sweepShare))
	}
}
