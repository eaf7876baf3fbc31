package dax

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Inode is what the file system embeds in each of its inodes. The zero value is
// ready for use, and stays two words until the inode is first mapped or
// changed exclusively. It must not be copied.
type Inode struct {
	// io is the io lock's fast side: the number of shared holders that got
	// by without the slow side, and the bits below.
	io atomic.Uint64
	x  atomic.Pointer[inodeState]
}

const (
	// ioExclusive is set while somebody holds the io lock exclusively or
	// waits for the shared holders to end.
	ioExclusive = uint64(1) << 63
	// ioMapped is set while the window shows pages of the inode: everybody
	// then takes the slow side.
	ioMapped = uint64(1) << 62
	ioCount  = ioMapped - 1
)

// inodeState is the rest of an Inode, made on demand and kept as long as it.
type inodeState struct {
	ino *Inode
	id  uint64 // the inode order

	ioSlow  sync.RWMutex
	drained chan struct{} // a token: the fast side may be empty

	// mmap is the inode's invalidate_lock: shared by who brings pages in,
	// exclusive across the whole of write back, invalidate, change.
	mmap sync.RWMutex

	// fd is the file as the window shows it, -1 while it does not. It changes
	// with mmap held exclusively, or held shared and the manager's mu.
	fd       int
	file     atomic.Uint64 // fd's name on the link; another one each time, as the kernel remembers passthrough by inode
	mapFD    int           // what the front-end gets; -1 with Managed
	writable bool

	// eof is what the server knows as realFile.eof; all that can be with the other
	// backings. It changes with mmap held exclusively, and when the inode becomes
	// a mapped one.
	eof atomic.Uint64

	watchKey string // guarded by hostWatch.mu, except that add and remove do not meet

	// ranges maps file offsets to ranges of the window. Guarded by the
	// manager's mu.
	ranges map[uint64]uint32

	dense dense

	// lost is the first error of writeback, an errno, that nobody had asked for
	// when the server forgot the file.
	lost atomic.Uint32
}

var lastInodeID, lastFile atomic.Uint64

// state returns the inode's rest, making it if need be.
func (n *Inode) state() *inodeState {
	if x := n.x.Load(); x != nil {
		return x
	}
	x := &inodeState{ino: n, id: lastInodeID.Add(1), fd: -1, mapFD: -1, drained: make(chan struct{}, 1)}
	if !n.x.CompareAndSwap(nil, x) {
		return n.x.Load()
	}
	return x
}

// Mapped says whether the window may show pages of the inode right now.
func (n *Inode) Mapped() bool { return n.io.Load()&ioMapped != 0 }

// Behind says whether the window may show less of the file than size bytes: somebody
// else on the host has made it longer. The guest must not learn of that before
// [Op.CatchUp].
func (n *Inode) Behind(size uint64) bool { return n.Mapped() && n.state().eof.Load() < size }

// Shown is the size of the file that the window shows, if it is [Inode.Behind].
func (n *Inode) Shown() uint64 { return n.state().eof.Load() }

// enterFast takes the io lock shared, if the inode is neither mapped nor held
// exclusively.
func (n *Inode) enterFast() bool {
	for {
		s := n.io.Load()
		if s&(ioExclusive|ioMapped) != 0 {
			return false
		}
		if n.io.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

func (n *Inode) leaveFast() {
	s := n.io.Add(^uint64(0))
	if s&ioExclusive != 0 && s&ioCount == 0 {
		select {
		case n.state().drained <- struct{}{}:
		default:
		}
	}
}

// lockIO takes the io lock exclusively: it waits for the exclusive holder before
// it and drains the I/O in flight.
func (x *inodeState) lockIO() {
	x.ioSlow.Lock()
	x.ino.io.Or(ioExclusive)
	for x.ino.io.Load()&ioCount != 0 {
		<-x.drained
	}
}

func (x *inodeState) unlockIO() {
	x.ino.io.And(^ioExclusive)
	x.ioSlow.Unlock()
}

// lockClass orders the locks that an Op can hold, together with the inode.
type lockClass uint8

const (
	classIO lockClass = iota + 1
	classMmap
)

func (c lockClass) String() string { return [...]string{"none", "io", "mmap"}[c] }

// heldLock is one lock that an Op holds.
type heldLock struct {
	x     *inodeState
	class lockClass
	how   lockHow
}

type lockHow uint8

const (
	heldShared lockHow = iota
	heldExclusive
	heldFast // io, shared, on the fast side; x is nil and ino in the Op
)

// lock takes a lock and blocks for it.
func (op *Op) lock(x *inodeState, class lockClass, how lockHow) {
	if checkLocks {
		op.checkOrder(x, class)
	}
	switch {
	case class == classIO && how == heldExclusive:
		x.lockIO()
	case class == classIO:
		x.ioSlow.RLock()
	case how == heldExclusive:
		x.mmap.Lock()
	default:
		x.mmap.RLock()
	}
	op.held = append(op.held, heldLock{x, class, how})
}

// tryLock takes an mmap lock if it is free, in any order.
func (op *Op) tryLock(x *inodeState, how lockHow) bool {
	if how == heldExclusive {
		if !x.mmap.TryLock() {
			return false
		}
	} else if !x.mmap.TryRLock() {
		return false
	}
	op.held = append(op.held, heldLock{x, classMmap, how})
	return true
}

// unlock releases the lock at index i of op.held.
func (op *Op) unlock(i int) {
	h := op.held[i]
	op.held = append(op.held[:i], op.held[i+1:]...)
	switch {
	case h.class == classIO && h.how == heldExclusive:
		h.x.unlockIO()
	case h.class == classIO:
		h.x.ioSlow.RUnlock()
	case h.how == heldExclusive:
		h.x.mmap.Unlock()
	default:
		h.x.mmap.RUnlock()
	}
}

// unlockClass releases all locks of a class.
func (op *Op) unlockClass(class lockClass) {
	for i := len(op.held) - 1; i >= 0; i-- {
		if op.held[i].class == class {
			op.unlock(i)
		}
	}
}

func (op *Op) holds(x *inodeState, class lockClass) bool {
	for _, h := range op.held {
		if h.x == x && h.class == class {
			return true
		}
	}
	return false
}

// checkOrder panics if taking the lock now, and waiting for it, is against the
// lock order. Only tests get here.
func (op *Op) checkOrder(x *inodeState, class lockClass) {
	if op.frozen {
		panic("dax: waiting for a lock while faults are locked out")
	}
	for _, h := range op.held {
		if h.class > class || h.class == class && h.x.id >= x.id {
			buf := make([]byte, 4096)
			buf = buf[:runtime.Stack(buf, false)]
			panic("dax: " + class.String() + " lock taken against the order while a " + h.class.String() + " lock is held\n" + string(buf))
		}
	}
}

// close closes the inode's descriptors.
func (x *inodeState) close() {
	if x.mapFD >= 0 && x.mapFD != x.fd {
		unix.Close(x.mapFD)
	}
	unix.Close(x.fd)
	x.fd, x.mapFD = -1, -1
	x.dense.forget()
}
