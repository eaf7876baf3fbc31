package dax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Backing is where the front-end's mappings come from.
type Backing uint8

const (
	// Managed shows files through pages of the window's own page cache, which
	// the daemon fills on a fault and can take back at any time.
	Managed Backing = iota
	// Passthrough maps the file's own page cache, through a file whose size is
	// rounded up to RangeSize. Nothing can be taken back.
	Passthrough
	// Direct maps the file itself. Only ranges that lie wholly inside the file
	// can be mapped.
	Direct
)

func (b Backing) String() string { return [...]string{"managed", "passthrough", "direct"}[b] }

// ParseBacking returns the Backing called name; "auto" is Managed.
func ParseBacking(name string) (Backing, error) {
	switch name {
	case "auto", "managed":
		return Managed, nil
	case "passthrough":
		return Passthrough, nil
	case "direct":
		return Direct, nil
	}
	return 0, fmt.Errorf("dax backing %q: want auto, managed, passthrough or direct", name)
}

// Mapper puts files into the device's shared memory region 0, the DAX window.
// Offsets and lengths are in bytes. The back-end channel of vhostuser does it.
//
// Map returns after the front-end has committed the mapping, so that the guest
// sees it. The mapping is writable. fd stays the caller's. Unmap names exactly a
// mapping that Map made. Both fail with ErrSuspended, and do not wait, while the
// device's rings are stopped. Unless ErrUncertain is part of an error the
// front-end has done nothing.
type Mapper interface {
	Map(ctx context.Context, offset, length uint64, fd int, fdOffset uint64) error
	Unmap(ctx context.Context, offset, length uint64) error
}

// Errors of a Mapper.
var (
	// ErrSuspended: the rings are stopped. When they run again it can be
	// tried again. SetupMapping returns it too, having changed nothing.
	ErrSuspended = errors.New("dax: the front-end takes no requests while the rings are stopped")
	// ErrUncertain: the front-end may have done it, or may do it yet.
	ErrUncertain = errors.New("dax: the front-end may have done it all the same")
)

// File is the file system's side of an inode that gets mapped.
type File interface {
	// OpenDAX opens the file for reading, and for writing if write is set. The
	// descriptor becomes the caller's. Errors are of type unix.Errno.
	OpenDAX(write bool) (fd int, err error)
}

// Config is what a Manager needs.
type Config struct {
	Window  uint64  // bytes; a multiple of RangeSize
	Backing Backing // of all files
	MinSize uint64  // smallest file, in bytes, that Want chooses
	ByFlag  bool    // see Manager.ByFlag
	Memory  uint64  // bytes of the window that may be resident, 0 for no limit; Managed only

	// MaxRegions is the number of memory regions that the front-end bears, all
	// devices of the virtual machine and its RAM together; 0 is QEMU's limit,
	// with a margin.
	MaxRegions int

	// Command starts a process that calls BackingMain with the arguments that
	// are appended to it. Empty: this program with the argument "dax-backing".
	Command []string

	Log *slog.Logger
}

const (
	// DefaultMaxRegions keeps away from VHOST_USER_MAX_RAM_SLOTS (512), above
	// which QEMU ends itself.
	DefaultMaxRegions = 500
	// reservedRegions are left to RAM and to other devices when a window is
	// sized.
	reservedRegions = 20
	// managedSegments is how many mappings the window takes in managed mode.
	// The kernel invalidates one file at a time and reads ahead to its end, so
	// more would be better; but the front-end bears eight regions in all, its
	// RAM included, where CONFIGURE_MEM_SLOTS is not negotiated.
	managedSegments = 2
)

// MaxWindow returns the largest window, in bytes, for a front-end that bears
// maxRegions memory regions.
func MaxWindow(b Backing, maxRegions int) uint64 {
	if maxRegions <= 0 {
		maxRegions = DefaultMaxRegions
	}
	if b == Managed {
		return 1 << 40
	}
	return uint64(max(maxRegions-reservedRegions, 0)) * RangeSize
}

// Manager owns the window.
type Manager struct {
	cfg  Config
	log  *slog.Logger
	back *backing // nil with Direct

	window window
	slots  slots
	engine engine
	watch  hostWatch
	stats  stats
	closed atomic.Bool
}

