package dax

import (
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// dense is what is known of where a file that the window shows has no holes. The
// host reads ahead of the server's reads, and pages of its cache that lie in a
// preallocated piece of a file are data to SEEK_DATA (mapping_seek_hole_data), and
// stay when those that were asked for are dropped. So from the first range with a
// hole in reach on the server reads no further than it is asked to.
//
// The daemon looks, and when a range is set up: to look takes a lock of the inode
// in the host's kernel (ext4_llseek, for one) which a read that waits for a fault
// may hold.
type dense struct {
	mu         sync.Mutex
	exact      bool
	start, end int64 // no hole in here when it was looked at
}

// readahead is how far past its end a read may have the host read: the rest of one
// window of readahead and the next, of 8 MiB each, a large read_ahead_kb.
const readahead = 16 << 20

// look says, once, that a hole of the file is in reach of reads of [off, end).
func (d *dense) look(fd int, off, end int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	reach := min(end, math.MaxInt64-readahead) + readahead
	if d.exact || d.start <= off && reach <= d.end {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || off >= st.Size || d.start <= off && st.Size <= d.end {
		return false
	}
	hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil {
		return false
	}
	d.start, d.end = off, hole
	d.exact = hole < min(reach, st.Size)
	return d.exact
}

// punctured says, once, that the file is about to get a hole.
func (d *dense) punctured() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := !d.exact
	d.exact = true
	return first
}

// forget is for a file that leaves the window.
func (d *dense) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exact, d.start, d.end = false, 0, 0
}

// readExactly has the server read no further than it is asked to. That it can't is
// no reason to refuse anything.
func (m *Manager) readExactly(op *Op, x *inodeState) {
	op.msg = op.message(opExact)
	op.msg.file = x.file.Load()
	if err := m.back.call(&op.msg); err != nil && !m.back.dead.Load() {
		m.log.Warn("the host reads ahead of the guest's faults in a file with holes, and may take some of them for data", "err", err)
	}
}
