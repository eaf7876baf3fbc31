package dax

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// This file is what it takes, for each kind of backing, to make a range of the
// window show a piece of a file.

// announce makes x.fd known to the backing, with the io and mmap locks held.
func (m *Manager) announce(op *Op, x *inodeState) error {
	if m.cfg.Backing == Direct {
		x.mapFD = x.fd
		return nil
	}
	op.msg = op.message(opExport)
	op.msg.file, op.msg.fd = x.file.Load(), x.fd
	if x.writable {
		op.msg.flags |= flagWritable
	}
	if m.cfg.Backing == Managed {
		return m.back.call(&op.msg)
	}
	op.msg.flags |= flagPassthrough
	if err := m.back.call(&op.msg); err != nil {
		return err
	}
	fd, err := unix.Openat(m.back.mnt, "f"+strconv.FormatUint(x.file.Load(), 10), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		m.forget(op, x)
		return err
	}
	x.mapFD = fd
	return nil
}

// forget takes back announce.
func (m *Manager) forget(op *Op, x *inodeState) {
	if m.cfg.Backing == Direct {
		return
	}
	op.msg = op.message(opForget)
	op.msg.file = x.file.Load()
	if err := m.back.call(&op.msg); err != nil && !m.back.dead.Load() {
		m.log.Error("a file leaves the DAX window with an error of writeback, which the next FSYNC gets", "err", err)
		if e, ok := errnoOf(err).(unix.Errno); ok {
			x.lost.CompareAndSwap(0, uint32(e))
		}
	}
}

// bind makes range i show x from off, with the range busy and x's mmap lock held
// shared.
func (m *Manager) bind(op *Op, x *inodeState, file File, i uint32, off uint64, write bool) error {
	if m.cfg.Backing != Managed {
		if m.cfg.Backing == Direct && off+RangeSize > x.size() {
			// The front-end cannot map past the end of a file.
			return unix.EIO
		}
		return m.slots.mapRange(i, x.mapFD, off)
	}
	if x.dense.look(x.fd, int64(off), int64(off+RangeSize)) {
		m.readExactly(op, x)
	}
	m.window.mu.Lock()
	writable := x.writable
	m.window.mu.Unlock()
	if write && !writable {
		if err := m.makeWritable(op, x, file, i, off); err != nil {
			return err
		}
		return nil
	}
	return m.bindManaged(op, x, -1, i, off)
}

// makeWritable makes the server open the file for writing, and range i show it.
func (m *Manager) makeWritable(op *Op, x *inodeState, file File, i uint32, off uint64) error {
	fd, err := file.OpenDAX(true)
	if err != nil {
		return err
	}
	if err := m.bindManaged(op, x, fd, i, off); err != nil {
		unix.Close(fd)
		return err
	}
	// The old descriptor is as good for the file's size. Two that upgrade at
	// once both give the server one to write to.
	unix.Close(fd)
	m.window.mu.Lock()
	x.writable = true
	m.window.mu.Unlock()
	return nil
}

// bindManaged binds range i, with a new descriptor of the file if fd is not -1.
func (m *Manager) bindManaged(op *Op, x *inodeState, fd int, i uint32, off uint64) error {
	op.msg = op.message(opBind)
	op.msg.file, op.msg.index, op.msg.off, op.msg.fd = x.file.Load(), i, off, fd
	if fd >= 0 {
		op.msg.flags |= flagWritable
	}
	err := m.back.call(&op.msg)
	if err != unix.EBUSY {
		if op.msg.flags&flagLitter != 0 {
			m.back.dropUnused(rangeSpan(i))
		}
		return err
	}
	// The guest has touched the range while it showed nothing, and has pages
	// of zeroes of it.
	m.stats.DirtyBinds.Add(1)
	op.spans = append(op.spans[:0], rangeSpan(i))
	defer func() { op.spans = op.spans[:0] }()
	if err := m.exclude(op); err != nil {
		if op.frozen {
			m.thaw(op, 0)
		}
		return err
	}
	freeze := op.freeze
	op.msg = op.message(opBind)
	op.msg.file, op.msg.index, op.msg.off, op.msg.fd = x.file.Load(), i, off, fd
	op.msg.flags = flagClean
	if fd >= 0 {
		op.msg.flags |= flagWritable
	}
	err = m.back.call(&op.msg)
	op.freeze = freeze
	m.thaw(op, 0)
	return err
}

// unbind makes the ranges in op.spans, all of one inode, show nothing, with that
// inode's mmap lock held exclusively. Dirty pages reach the file first.
func (m *Manager) unbind(op *Op) {
	if m.cfg.Backing != Managed {
		for _, s := range op.spans {
			for i := s.Off / RangeSize; i*RangeSize < s.end(); i++ {
				m.slots.unmapRange(uint32(i))
			}
		}
		return
	}
	if err := m.exclude(op); err != nil && !m.back.dead.Load() {
		// What could not be written or taken away stays behind in a range
		// that shows nothing; the server has it cleaned before the next use.
		m.log.Error("cleaning a range of the DAX window", "err", err)
	}
	if op.frozen {
		m.thaw(op, flagUnbind)
	}
}

// takeError returns the first error of writeback of x since the last call.
func (m *Manager) takeError(op *Op, x *inodeState) error {
	if m.cfg.Backing != Managed {
		return nil
	}
	op.msg = op.message(opError)
	op.msg.file = x.file.Load()
	if err := m.back.call(&op.msg); err != nil {
		return errnoOf(err)
	}
	return x.takeLost()
}

// takeLost returns what [inodeState].lost has, once.
func (x *inodeState) takeLost() error {
	if x.lost.Load() == 0 {
		return nil
	}
	if e := x.lost.Swap(0); e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// message returns an empty message that reuses op's memory.
func (op *Op) message(o linkOp) message {
	return message{op: o, fd: -1, spans: op.msg.spans[:0], values: op.msg.values[:0]}
}
