package dax

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// window is the table of ranges: the daemon's truth about what the guest may
// believe to be mapped.
type window struct {
	mu      sync.Mutex
	changed *sync.Cond // a range is no longer busy
	ranges  []windowRange
	bound   int // not free
}

type rangeState uint8

const (
	rangeFree rangeState = iota
	rangeBusy            // being bound or unbound by somebody
	rangeBound
)

// windowRange is one range; its index is its place.
type windowRange struct {
	state rangeState
	x     *inodeState // set unless free
	off   uint64      // in the file

	// For the engine, guarded by the window's mu.
	faults    uint64 // as the server counted them at the last look
	active    uint64 // when faults was last seen to change, in looks
	reclaimed uint64 // when it was last reclaimed, in looks; 0 for never
	chances   uint8  // times that it will be passed over
}

func rangeSpan(i uint32) span { return span{uint64(i) * RangeSize, RangeSize} }

// Protection flags of SETUPMAPPING.
const (
	SetupWrite = 1 << 0 // FUSE_SETUPMAPPING_FLAG_WRITE
	SetupRead  = 1 << 1 // FUSE_SETUPMAPPING_FLAG_READ
)

// SetupMapping makes the window show length bytes of the file from foffset, at
// moffset. All three are multiples of RangeSize. What the window showed there is
// replaced; a range that shows the same already is only made writable, if
// that is asked for, without a moment in which it shows nothing. It returns
// when the guest can use the mapping. Errors are of type unix.Errno and never
// EAGAIN, which the guest's kernel would take as a reason to try for ever; but for
// ErrSuspended, when the front-end has to be asked and the guest is being
// stopped: the request is then to be served again when it goes on.
func (m *Manager) SetupMapping(op *Op, ino *Inode, file File, foffset, moffset, length uint64, flags uint64) error {
	if m == nil {
		return unix.ENOSYS
	}
	if length == 0 || length%RangeSize != 0 || foffset%RangeSize != 0 || moffset%RangeSize != 0 ||
		length > m.cfg.Window || moffset > m.cfg.Window-length || foffset > math.MaxInt64-length {
		return unix.EINVAL
	}
	err := m.slots.ensure()
	for d := uint64(0); err == nil && d < length; d += RangeSize {
		err = m.setupRange(op, ino, file, foffset+d, uint32((moffset+d)/RangeSize), flags&SetupWrite != 0)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrSuspended):
		m.stats.SetupsHeld.Add(1)
		return ErrSuspended
	}
	m.stats.SetupErrors.Add(1)
	m.log.Debug("a mapping could not be set up", "file offset", foffset, "window offset", moffset, "length", length, "write", flags&SetupWrite != 0, "err", err)
	return notAgain(err)
}

func notAgain(err error) error {
	err = errnoOf(err)
	if err == unix.EAGAIN || err == unix.ENOSYS {
		return unix.EIO
	}
	return err
}

func (m *Manager) setupRange(op *Op, ino *Inode, file File, foff uint64, i uint32, write bool) error {
	x := ino.state()
	w := &m.window
	for {
		if err := m.prepare(op, x, file); err != nil {
			return err
		}
		op.lock(x, classMmap, heldShared)
		w.mu.Lock()
		r := &w.ranges[i]
		other, mapped := x.ranges[foff]
		switch {
		case !ino.Mapped():
			// The last range of the inode has gone since prepare.
			w.mu.Unlock()
			op.End()
		case r.state == rangeBusy, mapped && other != i && w.ranges[other].state == rangeBusy:
			// Not with the lock held that the other one may need.
			op.End()
			w.changed.Wait()
			w.mu.Unlock()
		case r.state == rangeBound && r.x == x && r.off == foff:
			err := m.upgrade(op, x, file, i, write)
			op.End()
			return err
		case mapped && other != i:
			w.mu.Unlock()
			op.End()
			m.removeRanges(op, x, []uint32{other})
		case r.state == rangeBound:
			owner := r.x
			w.mu.Unlock()
			op.End()
			m.stats.Replaced.Add(1)
			m.removeRanges(op, owner, []uint32{i})
		default:
			*r = windowRange{state: rangeBusy, x: x, off: foff, faults: r.faults}
			x.ranges[foff] = i
			w.bound++
			w.mu.Unlock()
			err := m.bind(op, x, file, i, foff, write)
			w.mu.Lock()
			if err == nil {
				r.state = rangeBound
				m.stats.Setups.Add(1)
			} else {
				m.release(i)
			}
			w.changed.Broadcast()
			w.mu.Unlock()
			op.End()
			if err != nil {
				m.settle(op, x)
			}
			return err
		}
	}
}

