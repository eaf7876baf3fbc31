package fs

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
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

const (
	// argsMax is the most that a request other than WRITE may hold: the
	// largest extended attribute, its name, and the header.
	argsMax = 1<<16 + 4096
	// replyMax is the most that a reply built in memory may hold.
	replyMax = 1<<16 + 4096
	// direntBuf is how much of a directory is read at a time.
	direntBuf = 1 << 15
)

// Thread serves requests on one locked OS thread. It implements device.Thread.
type Thread struct {
	fs      *FS
	session *session // of the request being served
	hdr     *fuse.InHeader
	in      []byte // the request being served, with its header
	inBuf   []byte
	reply   []byte // header and payload of the reply
	dirents []byte
	path    [32]byte
	cred    credentials
	id      identity
	ext     extensions
	st      unix.Statx_t
	missed  bool // the last name that was resolved was new
	attr    fileAttr
	op      *dax.Op
	bufs    []dax.WindowBuffer
	extent  guestmem.WindowExtent // t.windowExtent
	file2   daxFile               // the file being mapped
	unfit   bool                  // the thread's credentials could not be restored

	queue    int
	mayBlock bool
	// joint is what [device.Joiner] asks for, of the last request. join says
	// that the next one joins it, which joins says of the one being served.
	joint       uint64
	join, joins bool
	synced      synced
	// repeated says that a daemon that was killed may have carried out the
	// request; repeat says so of the next one.
	repeated, repeat bool
	verdict          device.Verdict
	req              *guestmem.Buffers // rest of the request, for payloads
	rep              *guestmem.Buffers // room for the reply's payload
}

// NewThread implements device.Server.
func (f *FS) NewThread() (device.Thread, error) { return f.newThread() }

func (f *FS) newThread() (*Thread, error) {
	// The umask and the working directory are what CLONE_FS shares.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("a thread can't get a umask of its own (is unshare(2) filtered?): %w", err)
	}
	unix.Umask(0)
	if err := unix.Fchdir(f.procSelfFD); err != nil {
		return nil, fmt.Errorf("a thread can't enter /proc/self/fd (is /proc mounted?): %w", err)
	}
	t := &Thread{
		fs:      f,
		inBuf:   alignedBytes(argsMax + 8),
		reply:   alignedBytes(outHeaderLen + replyMax),
		dirents: alignedBytes(direntBuf),
		cred:    newCredentials(),
		op:      f.opts.DAX.NewOp(),
	}
	t.extent = t.windowExtent
	return t, nil
}

// Close implements device.Thread.
func (t *Thread) Close() {}

// handler serves one request whose header and fixed arguments are in t.in. It
// returns the length of the payload, in t.payload() unless it was written to
// t.rep itself.
type handler func(t *Thread) (int, unix.Errno)

// operation is one row of the table of operations.
type operation struct {
	name string
	// args is the length of the fixed arguments, header included.
	args int
	// reply is the length of the fixed part of the reply's payload: a request
	// with less room than that is refused before anything is done.
	reply int
	run   handler
	// blocks says that the request may wait for a device or for long work,
	// so that a worker has to serve it.
	blocks bool
	// stream says that what follows args is payload and stays in t.req.
	stream bool
	// inPlace says that run writes the payload to t.rep.
	inPlace bool
	// noReply is a request without an answer.
	noReply bool
	// changes is a request that a read-only share refuses with EROFS.
	changes bool
}

// Repeat implements device.Repeater.
func (t *Thread) Repeat() { t.repeat = true }

// Joint implements device.Joiner.
func (t *Thread) Joint() uint64 { return t.joint }

// Join implements device.Joiner.
func (t *Thread) Join() { t.join = true }

