package guestmem

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is the size of the pages in a dirty log, VHOST_LOG_PAGE.
const PageSize = 4096

// DirtyLog is the bitmap, shared with the front-end, of the guest's pages that
// the device has written to. Bit n of the little-endian bitmap is the page at
// guest address n * 4096.
type DirtyLog struct {
	mapAddr uintptr
	mapLen  uintptr
	bits    uintptr // address of the bitmap
	pages   uint64
	refs    atomic.Int64
	missed  atomic.Uint64
	// event is an eventfd that is written to after marks; -1: there is none.
	// It has one number for the life of the log.
	event atomic.Int32
}

// NewDirtyLog maps size bytes at offset off of fd (SET_LOG_BASE). It closes fd
// in any case. Close gives the log up.
func NewDirtyLog(fd int, off, size uint64) (*DirtyLog, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	switch {
	case size == 0 || size > 1<<48 || off > 1<<62:
		return nil, fmt.Errorf("a dirty log of %#x bytes at offset %#x is not possible; report this as a bug of the front-end", size, off)
	case off%4 != 0:
		return nil, fmt.Errorf("the dirty log's offset %#x is not a multiple of 4; report this as a bug of the front-end", off)
	case uint64(st.Size) < off+size:
		return nil, fmt.Errorf("the dirty log ends at %#x, its file at %#x; report this as a bug of the front-end", off+size, st.Size)
	}
	page := uint64(os.Getpagesize())
	begin := off &^ (page - 1)
	l := &DirtyLog{mapLen: uintptr(off + size - begin), pages: size * 8}
	l.event.Store(-1)
	var err error
	if l.mapAddr, err = mapShared(fd, int64(begin), l.mapLen); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	l.bits = l.mapAddr + uintptr(off-begin)
	l.refs.Store(1)
	return l, nil
}

// SetEvent has the eventfd fd, of which it takes a duplicate, signalled after
// pages were marked (SET_LOG_FD). The caller has not closed the log.
func (l *DirtyLog) SetEvent(fd int) error {
	if old := l.event.Load(); old >= 0 {
		return os.NewSyscallError("dup3", unix.Dup3(fd, int(old), unix.O_CLOEXEC))
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	l.event.Store(int32(own))
	return nil
}

var eventfdOne = [8]byte{1}

// signal tells the front-end that pages were marked. That it can't be told is no
// loss: it may look at the log at any time.
func (l *DirtyLog) signal() {
	if fd := l.event.Load(); fd >= 0 {
		_, _ = unix.Write(int(fd), eventfdOne[:])
	}
}

// Close gives up the caller's use of the log. It stays mapped while it is set
// for a Memory, and until the last write is marked.
func (l *DirtyLog) Close() error {
	l.release()
	return nil
}

// Covers says whether the log has a page for each of n bytes at guest address gpa.
func (l *DirtyLog) Covers(gpa, n uint64) bool {
	return n == 0 || (gpa+n-1 >= gpa && (gpa+n-1)/PageSize < l.pages)
}

// SetLog makes l the log of what is written to the memory, by requests that have
// begun too, or stops logging with nil.
func (m *Memory) SetLog(l *DirtyLog) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l != nil {
		l.refs.Add(1)
	}
	if old := m.log.Swap(l); old != nil {
		old.release()
	}
}

// MarkDirty logs n bytes at guest address gpa as written, if there is a log.
// It is for what does not go through Buffers, and comes after the write.
func (m *Memory) MarkDirty(gpa, n uint64) {
	if m.log.Load() == nil {
		return
	}
	if l := m.acquireLog(); l != nil {
		l.mark(gpa, n)
		l.signal()
		l.release()
	}
}

// LogMissed returns the number of writes since SetLog that the log has no page for.
func (m *Memory) LogMissed() uint64 {
	l := m.acquireLog()
	if l == nil {
		return 0
	}
	defer l.release()
	return l.missed.Load()
}

// acquireLog returns the log with a reference, or nil.
func (m *Memory) acquireLog() *DirtyLog {
	for {
		l := m.log.Load()
		if l == nil {
			return nil
		}
		for n := l.refs.Load(); n > 0; n = l.refs.Load() {
			if l.refs.CompareAndSwap(n, n+1) {
				return l
			}
		}
	}
}

func (l *DirtyLog) release() {
	if l.refs.Add(-1) == 0 {
		unmap(l.mapAddr, l.mapLen)
		if fd := l.event.Load(); fd >= 0 {
			unix.Close(int(fd))
		}
	}
}

// mark sets the bits of the pages of n bytes at gpa, a word at a time.
func (l *DirtyLog) mark(gpa, n uint64) {
	if n == 0 {
		return
	}
	first, last := gpa/PageSize, (gpa+n-1)/PageSize
	if last >= l.pages {
		l.missed.Add(1)
		if first >= l.pages {
			return
		}
		last = l.pages - 1
	}
	for first <= last {
		word := first / 32
		end := min(last, word*32+31)
		mask := uint32(1<<(end-first+1)-1) << (first % 32)
		orUint32(l.bits+uintptr(word*4), mask)
		first = end + 1
	}
}
