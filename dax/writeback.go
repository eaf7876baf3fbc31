package dax

import (
	"math"

	"golang.org/x/sys/unix"
)

// Sync writes what the guest has changed through the window to the file, and
// returns the first error of any writeback of the file since the last Sync:
// FSYNC, FLUSH and RELEASE call it before they do the same to the file.
func (m *Manager) Sync(op *Op, ino *Inode) error {
	if m == nil {
		return nil
	}
	if !ino.Mapped() {
		if x := ino.x.Load(); x != nil {
			return x.takeLost()
		}
		return nil
	}
	x := ino.state()
	if err := m.writeBackInode(op, x, 0, math.MaxInt64); err != nil {
		return err
	}
	return m.takeError(op, x)
}

// WriteBack is Sync without taking the error: SETATTR calls it before it sets
// times, which writeback at a later time would set again, and LSEEK, to which
// what is not written back is a hole.
func (m *Manager) WriteBack(op *Op, ino *Inode) error {
	if m == nil || !ino.Mapped() {
		return nil
	}
	return m.writeBackInode(op, ino.state(), 0, math.MaxInt64)
}

// SyncAll writes back the whole window, for SYNCFS, and calls lost for each mount
// (statx's stx_mnt_id; 0 if that is not known) with files that writeback has
// failed for since the last SyncAll. That leaves their errors to Sync.
func (m *Manager) SyncAll(op *Op, lost func(mnt uint64, e unix.Errno)) error {
	if m == nil || m.cfg.Backing != Managed {
		return nil
	}
	err := m.back.writeBack(span{0, m.cfg.Window})
	if e := m.takeLost(op, lost); err == nil {
		err = e
	}
	return errnoOrNil(err)
}

func (m *Manager) takeLost(op *Op, lost func(mnt uint64, e unix.Errno)) error {
	for {
		op.msg = op.message(opLost)
		if err := m.back.call(&op.msg); err != nil {
			return err
		}
		for v := op.msg.values; len(v) >= 2; v = v[2:] {
			lost(v[0], unix.Errno(v[1]))
		}
		if len(op.msg.values) < 2*maxLost {
			return nil
		}
	}
}

// writeBackInode writes back the pages of the window that show bytes off to off+n
// of x. It needs no lock: writeback of a range that has since been given to
// another file does no harm.
func (m *Manager) writeBackInode(op *Op, x *inodeState, off, n uint64) error {
	if m.cfg.Backing != Managed {
		return nil
	}
	m.spansOf(op, x, pageDown(off), pageUp(addSat(off, n)))
	defer func() { op.spans = op.spans[:0] }()
	return errnoOrNil(m.back.writeBack(op.spans...))
}

// spansOf adds to op.spans where the window shows bytes from to to of x.
func (m *Manager) spansOf(op *Op, x *inodeState, from, to uint64) {
	w := &m.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(x.ranges) == 0 || from >= to {
		return
	}
	add := func(foff uint64, i uint32) {
		lo, hi := max(from, foff), min(to, foff+RangeSize)
		if lo < hi {
			op.spans = addSpan(op.spans, span{uint64(i)*RangeSize + lo - foff, hi - lo})
		}
	}
	if (to-from)/RangeSize > uint64(len(x.ranges)) {
		for foff, i := range x.ranges {
			add(foff, i)
		}
		return
	}
	for foff := from &^ rangeMask; foff < to; foff += RangeSize {
		if i, ok := x.ranges[foff]; ok {
			add(foff, i)
		}
	}
}
func errnoOrNil(err error) error {
	if err == nil {
		return nil
	}
	return errnoOf(err)
}
