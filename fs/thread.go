package fs

import (
	"fmt"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

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