// Serve implements device.Thread.
func (t *Thread) Serve(q int, in, out *guestmem.Buffers, mayBlock bool) (written uint32, v device.Verdict) {
	t.repeated, t.repeat = t.repeat, false
	t.joins, t.join, t.joint = t.join, false, 0
	if !t.joins {
		t.synced = synced{}
	}
	total := in.Len()
	if _, err := in.CopyOut(t.inBuf[:inHeaderLen]); err != nil || total < inHeaderLen {
		t.fs.bad("request", "a request is shorter than its header, or its header can't be read")
		return 0, device.Done
	}
	t.hdr = overlay[fuse.InHeader](t.inBuf)
	t.queue, t.mayBlock, t.verdict = q, mayBlock, device.Done
	t.session = t.fs.session.Load()
	if uint64(t.hdr.Length) != uint64(total) {
		t.fs.bad("length", "a request's header gives another length than its buffers have")
		return t.fail(out, unix.EIO), device.Done
	}
	op := lookupOperation(t.hdr.Opcode)
	if op == nil {
		if t.hdr.Opcode == 0 || t.hdr.Opcode >= numOps {
			t.fs.bad("opcode", "a request has an opcode that protocol 7.45 does not have")
		}
		return t.fail(out, unix.ENOSYS), device.Done
	}
	if e := t.admit(op); e != 0 {
		if op.noReply {
			return 0, device.Done
		}
		return t.fail(out, e), device.Done
	}
	if op.blocks && !mayBlock {
		if t.hdr.Opcode == opFsync {
			t.joint = t.syncJoint(in)
		}
		return 0, device.Again
	}
	n := total
	if op.stream {
		n = op.args
	}
	if total < op.args || n > argsMax {
		t.fs.bad("arguments", "a request is too short or too long for its operation")
		if op.noReply {
			return 0, device.Done
		}
		return t.fail(out, unix.EINVAL), device.Done
	}
	if _, err := in.CopyOut(t.inBuf[inHeaderLen:n]); err != nil {
		return t.fail(out, unix.EFAULT), device.Done
	}
	t.in = t.inBuf[:n]
	t.inBuf[n] = 0
	if op.noReply {
		t.call(op)
		return 0, device.Done
	}
	if out.Len() < outHeaderLen+op.reply {
		t.fs.bad("room", "a request has too little room for its reply")
		return t.fail(out, unix.EINVAL), device.Done
	}
	t.req = in
	head := *out
	if op.inPlace {
		out.Skip(outHeaderLen)
		t.rep = out
	}
	size, e := t.call(op)
	if t.verdict != device.Done {
		return 0, t.verdict
	}
	if e != 0 {
		return t.fail(&head, e), device.Done
	}
	t.putHeader(size, 0)
	if op.inPlace {
		if _, err := head.CopyIn(t.reply[:outHeaderLen]); err != nil {
			return 0, device.Done
		}
		return uint32(outHeaderLen + size), device.Done
	}
	if head.Len() < outHeaderLen+size {
		return t.fail(&head, unix.ERANGE), device.Done
	}
	if _, err := head.CopyIn(t.reply[:outHeaderLen+size]); err != nil {
		return 0, device.Done
	}
	return uint32(outHeaderLen + size), device.Done
}

// admit refuses what may not be asked at this moment.
func (t *Thread) admit(op *operation) unix.Errno {
	if t.unfit {
		return unix.EIO
	}
	if t.session == nil && t.hdr.Opcode != opInit {
		t.fs.bad("session", "a request came before FUSE_INIT")
		return unix.EIO
	}
	if op.changes && t.fs.opts.ReadOnly {
		return unix.EROFS
	}
	return 0
}

