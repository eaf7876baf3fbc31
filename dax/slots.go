package dax

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// slots is the front-end's side of the window: which mappings have been made, and
// how many more the front-end bears. A mapping is a memory region of the
// virtual machine, and QEMU ends itself when there are too many.
//
// With Managed the window is a few mappings, made once and kept. With the
// other backings each range is one, and its place in the window is its slot: the
// guest believes in it until it removes it, so it cannot be taken away; the
// window is sized so that the slots last.
type slots struct {
	m     *Manager
	limit int
	ready atomic.Bool // Managed: every segment is mapped

	// ensureMu makes one goroutine at a time map the segments. It comes before
	// mu and is held while waiting for the front-end.
	ensureMu sync.Mutex

	mu       sync.Mutex
	mapper   Mapper
	regions  int    // that the front-end has told of, ours among them
	coming   int    // mappings being made
	live     []bool // by slot
	doubtful []bool // by slot: the front-end may or may not have it mapped
	count    int    // of live
	refused  bool   // logged
}

func (s *slots) init(m *Manager) {
	s.m = m
	n := len(m.window.ranges)
	if m.cfg.Backing == Managed {
		n = m.back.cfg.segments()
	}
	s.live = make([]bool, n)
	s.doubtful = make([]bool, n)
}

// SetMapper gives the channel by which the window is mapped, nil when there is
// none any more. Mappings that were made through another one may still be there.
func (m *Manager) SetMapper(mapper Mapper) {
	if m == nil {
		return
	}
	s := &m.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mapper = mapper
}

// SetRegions tells how many memory regions the front-end has told the device of,
// whenever that changes. It does not block.
func (m *Manager) SetRegions(n int) {
	if m == nil {
		return
	}
	m.slots.mu.Lock()
	m.slots.regions = n
	m.slots.mu.Unlock()
}

// Reset ends all mappings and takes nothing for granted about those of the
// front-end: on FUSE_INIT, when the device is reset and when the front-end is
// gone. A stopped ring alone is not a reset: the guest goes on with its mappings
// after a pause.
func (m *Manager) Reset() {
	if m == nil {
		return
	}
	m.removeEverything()
	if m.cfg.Backing == Managed {
		// What the next guest is not to be told.
		_ = m.takeLost(m.NewOp(), func(uint64, unix.Errno) {})
	}
	s := &m.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.live {
		s.doubtful[i] = s.doubtful[i] || s.live[i]
		s.live[i] = false
	}
	s.count = 0
	s.ready.Store(false)
}

// ensure maps the window, with Managed. It is called with no lock held.
func (s *slots) ensure() error {
	if s.ready.Load() || s.m.cfg.Backing != Managed {
		return nil
	}
	s.ensureMu.Lock()
	defer s.ensureMu.Unlock()
	for i := range s.live {
		seg := s.segment(i)
		if err := s.mapSlot(i, seg, s.m.back.segs[i].rw, 0); err != nil {
			return err
		}
	}
	s.ready.Store(true)
	return nil
}

func (s *slots) segment(i int) span {
	off := uint64(i) * s.m.back.cfg.segment
	return span{off, min(s.m.back.cfg.segment, s.m.cfg.Window-off)}
}

func (s *slots) mapRange(i uint32, fd int, off uint64) error {
	return s.mapSlot(int(i), rangeSpan(i), fd, off)
}

// mapSlot makes a mapping, unless it is there.
func (s *slots) mapSlot(i int, where span, fd int, off uint64) error {
	s.mu.Lock()
	mapper := s.mapper
	switch {
	case s.live[i]:
		s.mu.Unlock()
		return nil
	case mapper == nil:
		s.mu.Unlock()
		return unix.EIO
	case max(s.regions, s.count)+s.coming >= s.limit:
		first := !s.refused
		s.refused = true
		s.mu.Unlock()
		s.m.stats.SlotsRefused.Add(1)
		if first {
			s.m.log.Warn("the virtual machine has too many memory regions for another DAX mapping; use a smaller window or --dax-backing=managed", "limit", s.limit)
		}
		return unix.EIO
	}
	s.coming++
	doubtful := s.doubtful[i]
	s.mu.Unlock()

	ctx := context.Background()
	var err error
	if doubtful {
		// Refused if the front-end has dropped it by itself.
		err = mapper.Unmap(ctx, where.Off, where.Len)
		doubtful = errors.Is(err, ErrSuspended)
	}
	if !doubtful {
		err = mapper.Map(ctx, where.Off, where.Len, fd, off)
		doubtful = err != nil && (!errors.Is(err, ErrSuspended) || errors.Is(err, ErrUncertain))
		s.m.stats.Maps.Add(1)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming--
	s.doubtful[i] = doubtful
	switch {
	case errors.Is(err, ErrSuspended):
		return ErrSuspended
	case err != nil:
		s.m.log.Warn("the front-end did not map a piece of the DAX window; the guest gets an error", "offset", where.Off, "length", where.Len, "err", err)
		return errnoOf(err)
	}
	s.live[i] = true
	s.count++
	return nil
}

func (s *slots) unmapRange(i uint32) { s.unmapSlot(int(i), rangeSpan(i)) }

// unmapAll takes the segments away, with Managed; no range shows anything.
func (s *slots) unmapAll() {
	if s.m.cfg.Backing != Managed {
		return
	}
	s.ensureMu.Lock()
	defer s.ensureMu.Unlock()
	s.ready.Store(false)
	for i := range s.live {
		s.unmapSlot(i, s.segment(i))
	}
}

func (s *slots) unmapSlot(i int, w span) {
	s.mu.Lock()
	mapper := s.mapper
	if !s.live[i] {
		s.mu.Unlock()
		return
	}
	s.live[i] = false
	s.doubtful[i] = true
	s.count--
	s.mu.Unlock()
	if mapper == nil {
		return
	}
	err := mapper.Unmap(context.Background(), w.Off, w.Len)
	s.m.stats.Unmaps.Add(1)
	if err != nil {
		if errors.Is(err, ErrSuspended) {
			return // it is done before the place is used again
		}
		s.m.log.Warn("the front-end did not unmap a piece of the DAX window", "offset", w.Off, "length", w.Len, "err", err)
		return
	}
	s.mu.Lock()
	s.doubtful[i] = false
	s.mu.Unlock()
}

func (s *slots) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.live {
		if l {
			n++
		}
	}
	if n != s.count {
		return fmt.Errorf("dax: %d slots are live, %d counted", n, s.count)
	}
	return nil
}
