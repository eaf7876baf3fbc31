package device

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// signaller writes to an eventfd of the front-end that may be replaced at any
// time. It has one descriptor number for its whole life, which dup3 points at
// the eventfd of the day, so that signalling needs no lock.
type signaller struct {
	mu sync.Mutex // held by set and close
	fd atomic.Int32
	on atomic.Bool
}

func (s *signaller) init() { s.fd.Store(-1) }

// set makes fd the one to signal and takes it over, on failure too. -1: none.
func (s *signaller) set(fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd < 0 {
		s.on.Store(false)
		if s.fd.Load() < 0 {
			return nil
		}
		// Give the front-end's eventfd back, but keep the number.
		var err error
		if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return fmt.Errorf("making an eventfd (is the limit of open files reached?): %w", err)
		}
		return s.point(fd)
	}
	if err := s.point(fd); err != nil {
		return err
	}
	s.on.Store(true)
	return nil
}

// point makes the number stand for fd's file.
func (s *signaller) point(fd int) error {
	mine := int(s.fd.Load())
	if mine < 0 {
		s.fd.Store(int32(fd))
		return nil
	}
	err := unix.Dup3(fd, mine, unix.O_CLOEXEC)
	unix.Close(fd)
	if err != nil {
		s.on.Store(false)
		return fmt.Errorf("replacing an eventfd, please report it: %w", err)
	}
	return nil
}

// signal adds one to the eventfd.
func (s *signaller) signal() error {
	if !s.on.Load() {
		return nil
	}
	for {
		e := writeEventfd(int(s.fd.Load()))
		switch e {
		case 0, unix.EAGAIN: // at its maximum it is signalled anyway
			return nil
		case unix.EINTR:
			continue
		}
		return e
	}
}

// close closes the descriptor. Nobody may signal any more.
func (s *signaller) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on.Store(false)
	if fd := s.fd.Swap(-1); fd >= 0 {
		unix.Close(int(fd))
	}
}
