package fs

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// commitPattern tells the last WRITE before a FSYNC of a handle on which they
// come in turn, as they do when a program appends to a log and waits for it. The
// host can then begin to write that to the disk while the guest makes up the
// FSYNC, which has less left to wait for.
type commitPattern struct {
	// state is the number of FSYNCs in a row that each had one WRITE before, up to
	// commitsSure, in the high half, and the number of WRITEs since the last FSYNC,
	// up to 2, in the low.
	state atomic.Uint32
}

// commitsSure is how many FSYNCs in a row make another one likely.
const commitsSure = 2

// expected says whether the next WRITE is likely to be followed by a FSYNC.
func (c *commitPattern) expected() bool { return c.state.Load() == commitsSure<<16 }

// begun says whether the host may be writing what such a WRITE has brought: another
// one to the same page may wait for that.
func (c *commitPattern) begun() bool {
	s := c.state.Load()
	return s>>16 == commitsSure && s&0xffff != 0
}

// wrote counts a WRITE.
func (c *commitPattern) wrote() {
	for {
		s := c.state.Load()
		if c.state.CompareAndSwap(s, s&^0xffff|min(s&0xffff+1, 2)) {
			return
		}
	}
}

// synced counts a FSYNC.
func (c *commitPattern) synced() {
	for {
		s := c.state.Load()
		row := uint32(0)
		switch s & 0xffff {
		case 0: // nothing to learn from
			return
		case 1:
			row = min(s>>16+1, commitsSure)
		}
		if c.state.CompareAndSwap(s, row<<16) {
			return
		}
	}
}

// writesEarly says whether the host is to begin with what a WRITE to f, of the
// inode n, brings. Where others are being synced the disk is at work anyway.
func (t *Thread) writesEarly(n *inode, f *file) bool {
	return f.commit.expected() && t.fs.syncing.Load() == 0 && f.writesBack(n)
}

// writesBack says whether what is written by f, of the inode n, stays in the
// host's page cache first, on its way to a disk of this host.
func (f *file) writesBack(n *inode) bool {
	return f.flags&(unix.O_DIRECT|unix.O_DSYNC) == 0 && !n.mnt.memory && !n.mnt.slow
}

// startWriteback begins to write what the WRITE in has brought to f, of the inode n,
// to the disk, and does not wait for it. Where an append went is not known, but that
// it went to the end. An error is one of finding room on the disk for it, of which
// the host may tell nobody else, and the data may be lost: the next FSYNC tells it.
// What is only left to be done FSYNC does.
func (t *Thread) startWriteback(n *inode, f *file, in *fuse.WriteIn, flags int) {
	size := int64(in.Size)
	if flags&unix.RWF_APPEND != 0 {
		size = 0 // to the end
	}
	e := errnoOf(unix.SyncFileRange(f.fd, int64(in.Offset), size, unix.SYNC_FILE_RANGE_WRITE))
	if mayHaveLost(e) {
		n.lost.note(e)
	}
}

// mayHaveLost says whether data may be lost where to begin to write it failed with
// e: not if it was put off, nor if the host does not have or allow the call.
func mayHaveLost(e unix.Errno) bool {
	switch e {
	case 0, unix.EINTR, unix.EAGAIN, unix.ENOMEM, unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP, unix.EINVAL:
		return false
	}
	return true
}
