package vhostuser

import (
	"context"
	"errors"
	"time"
)

// commitGrace is how long a mapping may take to show up in the memory table
// before a round trip on the back-end channel is made instead. QEMU needs a
// millisecond or two, more on a loaded machine.
const commitGrace = 20 * time.Millisecond

// commit is one mapping on its way to the guest. QEMU answers SHMEM_MAP before
// the guest can see the mapping. That it can is known when the region has come
// back in the memory table over the main channel, or when a later request on
// the back-end channel has been answered. Its fields belong to the channel's mu,
// but for done, after whose closing result is constant.
type commit struct {
	id      FileID
	mapping Mapping

	replied bool // the front-end agreed
	shown   bool // the region is in the memory table
	done    chan struct{}
	result  error
}

func newCommit(m Mapping, id FileID) *commit {
	return &commit{id: id, mapping: m, done: make(chan struct{})}
}

func (c *commit) finish(result error) {
	select {
	case <-c.done:
	default:
		c.result = result
		close(c.done)
	}
}

// commits are the mappings that are awaited, oldest first.
type commits struct {
	waiting []*commit
	// base is the guest address of each shared memory region, as the last
	// mapping in it showed. It tells our mappings from those that another
	// device makes of the same file.
	base map[uint8]uint64
	// unseen counts mappings in a row that never showed up in the table.
	unseen int
}

func (w *commits) await(c *commit) { w.waiting = append(w.waiting, c) }

func (w *commits) forget(c *commit) {
	for i := range w.waiting {
		if w.waiting[i] == c {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return
		}
	}
}

// regionAdded finds the oldest mapping that the new region shows.
func (w *commits) regionAdded(r knownRegion) {
	for _, c := range w.waiting {
		m := &c.mapping
		if c.shown || c.id != r.id || m.FDOffset != r.MmapOffset || m.Len != r.Size {
			continue
		}
		base := r.GuestAddr - m.ShmOffset
		if known, ok := w.base[m.ShmID]; ok && known != base {
			continue
		}
		if w.base == nil {
			w.base = make(map[uint8]uint64)
		}
		w.base[m.ShmID] = base
		w.unseen = 0
		c.shown = true
		c.finish(nil)
		return
	}
}

// carriedOut tells that the front-end has finished all that it agreed to.
func (w *commits) carriedOut() {
	for _, c := range w.waiting {
		if c.replied {
			c.finish(nil)
		}
	}
}

// missed tells that c had to be awaited by a round trip.
func (w *commits) missed(c *commit) {
	if c.shown {
		return
	}
	w.unseen++
	delete(w.base, c.mapping.ShmID)
}

// suspend tells that the rings are being stopped: what the front-end has agreed to
// it commits first. The window may be elsewhere when rings run again.
func (w *commits) suspend() {
	w.carriedOut()
	w.base = nil
}

// failAll ends every wait.
func (w *commits) failAll(err error) {
	for _, c := range w.waiting {
		c.finish(err)
	}
	w.waiting = nil
	w.base = nil
}

// awaitCommit waits until c, which the front-end has agreed to, is in force.
func (ch *BackendChannel) awaitCommit(ctx context.Context, c *commit) error {
	defer ch.forget(c)
	ch.mu.Lock()
	grace := ch.grace
	if ch.commits.unseen > 1 {
		// This front-end does not show its mappings.
		grace = 0
	}
	ch.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.result
	case <-ctx.Done():
		return errors.Join(ctx.Err(), ErrUncertain)
	case <-timer.C:
	}
	if err := ch.Barrier(ctx); err != nil {
		select {
		case <-c.done: // by a stop of the rings
			return c.result
		default:
			return errors.Join(err, ErrUncertain)
		}
	}
	ch.mu.Lock()
	ch.commits.missed(c)
	ch.mu.Unlock()
	// The answer to the barrier has ended the wait.
	<-c.done
	return c.result
}

func (ch *BackendChannel) forget(c *commit) {
	ch.mu.Lock()
	ch.commits.forget(c)
	ch.mu.Unlock()
}
