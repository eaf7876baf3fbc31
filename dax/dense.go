package dax

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// dense is what is known of where a file has no holes. The host reads ahead of
// the server's reads, and pages of its cache that lie in a preallocated piece of
// a file are data to SEEK_DATA (mapping_seek_hole_data), and stay when those that
// were asked for are dropped. So from the first read with a hole in reach on it is
// told to read no further.
type dense struct {
	exact atomic.Bool

	mu         sync.Mutex
	start, end int64 // no hole in here when it was looked at
}

// readahead is how far behind a read the host may read: twice as far as the
// largest read_ahead_kb that distributions set for disks.
const readahead = 16 << 20

// look is for a read of [off, end) by fd.
func (d *dense) look(fd int, off, end int64) {
	if d.exact.Load() {
		return
	}
	reach := end + readahead
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.start <= off && reach <= d.end {
		return
	}
	hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil {
		return // off is past the end
	}
	d.start, d.end = off, hole
	if hole >= reach {
		return
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && hole >= st.Size {
		return
	}
	d.exact.Store(unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) == nil)
}
