package dax

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// Op is one request's hold on the inodes it works on. Each thread that serves
// requests keeps one and uses it for one request after the other:
//
//	op.BeginWrite(ino, off, n, false, buf)  // locks
//	... if the data lie in the window: copy them out, no lock may be taken
//	op.Clean()                              // locks out faults, writes back, invalidates
//	... change the file
//	op.End()
//
// Between Clean and End the caller does I/O on the file and nothing else: it
// waits for no lock, no message and no memory of the guest, for faults of the
// guest are waiting for it. An Op of a nil Manager does nothing.
type Op struct {
	m    *Manager
	held []heldLock
	fast *Inode // held shared on the fast side

	spans   []span         // to be cleaned
	gates   [2]*inodeState // whose size changes
	pending bool           // spans or gates are waiting for Clean
	sized   bool           // gates are passed: pages up to the new end are the file's
	upTo    uint64         // where the pages end that the file whose size changes gets anew
	frozen  bool
	freeze  uint32
	msg     message
	sortBuf []*inodeState
	indexes []uint32
	todo    []span // of the next pass of exclude
}

// NewOp returns an Op for one thread.
func (m *Manager) NewOp() *Op {
	return &Op{m: m, held: make([]heldLock, 0, 16), spans: make([]span, 0, 16), msg: message{fd: -1}}
}

// WindowBuffer is a piece of the window, by offset from its start, that is the
// source or the destination of a request's data.
type WindowBuffer struct{ Off, Len uint64 }

// BeginRead begins a READ of n bytes from offset off into memory of the guest, of
// which the pieces in buf lie in the window. What the guest has written to the
// pages through the window is in the file when it returns.
func (op *Op) BeginRead(ino *Inode, off, n uint64, buf []WindowBuffer) error {
	if op.m == nil {
		return nil
	}
	if ino.enterFast() {
		op.fast = ino
		if len(buf) == 0 {
			return nil
		}
	} else {
		op.lock(ino.state(), classIO, heldShared)
		if err := op.m.writeBackInode(op, ino.state(), off, n); err != nil {
			op.End()
			return err
		}
	}
	op.lockBuffers(nil, buf)
	return nil
}

// BeginWrite begins a WRITE of n bytes at offset off, or at the end of the file
// if append is set, from memory of the guest of which the pieces in buf lie in
// the window. If buf is not empty the caller copies the data out of guest memory,
// and only then calls Clean; the pages they lie in cannot be replaced
// meanwhile.
func (op *Op) BeginWrite(ino *Inode, off, n uint64, atEnd bool, buf []WindowBuffer) error {
	if op.m == nil {
		return nil
	}
	if ino.enterFast() {
		op.fast = ino
		op.lockBuffers(nil, buf)
		return nil
	}
	x := ino.state()
	op.lock(x, classIO, heldExclusive)
	op.lock(x, classMmap, heldExclusive)
	op.lockBuffers(x, buf)
	size := x.shown()
	from, to := off, pageUp(addSat(off, n))
	if atEnd {
		from = size
		to = math.MaxInt64
	}
	if atEnd || addSat(off, n) > size {
		// The tail page is zero past the end in the window's cache.
		from, to = op.resize(x, from, to)
	}
	op.m.spansOf(op, x, pageDown(from), to)
	return op.afterBegin(len(buf) == 0)
}

// BeginTruncate begins a change of the file's size.
func (op *Op) BeginTruncate(ino *Inode, size uint64) error {
	if op.m == nil {
		return nil
	}
	x := op.beginExclusive(ino)
	from, to := op.resize(x, size, math.MaxInt64)
	op.m.spansOf(op, x, pageDown(from), to)
	return op.afterBegin(true)
}

// BeginOpenTrunc begins an OPEN with O_TRUNC.
func (op *Op) BeginOpenTrunc(ino *Inode) error { return op.BeginTruncate(ino, 0) }

