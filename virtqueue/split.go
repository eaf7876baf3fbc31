package virtqueue

import (
	"encoding/binary"
	"fmt"
)

// splitRing is a split virtqueue (virtio 1.3, section 2.7).
type splitRing struct {
	q    *Queue
	size uint16 // the number of descriptors less one, the mask of an index

	// The popper's.
	lastAvail uint16
	avail     uint16 // the driver's index when it was last read

	// Guarded by q.mu.
	used     uint16 // the next used entry
	flushed  uint16 // the used index that the driver has seen
	flags    uint16 // used flags
	inflight *splitInflight
}

const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
)

func (s *splitRing) count() uint64 { return uint64(s.size) + 1 }

func (s *splitRing) sizes(n uint64) (desc, driver, device uint64) {
	return n * descSize, 4 + 2*n + 2, 4 + 8*n + 2
}

func (s *splitRing) start() error {
	if s.q.cfg.Base > 1<<16-1 {
		return fmt.Errorf("a split ring can't begin at index %d", s.q.cfg.Base)
	}
	s.used = uint16(s.q.device.Load32(0) >> 16)
	s.lastAvail = uint16(s.q.cfg.Base)
	if s.q.cfg.Inflight != nil {
		var err error
		if s.inflight, err = newSplitInflight(s.q.cfg.Inflight, s.q.cfg.Size, s.used); err != nil {
			return err
		}
		if n := len(s.inflight.pending); n > 0 {
			s.lastAvail = s.used + uint16(n)
		}
	}
	s.avail, s.flushed = s.lastAvail, s.used
	return nil
}

func (s *splitRing) available() (bool, error) {
	if s.avail != s.lastAvail {
		return true, nil
	}
	s.avail = uint16(s.q.driver.Load32(0) >> 16)
	n := s.avail - s.lastAvail
	if uint64(n) > s.count() {
		s.avail = s.lastAvail
		return false, fmt.Errorf("%w: the available index jumped by %d in a ring of %d", ErrRing, n, s.count())
	}
	return n > 0, nil
}

func (s *splitRing) next(c *Chain) error {
	head := s.q.driver.Load16(4 + 2*uint64(s.lastAvail&s.size))
	if head > s.size {
		return fmt.Errorf("%w: chain %d is outside a ring of %d", ErrRing, head, s.count())
	}
	s.lastAvail++
	if s.inflight != nil {
		s.inflight.begin(head)
	}
	return s.restore(c, Head(head))
}

func (s *splitRing) restore(c *Chain, h Head) error {
	if uint16(h) > s.size {
		return fmt.Errorf("%w: chain %d is outside a ring of %d", ErrRing, h, s.count())
	}
	c.Head = h
	var raw [descSize]byte
	index := uint16(h)
	for seen := uint64(0); seen < s.count(); seen++ {
		s.q.desc.Read(raw[:], uint64(index)*descSize)
		d := decodeSplit(&raw)
		flags := d.flags
		if flags&descIndirect != 0 {
			switch {
			case !s.q.indirect:
				return errNoFeature
			case flags&descNext != 0:
				return errIndirect
			}
			return c.indirectTable(d.addr, d.len, true)
		}
		if err := c.add(d.addr, d.len, flags); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		if d.link > s.size {
			return errNext
		}
		index = d.link
	}
	return errLoop
}

func (s *splitRing) push(h Head, written uint32) {
	if s.inflight != nil {
		s.inflight.used(uint16(h))
	}
	var e [8]byte
	binary.LittleEndian.PutUint32(e[:], uint32(h))
	binary.LittleEndian.PutUint32(e[4:], written)
	at := 4 + 8*uint64(s.used&s.size)
	s.q.device.Write(at, e[:])
	s.q.logUsed(at, 8)
	s.used++
}

func (s *splitRing) flush() (notify bool) {
	if s.used == s.flushed {
		return false
	}
	old := s.flushed
	s.flushed = s.used
	s.storeUsed()
	s.q.logUsed(0, 4)
	if s.inflight != nil {
		s.inflight.flushed(s.used)
	}
	if s.q.eventIdx {
		event := s.q.driver.Load16(4 + 2*s.count())
		return s.used-event-1 < s.used-old
	}
	return s.q.driver.Load32(0)&availNoInterrupt == 0
}

// storeUsed publishes the used flags and index. It is a full barrier.
func (s *splitRing) storeUsed() { s.q.device.Store32(0, uint32(s.flags)|uint32(s.flushed)<<16) }

func (s *splitRing) disableNotify() {
	if !s.q.eventIdx && s.flags&usedNoNotify == 0 {
		s.flags |= usedNoNotify
		s.storeUsed()
	}
}

func (s *splitRing) enableNotify() (pending bool, err error) {
	if s.q.eventIdx {
		at := 4 + 8*s.count()
		s.q.device.Store16(at, s.lastAvail)
		s.q.logUsed(at, 2)
	} else {
		s.flags &^= usedNoNotify
	}
	s.storeUsed() // the barrier between asking for a kick and looking again
	return s.available()
}

func (s *splitRing) base() uint32 { return uint32(s.lastAvail) }

func (s *splitRing) resubmit() []Head {
	if s.inflight == nil {
		return nil
	}
	return s.inflight.pending
}
