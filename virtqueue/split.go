package virtqueue

import (
	"fmt"
	"sync/atomic"
)

// splitRing is a split virtqueue (virtio 1.3, section 2.7).
type splitRing struct {
	q    *Queue
	mask uint16 // the number of descriptors less one

	// The popper's.
	lastAvail uint16
	avail     uint16 // the driver's index when it was last read

	// Guarded by q.mu.
	used     uint16 // the next used entry
	flushed  uint16 // the used index that the driver has seen
	flags    uint16 // used flags
	fence    atomic.Uint32
	inflight *splitInflight
}

const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY

	// Offsets in the available ring, and of the used one, where flags and
	// index are one word that only the device writes.
	availFlags = 0
	availIdx   = 2
	availRing  = 4
	usedWord   = 0
	usedRing   = 4
)

func (s *splitRing) count() uint32 { return uint32(s.mask) + 1 }

// Offsets of the event fields, behind the rings.
func (s *splitRing) usedEvent() uintptr  { return availRing + 2*uintptr(s.count()) }
func (s *splitRing) availEvent() uintptr { return usedRing + 8*uintptr(s.count()) }

func (s *splitRing) sizes() [3]uint64 {
	n := uint64(s.count())
	driver, device := availRing+2*n, usedRing+8*n
	if s.q.eventIdx {
		driver, device = driver+2, device+2
	}
	return [3]uint64{n * descSize, driver, device}
}

func (s *splitRing) start(inflight []byte, _ format) error {
	if s.q.cfg.Base > 1<<16-1 {
		return fmt.Errorf("a split ring can't begin at index %d; report this as a bug of the front-end", s.q.cfg.Base)
	}
	s.used = uint16(s.q.device.Load32(usedWord) >> 16)
	s.lastAvail = uint16(s.q.cfg.Base)
	if inflight != nil {
		var err error
		if s.inflight, err = newSplitInflight(inflight, s.count(), s.used); err != nil {
			return err
		}
		if !s.inflight.fresh {
			// Whatever the base says: a front-end does not know how far
			// a process has come that died.
			s.lastAvail = s.used + uint16(len(s.inflight.pending))
		}
		for _, h := range s.inflight.pending {
			s.q.inFlight[h].Store(1)
		}
	}
	s.avail, s.flushed = s.lastAvail, s.used
	return nil
}

func (s *splitRing) available() (bool, error) {
	if s.avail != s.lastAvail {
		return true, nil
	}
	s.avail = s.q.driver.Load16(availIdx)
	n := s.avail - s.lastAvail
	if uint32(n) > s.count() {
		s.avail = s.lastAvail
		return false, fmt.Errorf("%w: the driver's available index jumped by %d in a ring of %d", ErrRing, n, s.count())
	}
	return n > 0, nil
}

func (s *splitRing) next(c *Chain) error {
	head := s.q.driver.Load16(availRing + 2*uintptr(s.lastAvail&s.mask))
	if head > s.mask {
		return fmt.Errorf("%w: the driver made chain %d available in a ring of %d", ErrRing, head, s.count())
	}
	if err := s.q.take(Head(head)); err != nil {
		return err
	}
	s.lastAvail++
	c.Head = Head(head)
	if s.inflight != nil {
		s.keep(head)
	}
	return s.restore(c, Head(head))
}

// keep has the in-flight region say that head is in flight. A flush that has just
// given the driver this head may not have noted that yet.
func (s *splitRing) keep(head uint16) {
	s.q.mu.Lock()
	defer s.q.mu.Unlock() // the region may be gone, which is a panic
	s.inflight.begin(head)
}

func (s *splitRing) restore(c *Chain, h Head) error {
	index := uint16(h)
	for range s.count() {
		at := uintptr(index) * descSize
		d := decodeSplit(s.q.desc.Load64(at), s.q.desc.Load64(at+8))
		if d.flags&descIndirect != 0 {
			switch {
			case !s.q.canIndir:
				return errNoFeature
			case d.flags&descNext != 0:
				return errIndirect
			}
			return c.indirect(d, s.q.limit, true)
		}
		if err := c.add(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if index = d.link; index > s.mask {
			return errNext
		}
	}
	return errLoop
}

func (s *splitRing) push(h Head, written uint32) {
	if s.inflight != nil {
		s.inflight.used(uint16(h))
	}
	at := usedRing + 8*uintptr(s.used&s.mask)
	s.q.device.Put32(at, uint32(h))
	s.q.device.Put32(at+4, written)
	s.q.markUsed(uint64(at), 8)
	s.used++
}

func (s *splitRing) unflushed() bool { return s.used != s.flushed }

func (s *splitRing) flush() (notify bool) {
	old := s.flushed
	s.flushed = s.used
	s.storeUsed() // the barrier before reading what the driver wants
	if s.inflight != nil {
		s.inflight.flushed(s.used)
	}
	if s.q.eventIdx {
		event := s.q.driver.Load16(s.usedEvent())
		return s.used-event-1 < s.used-old
	}
	return s.q.driver.Load16(availFlags)&availNoInterrupt == 0
}

// storeUsed publishes the used flags and index.
func (s *splitRing) storeUsed() {
	s.q.device.Store32(usedWord, uint32(s.flags)|uint32(s.flushed)<<16)
	s.q.markUsed(usedWord, 4)
}

func (s *splitRing) disableNotify() {
	switch {
	case s.q.eventIdx:
		// An index that the driver is at, or has passed, is as good as none.
		if s.q.driver.Load16(availIdx) == s.lastAvail {
			s.storeEvent(s.lastAvail - 1)
		}
	case s.flags&usedNoNotify == 0:
		s.flags |= usedNoNotify
		s.storeUsed()
	}
}

// storeEvent asks for a kick when the driver's index goes beyond i.
func (s *splitRing) storeEvent(i uint16) {
	at := s.availEvent()
	s.q.device.Put16(at, i)
	s.q.markUsed(uint64(at), 2)
}

func (s *splitRing) enableNotify() {
	if !s.q.eventIdx {
		s.flags &^= usedNoNotify
		s.storeUsed()
		return
	}
	s.storeEvent(s.lastAvail)
	s.fence.Store(0) // the barrier before looking again
}

func (s *splitRing) base() uint32 { return uint32(s.lastAvail) }

func (s *splitRing) resubmit() []Head {
	if s.inflight == nil {
		return nil
	}
	return s.inflight.pending
}