// BeginFallocate begins a FALLOCATE with the given mode (FALLOC_FL_ bits).
func (op *Op) BeginFallocate(ino *Inode, mode uint32, off, n uint64) error {
	if op.m == nil {
		return nil
	}
	x := op.beginExclusive(ino)
	if x.fd >= 0 && op.m.cfg.Backing == Managed && x.dense.punctured() {
		op.m.readExactly(op, x)
	}
	from, to := off, pageUp(addSat(off, n))
	if mode&(unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE) != 0 {
		from, to = op.resize(x, from, math.MaxInt64)
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && addSat(off, n) > x.shown() {
		from, to = op.resize(x, from, to)
	}
	op.m.spansOf(op, x, pageDown(from), to)
	return op.afterBegin(true)
}

// BeginCopy begins a copy of n bytes between two files, or within one
// (COPY_FILE_RANGE, FICLONERANGE).
func (op *Op) BeginCopy(src *Inode, srcOff uint64, dst *Inode, dstOff, n uint64) error {
	if op.m == nil {
		return nil
	}
	a, b := src.state(), dst.state()
	lo, hi := a, b
	if lo.id > hi.id {
		lo, hi = hi, lo
	}
	for _, class := range [...]lockClass{classIO, classMmap} {
		op.lock(lo, class, heldExclusive)
		if lo != hi {
			op.lock(hi, class, heldExclusive)
		}
	}
	op.m.spansOf(op, a, pageDown(srcOff), pageUp(addSat(srcOff, n)))
	from, to := dstOff, pageUp(addSat(dstOff, n))
	if addSat(dstOff, n) > b.shown() {
		from, to = op.resize(b, from, to)
	}
	op.m.spansOf(op, b, pageDown(from), to)
	return op.afterBegin(true)
}

// resize notes that op may change the size of x, and extends the pages that it
// changes, from up to to, by what is not the file's any more then: the page at the
// end, and all behind it if somebody else has moved the end.
func (op *Op) resize(x *inodeState, from, to uint64) (uint64, uint64) {
	op.gates[0] = x
	shown := x.shown()
	if shown < x.size() {
		to = math.MaxInt64
	}
	op.upTo = to
	return min(from, shown), to
}

// CatchUp has the window show all of a file that somebody else on the host has made
// longer. What the guest has stored to the pages that it replaces is in the file
// when it returns.
func (op *Op) CatchUp(ino *Inode) {
	if op.m == nil || !ino.Mapped() {
		return
	}
	x := ino.state()
	op.lock(x, classMmap, heldExclusive)
	defer op.End()
	if size := x.size(); x.fd >= 0 && size > x.eof.Load() {
		op.m.replaced(op, x, x.eof.Load(), size)
	}
}

func (op *Op) beginExclusive(ino *Inode) *inodeState {
	x := ino.state()
	op.lock(x, classIO, heldExclusive)
	op.lock(x, classMmap, heldExclusive)
	return x
}

func (op *Op) afterBegin(clean bool) error {
	op.pending = len(op.spans) > 0 || op.gates[0] != nil
	if !clean {
		return nil
	}
	if err := op.Clean(); err != nil {
		op.End()
		return err
	}
	return nil
}

// Clean locks faults out of the pages that the operation changes, writes back
// what is dirty in them and takes them away from the guest, and then holds back
// delayed writeback where the size of a file changes. It does nothing if Begin
// has done it already.
func (op *Op) Clean() error {
	if !op.pending {
		return nil
	}
	op.pending = false
	op.sized = op.gates[0] != nil && len(op.spans) == 0
	if len(op.spans) == 0 {
		return nil // nothing of the inode is in the window: no page, no writeback
	}
	if err := op.m.exclude(op); err != nil {
		return err
	}
	// After the invalidation, not before: it waits for writeback, which waits
	// for this gate.
	for _, x := range op.gates {
		if x != nil {
			if err := op.m.noWrite(op, x); err != nil {
				return err
			}
		}
	}
	op.sized = op.gates[0] != nil
	return nil
}

// End releases everything. The Op can be used again.
func (op *Op) End() {
	if op.m == nil {
		return
	}
	if x := op.gates[0]; op.sized && x.fd >= 0 {
		if size, ok := x.knownSize(); ok {
			// What others have appended meanwhile may be behind the pages that were
			// taken away.
			op.m.setEnd(op, x, min(size, op.upTo))
		} else {
			op.sized = false
		}
	}
	if op.frozen {
		op.m.thaw(op, 0)
	}
	for i := len(op.held) - 1; i >= 0; i-- {
		op.unlock(i)
	}
	if op.fast != nil {
		op.fast.leaveFast()
		op.fast = nil
	}
	op.spans = op.spans[:0]
	op.gates = [2]*inodeState{}
	op.pending, op.sized = false, false
}

// lockBuffers takes the mmap locks, shared, of the inodes whose pages buf lies
// in, so that the pages are not changed while data move. target, if not nil, is
// the inode whose mmap lock op holds exclusively.
//
// The pages' inodes are met in no order, so a lock that comes before one
// already held is only tried. If that fails all mmap locks are dropped and taken
// again in order; then the pages may have been given to other files, and the
// search starts over.
func (op *Op) lockBuffers(target *inodeState, buf []WindowBuffer) {
	if len(buf) == 0 {
		return
	}
	for {
		op.sortBuf = op.m.inodesAt(op.sortBuf[:0], buf)
		dropped := false
		for _, x := range op.sortBuf {
			if op.holds(x, classMmap) {
				continue
			}
			if op.inOrder(x) {
				op.lock(x, classMmap, heldShared)
				continue
			}
			if op.tryLock(x, heldShared) {
				continue
			}
			dropped = true
			break
		}
		if dropped {
			op.m.stats.LockDrops.Add(1)
			op.unlockClass(classMmap)
			op.lockAllInOrder(target)
		}
		if op.buffersHeld(buf) {
			return
		}
		op.m.stats.LockRetries.Add(1)
		op.unlockClass(classMmap)
		if target != nil {
			op.lock(target, classMmap, heldExclusive)
		}
	}
}

// inOrder says whether x comes after every mmap lock held.
func (op *Op) inOrder(x *inodeState) bool {
	for _, h := range op.held {
		if h.class == classMmap && h.x.id >= x.id {
			return false
		}
	}
	return true
}

func (op *Op) lockAllInOrder(target *inodeState) {
	if target != nil && !slices.Contains(op.sortBuf, target) {
		op.sortBuf = append(op.sortBuf, target)
	}
	sortInodes(op.sortBuf)
	for _, x := range op.sortBuf {
		how := heldShared
		if x == target {
			how = heldExclusive
		}
		op.lock(x, classMmap, how)
	}
}

// buffersHeld says whether buf lies in pages of inodes whose mmap lock op holds.
func (op *Op) buffersHeld(buf []WindowBuffer) bool {
	op.sortBuf = op.m.inodesAt(op.sortBuf[:0], buf)
	for _, x := range op.sortBuf {
		if !op.holds(x, classMmap) {
			return false
		}
	}
	return true
}

// Inside says of n bytes at offset off of the window how many lie in one range,
// and how many of those, from the first on, within the file that it shows. With
// [Passthrough] a write to the others by a system call would make the file
// longer, for the one that is mapped is never too short. op has begun a READ into
// them.
func (op *Op) Inside(off, n uint64) (next, inside uint64) {
	if op.m == nil || op.m.cfg.Backing == Managed || off >= op.m.cfg.Window {
		return n, n
	}
	next = min(n, RangeSize-off%RangeSize)
	w := &op.m.window
	w.mu.Lock()
	r := w.ranges[off/RangeSize]
	w.mu.Unlock()
	if r.x == nil {
		return next, next
	}
	if !op.holds(r.x, classMmap) {
		// It was mapped since the READ began.
		return next, 0
	}
	if at, size := r.off+off%RangeSize, r.x.size(); at < size {
		inside = min(next, size-at)
	}
	return next, inside
}

func sortInodes(l []*inodeState) {
	slices.SortFunc(l, func(a, b *inodeState) int {
		switch {
		case a.id < b.id:
			return -1
		case a.id > b.id:
			return 1
		}
		return 0
	})
}

// size returns the file's size, or 0 if it is not known or the window does not show
// the file.
func (x *inodeState) size() uint64 {
	size, _ := x.knownSize()
	return size
}

func (x *inodeState) knownSize() (size uint64, ok bool) {
	if x.fd < 0 {
		return 0, false
	}
	var st unix.Stat_t
	err := unix.Fstat(x.fd, &st)
	for err == unix.EINTR {
		err = unix.Fstat(x.fd, &st)
	}
	return uint64(st.Size), err == nil
}

// shown returns up to where the window's pages hold the file's data, or 0 if it does
// not show the file.
func (x *inodeState) shown() uint64 { return min(x.size(), x.eof.Load()) }

const pageMask = 4096 - 1

func pageDown(n uint64) uint64 { return n &^ pageMask }

func pageUp(n uint64) uint64 {
	if n > math.MaxInt64-pageMask {
		return math.MaxInt64
	}
	return (n + pageMask) &^ pageMask
}

func addSat(a, b uint64) uint64 {
	if a > math.MaxInt64 || b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}
