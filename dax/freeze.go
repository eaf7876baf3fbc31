package dax

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// freeze is an exclusion of faults from spans of the window.
type freeze struct {
	id     uint32
	spans  []span
	parked bool
	served []span // of READs since the pass began
	passes int
	thawed chan struct{}
	gates  []*realFile // whose size is held
}

// patientPasses is how many passes of one exclusion serve READs at once.
const patientPasses = 4

// enter waits until no part of w is parked, notes the READ in the exclusions that
// have not yet parked, and resolves w.
//
// Waiting from the start of an exclusion on would be wrong: the kernel has
// locked the pages of this READ, and the one who excludes may be waiting for them.
func (s *server) enter(w span, pieces []piece) []piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	counted, patient := false, false
	for {
		f := s.parkedOver(w)
		if f != nil {
			if !counted {
				counted = true
				s.counters.parkedReads.Add(1)
			}
			s.mu.Unlock()
			<-f.thawed
			s.mu.Lock()
			continue
		}
		if f = s.slowOver(w); f == nil || patient {
			break
		}
		// The guest faults as fast as the passes go. Hold this READ back a
		// little, so that one of them comes through.
		patient = true
		wait := min(time.Millisecond<<(f.passes-patientPasses), 64*time.Millisecond)
		s.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-f.thawed:
		case <-t.C:
		}
		t.Stop()
		s.mu.Lock()
	}
	for _, f := range s.freezes {
		for _, sp := range f.spans {
			f.served = addSpan(f.served, sp.clip(w))
		}
	}
	pieces = s.resolve(w, pieces, true)
	for _, p := range pieces {
		if p.file != nil {
			continue
		}
		b := &s.bindings[p.window.Off/RangeSize]
		if w.Len > onePage && p.window.Len == w.Len {
			b.litter = true
		} else {
			b.dirty = true
		}
	}
	return pieces
}

func (s *server) parkedOver(w span) *freeze {
	for _, f := range s.freezes {
		if f.parked && overlapsAny(f.spans, w) {
			return f
		}
	}
	return nil
}

// excluded says whether there is an exclusion over w.
func (s *server) excluded(w span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.freezes {
		if overlapsAny(f.spans, w) {
			return true
		}
	}
	return false
}

// slowOver returns an exclusion over w that takes too many passes.
func (s *server) slowOver(w span) *freeze {
	for _, f := range s.freezes {
		if f.passes >= patientPasses && overlapsAny(f.spans, w) {
			return f
		}
	}
	return nil
}

func (s *server) freeze(id uint32) *freeze {
	for _, f := range s.freezes {
		if f.id == id {
			return f
		}
	}
	return nil
}

// thaw lets the READs over an exclusion go on. With flagUnbind they find the
// ranges showing nothing.
func (s *server) thaw(m *message) error {
	i := slices.IndexFunc(s.freezes, func(f *freeze) bool { return f.id == m.id })
	if i < 0 {
		return unix.ENOENT
	}
	f := s.freezes[i]
	if m.flags&flagUnbind != 0 {
		for _, sp := range f.spans {
			for r := sp.Off / RangeSize; r*RangeSize < sp.end(); r++ {
				s.bindings[r] = binding{dirty: !f.parked, faults: s.bindings[r].faults}
			}
		}
	}
	if m.flags&flagEnd != 0 {
		for _, g := range f.gates {
			g.eof.Store(m.off)
		}
	}
	s.freezes = slices.Delete(s.freezes, i, i+1)
	f.release()
	m.spans = m.spans[:0]
	return nil
}

func (f *freeze) release() {
	for _, g := range f.gates {
		g.size.Unlock()
		g.put()
	}
	f.gates = nil
	close(f.thawed)
}

// noWrite takes the no-write gate of m.file for an exclusion.
func (s *server) noWrite(m *message) error {
	s.mu.Lock()
	file := s.files[m.file]
	if file == nil {
		s.mu.Unlock()
		return nil // nothing can be written to it
	}
	file.get()
	s.mu.Unlock()
	file.size.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.freeze(m.id)
	if f == nil {
		file.size.Unlock()
		file.put()
		return unix.ENOENT
	}
	f.gates = append(f.gates, file)
	return nil
}
