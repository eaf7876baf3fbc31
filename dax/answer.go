package dax

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// serveLink answers the daemon until it is gone.
func (s *server) serveLink(l *link) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var m message
	for {
		if err := l.receive(&m); err != nil {
			return err
		}
		err := s.call(&m)
		if m.fd >= 0 {
			unix.Close(m.fd)
			m.fd = -1
		}
		m.errno = 0
		if err != nil {
			e, ok := err.(unix.Errno)
			if !ok {
				e = unix.EPROTO
			}
			m.errno = uint32(e)
		}
		if err := l.send(&m); err != nil {
			return err
		}
	}
}

// call does what m asks and turns it into the answer. A descriptor that it keeps
// it takes out of m.
func (s *server) call(m *message) error {
	if m.op == opNoWrite {
		return s.noWrite(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.op {
	case opHello:
		return nil
	case opBind:
		return s.bind(m)
	case opFreeze:
		s.nextID++
		s.freezes = append(s.freezes, &freeze{
			id:     s.nextID,
			spans:  slices.Clone(m.spans),
			thawed: make(chan struct{}),
		})
		m.id, m.spans = s.nextID, m.spans[:0]
		s.budget.look()
		return nil
	case opPark:
		f := s.freeze(m.id)
		if f == nil {
			return unix.ENOENT
		}
		m.spans = append(m.spans[:0], mergeSpans(f.served)...)
		f.served = f.served[:0]
		f.passes++
		f.parked = len(m.spans) == 0
		return nil
	case opThaw:
		return s.thaw(m)
	case opForget:
		if f := s.files[m.file]; f != nil {
			delete(s.files, m.file)
			delete(s.exports, m.file)
			s.unregister(f)
			e := f.werr.Swap(0)
			f.put()
			if e != 0 {
				return unix.Errno(e)
			}
		}
		return nil
	case opError:
		if f := s.files[m.file]; f != nil {
			if e := f.werr.Swap(0); e != 0 {
				return unix.Errno(e)
			}
		}
		return nil
	case opLost:
		m.values = m.values[:0]
		for mnt, e := range s.lost {
			if len(m.values) == 2*maxLost {
				break
			}
			m.values = append(m.values, mnt, uint64(e))
			delete(s.lost, mnt)
		}
		return nil
	case opEnd:
		if f := s.files[m.file]; f != nil {
			f.eof.Store(m.off)
		}
		return nil
	case opExact:
		if f := s.files[m.file]; f != nil && !f.exact {
			return f.beExact()
		}
		return nil
	case opExport:
		f, err := s.file(m)
		if err != nil {
			return err
		}
		if m.flags&flagPassthrough != 0 {
			s.exports[m.file] = &export{f}
		}
		return nil
	case opCounters:
		c := &s.counters
		m.values = append(m.values[:0], c.reads.Load(), c.readBytes.Load(), c.writes.Load(), c.writeBytes.Load(),
			c.parkedReads.Load(), c.discards.Load(), c.readErrors.Load(), c.unbounds.Load())
		return nil
	case opFaults:
		m.values = m.values[:0]
		for i := m.off; i < uint64(len(s.bindings)) && len(m.values) < maxFaults; i++ {
			m.values = append(m.values, s.bindings[i].faults)
		}
		return nil
	case opResident:
		switch {
		case m.flags&flagIdle != 0:
			s.budget.done(m.flags&flagNothing != 0)
		case m.flags&flagMeasuring != 0:
			m.off = uint64(s.budget.measure())
		case m.flags&flagMeasured != 0:
			s.budget.set(m.off)
		case m.flags&flagStep != 0:
			var next span
			if len(m.spans) > 0 {
				next = m.spans[0]
			}
			s.budget.step(next)
			m.spans = m.spans[:0]
		default:
			s.budget.free(m.off)
		}
		return nil
	}
	return unix.ENOSYS
}

// file returns the file that m names. A descriptor in m becomes the file's.
func (s *server) file(m *message) (*realFile, error) {
	old := s.files[m.file]
	if m.fd < 0 {
		if old == nil {
			return nil, unix.EBADF
		}
		return old, nil
	}
	f := newRealFile(m.file, m.fd, m.flags&flagWritable != 0)
	f.sparing = s.cfg.memory != 0
	m.fd = -1
	if old != nil {
		f.writeback = old.writeback
		if old.exact {
			// It has worked for the one before.
			_ = f.beExact()
		}
		for i := range s.bindings {
			if s.bindings[i].file == old {
				s.bindings[i].file = f
			}
		}
		old.put()
	}
	s.files[m.file] = f
	return f, nil
}

func (s *server) bind(m *message) error {
	f, err := s.file(m)
	if err != nil {
		return err
	}
	if uint64(m.index) >= uint64(len(s.bindings)) || m.off&rangeMask != 0 {
		return unix.EINVAL
	}
	b := &s.bindings[m.index]
	if b.file != nil && (b.file != f || b.off != m.off) {
		return unix.EEXIST
	}
	if b.dirty && m.flags&flagClean == 0 {
		return unix.EBUSY
	}
	if b.litter {
		m.flags |= flagLitter
	}
	*b = binding{file: f, off: m.off, faults: b.faults}
	return nil
}