// release makes a busy range free. The window's mu is held.
func (m *Manager) release(i uint32) {
	r := &m.window.ranges[i]
	delete(r.x.ranges, r.off)
	*r = windowRange{faults: r.faults}
	m.window.bound--
}

// prepare makes the inode a mapped one: from now on its I/O takes the slow side of
// the io lock, and all I/O that did not is done.
func (m *Manager) prepare(op *Op, x *inodeState, file File) error {
	if x.ino.Mapped() {
		return nil
	}
	op.lock(x, classIO, heldExclusive)
	defer op.End()
	if x.ino.Mapped() {
		return nil
	}
	op.lock(x, classMmap, heldExclusive)
	fd, err := file.OpenDAX(m.cfg.Backing != Managed)
	if err != nil {
		return err
	}
	x.fd, x.writable = fd, m.cfg.Backing != Managed
	x.file.Store(lastFile.Add(1))
	m.window.mu.Lock()
	if x.ranges == nil {
		x.ranges = make(map[uint64]uint32)
	}
	m.window.mu.Unlock()
	size, ok := x.knownSize()
	if !ok {
		x.close()
		return unix.EIO
	}
	if m.cfg.Backing != Managed {
		size = math.MaxUint64
	}
	if err := m.announce(op, x); err != nil {
		x.close()
		return err
	}
	m.watch.add(x)
	// What the guest was told until here was no more than the size is then.
	x.eof.Store(size)
	x.ino.io.Or(ioMapped)
	if size, ok := x.knownSize(); ok {
		m.setEnd(op, x, size)
	}
	return nil
}

// settle makes an inode that no range shows an ordinary one again.
func (m *Manager) settle(op *Op, x *inodeState) {
	op.lock(x, classMmap, heldExclusive)
	defer op.End()
	m.settleLocked(op, x)
}

// settleLocked is settle with the mmap lock held exclusively, which keeps new
// ranges out.
func (m *Manager) settleLocked(op *Op, x *inodeState) {
	m.window.mu.Lock()
	last := len(x.ranges) == 0 && x.fd >= 0
	m.window.mu.Unlock()
	if !last {
		return
	}
	m.forget(op, x)
	m.watch.remove(x)
	x.close()
	x.ino.io.And(^ioMapped)
}

// upgrade makes a bound range writable. Called with the window's mu held, which
// it releases, and the mmap lock held shared.
func (m *Manager) upgrade(op *Op, x *inodeState, file File, i uint32, write bool) error {
	r := &m.window.ranges[i]
	if !write || x.writable {
		m.window.mu.Unlock()
		return nil
	}
	off := r.off
	r.state = rangeBusy
	m.window.mu.Unlock()
	err := m.makeWritable(op, x, file, i, off)
	m.window.mu.Lock()
	r.state = rangeBound
	m.window.changed.Broadcast()
	m.window.mu.Unlock()
	m.stats.Upgrades.Add(1)
	return err
}

// RemoveMapping is one entry of REMOVEMAPPING, in bytes.
type RemoveMapping struct{ Moffset, Len uint64 }

// RemoveMappings ends the mappings, after their dirty pages have reached their
// files. Ranges that show nothing are ignored. It does all entries, and returns
// EINVAL if one was not a piece of the window in whole ranges.
func (m *Manager) RemoveMappings(op *Op, entries []RemoveMapping) error {
	if m == nil {
		return unix.ENOSYS
	}
	var bad error
	op.indexes = op.indexes[:0]
	for _, e := range entries {
		if e.Len == 0 || e.Len%RangeSize != 0 || e.Moffset%RangeSize != 0 ||
			e.Len > m.cfg.Window || e.Moffset > m.cfg.Window-e.Len {
			bad = unix.EINVAL
			continue
		}
		for o := e.Moffset; o < e.Moffset+e.Len; o += RangeSize {
			op.indexes = append(op.indexes, uint32(o/RangeSize))
		}
	}
	m.removeAll(op, op.indexes)
	return bad
}

