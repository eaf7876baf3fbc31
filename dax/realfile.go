package dax

import (
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// rwfDontCache is RWF_DONTCACHE: buffered I/O whose pages are dropped when it
// is done (Linux 6.14, on file systems that take part).
const rwfDontCache = 0x80

// realFile is a file of the shared directory as the server of the backing mount
// sees it. Pages of it live in the window's page cache, so it is read and
// written past its own.
type realFile struct {
	id       uint64
	fd       int
	writable bool
	sparing  bool // the window has a budget

	// refs counts the table's reference and each I/O; the last one closes fd.
	refs atomic.Int32

	*writeback

	buffered atomic.Bool // RWF_DONTCACHE is refused here
	exact    bool        // read no further than asked for; guarded by server.mu

	// registration is the kernel's, for passthrough.
	registration struct {
		mu   sync.Mutex
		id   int32 // 0 for none
		gone bool  // no other is to be made
	}
}

// writeback is what the descriptors of one file have in common: a WRITE may still
// be under way on one that another has replaced.
type writeback struct {
	// size is the no-write gate: a WRITE holds it shared from the look at the
	// file's size until its data are written, and a change of the size holds
	// it exclusively, so that nothing is written past an end that has moved.
	size sync.RWMutex

	werr atomic.Uint32 // the first error that has not been asked for

	// eof is up to where pages in the window's cache hold the file's data. Where
	// somebody else on the host has made the file longer since, the last page of
	// before has zeroes behind it, which are not to be written.
	eof atomic.Uint64
}

func newRealFile(id uint64, fd int, writable bool) *realFile {
	f := &realFile{id: id, fd: fd, writable: writable, writeback: new(writeback)}
	f.refs.Store(1)
	f.eof.Store(math.MaxUint64)
	return f
}

func (f *realFile) get() *realFile { f.refs.Add(1); return f }

func (f *realFile) put() {
	if f.refs.Add(-1) == 0 {
		unix.Close(f.fd)
	}
}

// readFull fills b from offset off; what lies past the end is zero.
func (f *realFile) readFull(b []byte, off uint64) error {
	for len(b) > 0 {
		n, err := f.readOnce(b, int64(off))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			clear(b)
			return nil
		}
		b = b[n:]
		off += uint64(n)
	}
	return nil
}

func (f *realFile) readOnce(b []byte, off int64) (int, error) {
	if !f.buffered.Load() {
		iov := [1][]byte{b}
		n, err := unix.Preadv2(f.fd, iov[:], off, rwfDontCache)
		if err != unix.EOPNOTSUPP && err != unix.EINVAL {
			return n, err
		}
		f.buffered.Store(true)
	}
	n, err := unix.Pread(f.fd, b, off)
	if n > 0 {
		unix.Fadvise(f.fd, off, int64(n), unix.FADV_DONTNEED)
	}
	return n, err
}

// writeBack writes b, a piece of the window's page cache, at offset off, but
// nothing past the end of the file, or past the end that the page was read with:
// what a page holds there is not data. The first error is kept for the next fsync.
func (f *realFile) writeBack(b []byte, off uint64) (written int, err error) {
	f.size.RLock()
	defer f.size.RUnlock()
	var st unix.Stat_t
	err = unix.Fstat(f.fd, &st)
	if err == nil {
		switch size := min(uint64(st.Size), f.eof.Load()); {
		case off >= size:
			b = nil
		case size-off < uint64(len(b)):
			b = b[:size-off]
		}
	}
	for err == nil && len(b) > 0 {
		var n int
		n, err = f.writeOnce(b, int64(off))
		if err == unix.EINTR {
			err = nil
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		b = b[max(n, 0):]
		off += uint64(max(n, 0))
		written += max(n, 0)
	}
	if err != nil {
		f.fail(err)
	}
	return written, err
}

// writeOnce writes past the file's page cache only where memory is short: the
// kernel then starts writing to the disk at once, and a truncation that follows
// has to wait for that.
func (f *realFile) writeOnce(b []byte, off int64) (int, error) {
	if f.sparing && !f.buffered.Load() {
		iov := [1][]byte{b}
		n, err := unix.Pwritev2(f.fd, iov[:], off, rwfDontCache)
		if err != unix.EOPNOTSUPP && err != unix.EINVAL {
			return n, err
		}
		f.buffered.Store(true)
	}
	return unix.Pwrite(f.fd, b, off)
}

// beExact has the host read no further ahead of this file's reads.
func (f *realFile) beExact() error {
	f.exact = true
	return unix.Fadvise(f.fd, 0, 0, unix.FADV_RANDOM)
}

func (f *realFile) fail(err error) {
	e, ok := err.(unix.Errno)
	if !ok {
		e = unix.EIO
	}
	f.werr.CompareAndSwap(0, uint32(e))
}