// call runs a handler. A panic in it is a bug of ours: the guest gets EIO and
// the operator the stack.
func (t *Thread) call(op *operation) (n int, e unix.Errno) {
	defer func() {
		if r := recover(); r != nil {
			t.fs.stats.Bugs.Add(1)
			t.fs.log.Error("internal error in a request, answered EIO; please report it", "op", op.name,
				"unique", t.hdr.Unique, "nodeid", t.hdr.NodeId, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			n, e = 0, unix.EIO
		}
	}()
	n, e = op.run(t)
	switch e {
	case never:
		e = unix.ENOSYS
	case unix.ENOSYS:
		// The host's, which may be about one file system or one call.
		e = unix.EOPNOTSUPP
	}
	return n, e
}

// never is what a handler answers to have the guest not ask again: ENOSYS there.
const never = unix.Errno(1 << 16)

// payload is where a reply built in memory goes.
func (t *Thread) payload() []byte { return t.reply[outHeaderLen:] }

func (t *Thread) putHeader(size int, e unix.Errno) {
	h := overlay[fuse.OutHeader](t.reply)
	h.Length = uint32(outHeaderLen + size)
	h.Status = -int32(e)
	h.Unique = t.hdr.Unique
}

// fail writes a reply that holds only an errno.
func (t *Thread) fail(out *guestmem.Buffers, e unix.Errno) uint32 {
	t.putHeader(0, e)
	if out.Len() < outHeaderLen {
		return 0
	}
	if _, err := out.CopyIn(t.reply[:outHeaderLen]); err != nil {
		return 0
	}
	return outHeaderLen
}

// again has the request served by a worker; nothing may have been changed yet.
func (t *Thread) again() (int, unix.Errno) {
	t.verdict = device.Again
	return 0, 0
}

// detach has the request served by a thread that no request which waits for a
// device can hold up; nothing may have been changed yet.
func (t *Thread) detach() (int, unix.Errno) {
	t.verdict = device.Detach
	return 0, 0
}

// node returns the inode that the request is about.
func (t *Thread) node() (*inode, unix.Errno) { return t.nodeByID(t.hdr.NodeId) }

func (t *Thread) nodeByID(id uint64) (*inode, unix.Errno) {
	n := t.fs.inodes.get(id)
	if n == nil && t.session.inherited {
		// The guest looks the path up again.
		return nil, unix.ESTALE
	}
	if n == nil {
		t.fs.bad("nodeid", "a request names an inode that the guest does not have")
		return nil, unix.EBADF
	}
	return n, 0
}

// holdNode returns the inode id and a descriptor of it. The inode must be dropped.
func (t *Thread) holdNode(id uint64) (*inode, int, unix.Errno) {
	n, e := t.nodeByID(id)
	if e != 0 {
		return nil, -1, e
	}
	fd, e := n.hold()
	return n, fd, e
}

// holdDir is holdNode for a directory.
func (t *Thread) holdDir(id uint64) (*inode, int, unix.Errno) {
	n, e := t.nodeByID(id)
	if e != 0 {
		return nil, -1, e
	}
	if n.typ != unix.S_IFDIR {
		return nil, -1, unix.ENOTDIR
	}
	fd, e := n.hold()
	return n, fd, e
}

// names returns the count NUL-terminated strings that begin at offset from of
// the request, and what follows them.
func (t *Thread) names(from, count int) (s [2]cstr, rest []byte, e unix.Errno) {
	b := t.in[from:]
	for i := range count {
		n := 0
		for n < len(b) && b[n] != 0 {
			n++
		}
		if n == len(b) {
			t.fs.bad("string", "a request holds a name without an end")
			return s, nil, unix.EINVAL
		}
		s[i] = cstr(b[:n+1])
		b = b[n+1:]
	}
	return s, b, 0
}

// name returns the single name at offset from of the request, if it is one
// that a directory can hold: nothing else ever reaches a system call.
func (t *Thread) name(from int) (cstr, unix.Errno) {
	s, _, e := t.names(from, 1)
	if e != 0 {
		return nil, e
	}
	return s[0], t.checkName(s[0])
}

var dotName = cstr{'.', 0}

func (t *Thread) checkName(s cstr) unix.Errno {
	n := len(s) - 1
	switch {
	case n == 0, n == 1 && s[0] == '.', n == 2 && s[0] == '.' && s[1] == '.':
		t.fs.bad("name", "a request names \"\", \".\" or \"..\"")
		return unix.EINVAL
	case n > nameMax:
		if n > guestNameMax {
			t.fs.bad("name", "a name is longer than a guest lets any be")
		}
		return unix.ENAMETOOLONG
	}
	for _, c := range s[:n] {
		if c == '/' {
			t.fs.bad("name", "a name has a slash")
			return unix.EINVAL
		}
	}
	return 0
}

// fdName is the name of descriptor fd in /proc/self/fd, which is the thread's
// working directory. It is valid until the next call.
func (t *Thread) fdName(fd int) cstr {
	b := strconv.AppendInt(t.path[:0], int64(fd), 10)
	return cstr(append(b, 0))
}

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