// removeAll ends the mappings of the ranges l, one inode after the other.
func (m *Manager) removeAll(op *Op, l []uint32) {
	w := &m.window
	for len(l) > 0 {
		w.mu.Lock()
		for len(l) > 0 && w.ranges[l[0]].state == rangeFree {
			l = l[1:]
		}
		if len(l) == 0 {
			w.mu.Unlock()
			return
		}
		x := w.ranges[l[0]].x
		n := 1
		for n < len(l) && n < maxSpans && w.ranges[l[n]].x == x {
			n++
		}
		w.mu.Unlock()
		m.removeRanges(op, x, l[:n])
		l = l[n:]
	}
}

// removeRanges ends those mappings of l that are of x.
func (m *Manager) removeRanges(op *Op, x *inodeState, l []uint32) {
	w := &m.window
	op.lock(x, classMmap, heldExclusive)
	defer op.End()
	w.mu.Lock()
	op.spans = op.spans[:0]
	for _, i := range l {
		r := &w.ranges[i]
		if r.state == rangeBound && r.x == x {
			r.state = rangeBusy
			op.spans = append(op.spans, rangeSpan(i))
		}
	}
	w.mu.Unlock()
	if len(op.spans) == 0 {
		return
	}
	m.unbind(op)
	w.mu.Lock()
	for _, s := range op.spans {
		for i := s.Off / RangeSize; i*RangeSize < s.end(); i++ {
			m.release(uint32(i))
			m.stats.Removes.Add(1)
		}
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	m.settleLocked(op, x)
}

// Destroy ends all mappings and takes the window away from the front-end: on
// FUSE_DESTROY, and before the daemon ends. Dirty pages reach their files. QEMU
// does not survive every reset of a machine that has mappings, so an orderly
// unmount leaves none.
func (m *Manager) Destroy() {
	if m == nil {
		return
	}
	m.removeEverything()
	m.slots.unmapAll()
}

func (m *Manager) removeEverything() {
	op := m.NewOp()
	all := make([]uint32, len(m.window.ranges))
	for i := range all {
		all[i] = uint32(i)
	}
	m.removeAll(op, all)
}

// Forget ends the mappings of an inode that the file system drops, and that must
// not be mapped again. It does not wait. The file system sends it here from FORGET, which waits for nothing.
func (m *Manager) Forget(ino *Inode) {
	if m == nil || !ino.Mapped() {
		return
	}
	e := &m.engine
	e.forgetMu.Lock()
	e.forgets = append(e.forgets, ino)
	e.forgetMu.Unlock()
	select {
	case e.forgotten <- struct{}{}:
	default:
	}
}

func (m *Manager) forgetInode(op *Op, ino *Inode) {
	x := ino.x.Load()
	if x == nil {
		return
	}
	w := &m.window
	w.mu.Lock()
	l := make([]uint32, 0, len(x.ranges))
	for _, i := range x.ranges {
		l = append(l, i)
	}
	w.mu.Unlock()
	slices.Sort(l)
	m.removeRanges(op, x, l)
}

// inodesAt appends the inodes whose pages buf lies in, each once.
func (m *Manager) inodesAt(l []*inodeState, buf []WindowBuffer) []*inodeState {
	w := &m.window
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range buf {
		if b.Len == 0 || b.Off >= m.cfg.Window {
			continue
		}
		last := (min(addSat(b.Off, b.Len), m.cfg.Window) - 1) / RangeSize
	next:
		for i := b.Off / RangeSize; i <= last; i++ {
			x := w.ranges[i].x
			if x == nil {
				continue
			}
			for _, have := range l {
				if have == x {
					continue next
				}
			}
			l = append(l, x)
		}
	}
	return l
}

// Check returns what is wrong with the table of ranges, for tests: each range is
// free, or it is in the table of exactly one inode, which is a mapped one.
func (m *Manager) Check() error {
	w := &m.window
	w.mu.Lock()
	defer w.mu.Unlock()
	bound := 0
	for i := range w.ranges {
		r := &w.ranges[i]
		if (r.state == rangeFree) != (r.x == nil) {
			return fmt.Errorf("dax: range %d in state %d has inode %v", i, r.state, r.x)
		}
		if r.x == nil {
			continue
		}
		bound++
		if j, ok := r.x.ranges[r.off]; !ok || j != uint32(i) {
			return fmt.Errorf("dax: range %d shows inode %d at %#x, which says range %d", i, r.x.id, r.off, j)
		}
		if !r.x.ino.Mapped() {
			return fmt.Errorf("dax: range %d shows inode %d, which is not a mapped one", i, r.x.id)
		}
	}
	if bound != w.bound {
		return fmt.Errorf("dax: %d ranges are in use, %d counted", bound, w.bound)
	}
	return m.slots.check()
}
