package fs

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FS serves one host directory. It implements device.Server.
type FS struct {
	opts Options
	log  *slog.Logger

	rootFD     int // O_PATH
	procSelfFD int // /proc/self/fd, O_PATH
	rootInode  *inode

	inodes inodeTable
	mounts mountTable
	files  idTable[file]
	budget fdBudget
	locks  lockWaits
	set    setNotes
	// syncing counts the FSYNCs that are being served.
	syncing atomic.Int32

	entryTimeout time.Duration
	attrTimeout  time.Duration

	session atomic.Pointer[session]
	// noFchmodat2 is set when the host kernel lacks fchmodat2(2).
	noFchmodat2 atomic.Bool
	// noFileGetattr is set when the host kernel lacks file_getattr(2).
	noFileGetattr atomic.Bool

	stats Stats
	rate  logRate
}

// session is what FUSE_INIT has settled. It is immutable.
type session struct {
	flags    uint64 // the flags of the INIT reply
	offered  uint64
	minor    uint32
	maxWrite uint32
	// inherited says that the guest began the session with another process
	// and names inodes and files which that one had.
	inherited bool
}

func (s *session) has(flag uint64) bool { return s != nil && s.flags&flag != 0 }

// Stats counts what an operator wants to know. All fields only ever grow.
type Stats struct {
	// BadRequests counts requests that broke the protocol.
	BadRequests atomic.Uint64
	// Bugs counts requests answered EIO because of a fault of the daemon's.
	Bugs atomic.Uint64
}

// Stats returns the counters.
func (f *FS) Stats() *Stats { return &f.stats }

// New opens the shared directory and makes a file system of it. Close gives its
// descriptors back.
func New(opts Options) (*FS, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.PosixACL != Off {
		opts.Xattr = true
	}
	f := &FS{opts: opts, log: opts.Logger, rootFD: -1, procSelfFD: -1}
	f.budget = fdBudget{fs: f, limit: int64(opts.FDLimit)}
	// Files come first: inodes have file handles to fall back on.
	f.budget.pins = f.budget.limit / 4 * 3
	f.entryTimeout, f.attrTimeout = opts.Cache.timeouts()
	// The guest's umask has been applied, or comes with the request.
	unix.Umask(0)

	var err error
	if f.rootFD, err = unix.Open(opts.SharedDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("shared directory %q can't be opened: %w; let the daemon's user enter it, or name another with --shared-dir", opts.SharedDir, err)
	}
	if f.procSelfFD, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("/proc/self/fd can't be opened (is /proc mounted?): %w", err)
	}
	if err := f.addRoot(); err != nil {
		f.Close()
		return nil, err
	}
	f.checkDAXFlag()
	return f, nil
}

// addRoot makes the shared directory inode 1.
func (f *FS) addRoot() error {
	var st unix.Statx_t
	if e := sysStatx(f.rootFD, emptyPath, unix.AT_EMPTY_PATH, statxMask, &st); e != 0 {
		return fmt.Errorf("shared directory %q can't be examined: %w; check the file system that it is on", f.opts.SharedDir, e)
	}
	fd, err := unix.FcntlInt(uintptr(f.rootFD), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("shared directory %q can't be opened twice: %w; raise the limit of open files (--rlimit-nofile, ulimit -n)", f.opts.SharedDir, err)
	}
	f.budget.reserveInode()
	n, _, e := f.inodes.claimOrAdd(f, &st, fd)
	if e == unix.EOPNOTSUPP {
		return fmt.Errorf("the file system of %q has no usable file handles; use --inode-file-handles=prefer", f.opts.SharedDir)
	}
	if e != 0 {
		return fmt.Errorf("shared directory %q can't be used: %w; check the file system that it is on, and the limit of open files (--rlimit-nofile, ulimit -n)", f.opts.SharedDir, e)
	}
	if n.id != rootID {
		return fmt.Errorf("internal error: the root became inode %d; please report it", n.id)
	}
	if f.opts.InodeFileHandles == FileHandlesPrefer && !n.mnt.handles.Load() {
		f.log.Info("the file system of the shared directory has no usable file handles; inodes are kept as open descriptors", "dir", f.opts.SharedDir)
	}
	f.rootInode = n
	return nil
}

// Close closes every descriptor of the file system. No request may be under way.
func (f *FS) Close() {
	f.Reset()
	if f.rootInode != nil {
		f.inodes.byID.remove(rootID)
		f.rootInode.kill()
		f.rootInode = nil
	}
	for _, fd := range []*int{&f.rootFD, &f.procSelfFD} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// RingsStopped implements device.Server.
func (f *FS) RingsStopped() {}

// Reset implements device.Server: it drops the session with all its files and
// inodes. No request may be under way.
func (f *FS) Reset() {
	f.opts.DAX.Reset()
	f.mounts.forgive()
	f.dropAllOwners()
	f.closeAllFiles()
	f.inodes.clear()
	f.session.Store(nil)
}

// Interrupt implements device.Interrupter: waiting locks end with Requeue.
func (f *FS) Interrupt(q int) { f.locks.interrupt(q) }

// Resume implements device.Interrupter.
func (f *FS) Resume(q int) { f.locks.resume(q) }

// Yield implements device.Yielder: requests that wait for locks look again, and
// let others have their threads.
func (f *FS) Yield() { f.locks.wake() }

// bad counts a request that broke the protocol and logs its kind at a bounded rate.
func (f *FS) bad(kind, msg string) {
	f.stats.BadRequests.Add(1)
	if f.rate.allow(kind) {
		f.log.Warn("the guest sent a bad request: "+msg, "kind", kind)
	}
}

// logRate lets each kind of message through once in a while.
type logRate struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const logInterval = 10 * time.Second

func (r *logRate) allow(kind string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if last, ok := r.last[kind]; ok && now.Sub(last) < logInterval {
		return false
	}
	if r.last == nil {
		r.last = make(map[string]time.Time)
	}
	r.last[kind] = now
	return true
}
