package fs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writebackError is the last error of writing back what the guest has changed
// through the window, or of beginning to ([Thread.startWriteback]), with a count, so that each open file can hear of it once,
// whoever else has asked: as errseq_t in Linux, which has it for the file's own
// page cache. The zero value is no error.
type writebackError struct{ state atomic.Uint64 }

const (
	errorCount = uint64(1) << 32 // the count is above
	errorHeard = uint64(1) << 31 // somebody has heard of it
	errorMask  = errorHeard - 1
)

// note takes note of an error, or of none.
func (w *writebackError) note(e unix.Errno) {
	if e == 0 {
		return
	}
	for {
		s := w.state.Load()
		if w.state.CompareAndSwap(s, (s|(errorCount-1))+1+uint64(e)) {
			return
		}
	}
}

// sample returns what a file that is opened now has heard: all, but for an error
// that nobody has heard of.
func (w *writebackError) sample() uint64 {
	if s := w.state.Load(); s&errorHeard != 0 {
		return s
	}
	return 0
}

// since returns the error that a file has not heard of, if there is one.
func (w *writebackError) since(heard uint64) unix.Errno {
	if s := w.state.Load(); (s^heard)&^errorHeard != 0 {
		return unix.Errno(s & errorMask)
	}
	return 0
}

// tell returns that error, too, and takes note that the file has heard of it.
func (w *writebackError) tell(heard *atomic.Uint64) unix.Errno {
	e := w.since(heard.Load())
	if e != 0 {
		heard.Store(w.state.Or(errorHeard) | errorHeard)
	}
	return e
}

// syncWindow writes back what the guest has changed of n through the window, and
// keeps the error for FSYNC.
func (t *Thread) syncWindow(n *inode) {
	n.lost.note(errnoOf(t.fs.opts.DAX.Sync(t.op, &n.dax)))
}