// New starts the backing mount. The caller must be able to start processes and,
// unless cfg.Backing is Direct, to mount (CAP_SYS_ADMIN): do it before a sandbox
// takes that away. The process needs nothing of the file system.
func New(cfg Config) (*Manager, error) {
	if cfg.Window == 0 || cfg.Window%RangeSize != 0 {
		return nil, fmt.Errorf("dax: window of %d bytes: want a multiple of %d", cfg.Window, RangeSize)
	}
	if limit := MaxWindow(cfg.Backing, cfg.MaxRegions); cfg.Window > limit {
		return nil, fmt.Errorf("dax: window of %d bytes: with backing %s each %d bytes are a memory region of the virtual machine, and the front-end bears no more than make up %d bytes; use a smaller window, --dax-backing=managed, or declare the front-end's limit",
			cfg.Window, cfg.Backing, RangeSize, limit)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxRegions <= 0 {
		cfg.MaxRegions = DefaultMaxRegions
	}
	m := &Manager{cfg: cfg, log: cfg.Log}
	m.window.ranges = make([]windowRange, cfg.Window/RangeSize)
	m.window.changed = sync.NewCond(&m.window.mu)
	m.slots.limit = cfg.MaxRegions
	if cfg.Backing != Direct {
		mc := mountConfig{window: cfg.Window, segment: cfg.Window, memory: cfg.Memory}
		if cfg.Backing == Managed {
			n := (cfg.Window/RangeSize + managedSegments - 1) / managedSegments
			mc.segment = n * RangeSize
		}
		var err error
		if m.back, err = startBacking(mc, cfg.Command, cfg.Log); err != nil {
			return nil, fmt.Errorf("%w; the window needs /dev/fuse and a daemon that may mount (root), but with --dax-backing=direct", err)
		}
	}
	m.slots.init(m)
	m.watch.start(m)
	m.engine.start(m)
	return m, nil
}

// Close gives up the window. The front-end must have unmapped it, or be gone.
func (m *Manager) Close() {
	if m == nil || m.closed.Swap(true) {
		return
	}
	m.engine.stop()
	m.watch.stop()
	m.Destroy()
	if m.back != nil {
		m.back.close()
	}
}

// On says whether there is a window.
func (m *Manager) On() bool { return m != nil }

// WindowSize returns the window's size in bytes.
func (m *Manager) WindowSize() uint64 {
	if m == nil {
		return 0
	}
	return m.cfg.Window
}

// Want says whether a file should get FUSE_ATTR_DAX. mode has the S_IFMT bits.
func (m *Manager) Want(mode uint32, size uint64) bool {
	if m == nil || mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	if m.cfg.Backing == Direct && (size == 0 || size%RangeSize != 0) {
		return false
	}
	return size >= m.cfg.MinSize
}

// ByFlag says whether of the files that Want chooses only those get FUSE_ATTR_DAX
// that have FS_XFLAG_DAX on the host, which to know costs a system call.
func (m *Manager) ByFlag() bool { return m != nil && m.cfg.ByFlag }

// OwnsFile says whether fd is a file of the backing mount: a memory region made of
// it is a piece of the window, and must never be mapped by this process.
func (m *Manager) OwnsFile(fd int) bool {
	if m == nil || m.back == nil {
		return false
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return false
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor) == m.back.dev
}

// exclude locks faults out of op.spans and empties them.
//
// It goes in passes. While the pages of a span are being invalidated, READs of
// them must be served, since the kernel holds their pages locked and the
// invalidation waits for them; the server notes those. When a pass ends and
// none were noted no page is left, and from then on READs wait. Otherwise
// the next pass goes over what was noted.
func (m *Manager) exclude(op *Op) error {
	if m.cfg.Backing != Managed {
		return nil // the pages are the file's own
	}
	op.spans = mergeSpans(op.spans)
	op.msg = op.message(opFreeze)
	op.msg.spans = append(op.msg.spans, op.spans...)
	if err := m.back.call(&op.msg); err != nil {
		return err
	}
	op.frozen, op.freeze = true, op.msg.id
	todo := op.spans
	for pass := 1; ; pass++ {
		for _, s := range todo {
			if err := m.back.invalidate(s); err != nil {
				m.stats.InvalidateErrors.Add(1)
				m.log.Error("taking pages of the DAX window away", "offset", s.Off, "length", s.Len, "err", err)
				return errnoOf(err)
			}
		}
		m.stats.Passes.Add(1)
		op.msg = op.message(opPark)
		op.msg.id = op.freeze
		if err := m.back.call(&op.msg); err != nil {
			return err
		}
		if len(op.msg.spans) == 0 {
			m.stats.Exclusions.Add(1)
			return nil
		}
		if pass == maxPasses {
			m.stats.InvalidateErrors.Add(1)
			return unix.EBUSY
		}
		op.todo = append(op.todo[:0], op.msg.spans...)
		todo = op.todo
	}
}

// maxPasses is far more than it takes: from patientPasses on the server slows
// the guest's faults down.
const maxPasses = 64

func (m *Manager) noWrite(op *Op, x *inodeState) error {
	if m.cfg.Backing != Managed {
		return nil
	}
	op.msg = op.message(opNoWrite)
	op.msg.id, op.msg.file = op.freeze, x.file.Load()
	return m.back.call(&op.msg)
}

// setEnd notes that the window's pages of x hold the file's data up to size. The guest
// must not learn of a size up to which the server does not write: it learns of a larger
// one after the server has. Where writes are held back that does when they go on.
func (m *Manager) setEnd(op *Op, x *inodeState, size uint64) {
	if m.cfg.Backing != Managed {
		x.eof.Store(math.MaxUint64)
		return
	}
	if op.frozen && op.gates[0] == x {
		x.eof.Store(size)
		return
	}
	if size < x.eof.Load() {
		x.eof.Store(size)
	}
	op.msg = op.message(opEnd)
	op.msg.file, op.msg.off = x.file.Load(), size
	if err := m.back.call(&op.msg); err != nil {
		if !m.back.dead.Load() {
			m.log.Error("telling where a file in the DAX window ends; the guest sees no more of it until it maps it anew", "err", err)
		}
		return
	}
	x.eof.Store(size)
}

// thaw ends what exclude began.
func (m *Manager) thaw(op *Op, flags uint32) {
	op.msg = op.message(opThaw)
	op.msg.id, op.msg.flags = op.freeze, flags
	if x := op.gates[0]; op.sized && x.fd >= 0 {
		op.msg.flags |= flagEnd
		op.msg.off = x.eof.Load()
	}
	if err := m.back.call(&op.msg); err != nil && !m.back.dead.Load() {
		m.log.Error("letting faults of the DAX window go on", "err", err)
	}
	op.frozen = false
}

func errnoOf(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EIO
}
