package fuseclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

// argSize is the room for arguments on either side: the largest is an extended attribute of 64 KiB with its name.
const argSize = 72 << 10

// Caller is who a request is made for.
type Caller struct {
	UID, GID, PID uint32
}

// Request is one FUSE request and its memory in the guest. It belongs to a queue and is used over and over: Begin, the
// arguments, Submit, and when Client.Reap or Wait returns it, the reply.
type Request struct {
	// Err is the reply's errno, 0 for success, and N its size without the header. Valid after completion.
	Err unix.Errno
	N   int
	// NoTimeout exempts the request from Options.Timeout: it may wait for another.
	NoTimeout bool
	// Tag is the caller's.
	Tag any

	c     *Client
	q     *queue
	chain frontend.Chain
	done  chan struct{}

	in, out, data                []byte
	inGPA, outGPA, dataGPA       uint64
	dataAt                       uint64 // where the data is, usually dataGPA
	inLen                        int    // header and arguments
	dataOut                      int    // bytes of data sent
	outArgs                      int    // size of the reply's arguments
	dataIn                       int    // room for data in the reply
	variable, noReply, submitted bool
	deadline                     time.Time
	unique                       uint64

	bounce struct { // for odd layouts
		gpa uint64
		mem []byte
	}
	readSegs, writeSegs []frontend.Seg
}

func (c *Client) newRequest(q *queue) (*Request, error) {
	r := &Request{c: c, q: q, done: make(chan struct{}, 1)}
	r.chain.Tag = r
	var err error
	take := func(gpa *uint64, mem *[]byte, n int) {
		if err == nil {
			*gpa, err = c.fe.Mem.Alloc(uint64(n), frontend.PageSize)
			*mem = c.fe.Mem.Bytes(*gpa, uint64(n))
		}
	}
	take(&r.inGPA, &r.in, argSize)
	take(&r.outGPA, &r.out, argSize)
	take(&r.dataGPA, &r.data, c.opts.MaxData)
	return r, err
}

// Begin starts a new request. The body is not there yet.
func (r *Request) Begin(op Opcode, node uint64, who Caller) {
	h := view[fuse.InHeader](r.in)
	*h = fuse.InHeader{Opcode: uint32(op), NodeId: node}
	h.Uid, h.Gid, h.Pid = who.UID, who.GID, who.PID
	r.inLen, r.dataOut, r.outArgs, r.dataIn = inHeaderSize, 0, 0, 0
	r.variable, r.noReply, r.NoTimeout = false, false, false
	r.Err, r.N = 0, 0
	r.dataAt = r.dataGPA
}

// UseData makes guest memory at gpa the data of this request, instead of Data: for buffers that lie in the window. Only
// for LinuxLayout.
func (r *Request) UseData(gpa uint64) { r.dataAt = gpa }

// body gives the request's structure to be filled; T begins with the header, as go-fuse's do.
func body[T any](r *Request) *T {
	n := sizeOf[T]()
	clear(r.in[inHeaderSize:n])
	r.inLen = n
	return view[T](r.in)
}

// Append adds bytes to the arguments, AppendString a string and its NUL.
func (r *Request) Append(b []byte) {
	r.inLen += copy(r.in[r.inLen:], b)
}

func (r *Request) AppendString(s string) {
	r.inLen += copy(r.in[r.inLen:len(r.in)-1], s)
	r.in[r.inLen] = 0
	r.inLen++
}

// Header is the request's header, for tests that change it; Length and Unique are set by Submit.
func (r *Request) Header() *fuse.InHeader { return view[fuse.InHeader](r.in) }

// Args is the room for arguments, behind the header.
func (r *Request) Args() []byte { return r.in[inHeaderSize:] }

// SetArgs says how many bytes of Args are sent.
func (r *Request) SetArgs(n int) { r.inLen = inHeaderSize + n }

// Data is the page buffer, for a WRITE's data and a READ's reply.
func (r *Request) Data() []byte { return r.data }

// SendData says how many bytes of Data are sent.
func (r *Request) SendData(n int) { r.dataOut = n }

// Expect says how long the reply's arguments are; if variable, a reply may be shorter.
func (r *Request) Expect(n int, variable bool) { r.outArgs, r.variable = n, variable }

// ExpectData says how much of Data the reply may fill.
func (r *Request) ExpectData(n int) { r.dataIn, r.variable = n, true }

// NoReply is for FORGET: no writable descriptor, used length 0.
func (r *Request) NoReply() { r.noReply = true }

// Reply is the arguments of the reply, of the size that was expected.
func (r *Request) Reply() []byte { return r.out[outHeaderSize : outHeaderSize+r.outArgs] }

// ReplyData is the data of the reply.
func (r *Request) ReplyData() []byte { return r.data[:max(0, r.N-r.outArgs)] }

func reply[T any](r *Request) *T { return view[T](r.Reply()) }

// Submit puts the request into its queue without a kick. ErrFull of package frontend means try again after a completion.
func (r *Request) Submit() error {
	h := view[fuse.InHeader](r.in)
	h.Length = uint32(r.inLen + r.dataOut)
	h.Unique = r.c.nextUnique()
	return r.submitOn(r.q)
}

// SubmitAsIs is Submit of a header that is complete, on any queue. Reap of that queue returns it.
func (r *Request) SubmitAsIs(queue int) error { return r.submitOn(r.c.queues[queue]) }

// Memory is where a request that was made elsewhere goes: header and arguments in one, data in the other. SetArgs,
// SendData, Expect, ExpectData and NoReply say how much of it counts, and SubmitAsIs sends it.
func (r *Request) Memory() (in, data []byte) {
	r.inLen, r.dataOut, r.outArgs, r.dataIn = inHeaderSize, 0, 0, 0
	r.variable, r.noReply, r.NoTimeout = false, false, false
	r.Err, r.N = 0, 0
	r.dataAt = r.dataGPA
	return r.in, r.data
}

// RawReply is the reply's header and arguments, and its data, whatever they say.
func (r *Request) RawReply() (out, data []byte) {
	if r.Err != 0 {
		return r.out[:outHeaderSize], nil
	}
	n := min(r.N, r.outArgs)
	return r.out[:outHeaderSize+n], r.data[:r.N-n]
}

func (r *Request) submitOn(q *queue) error {
	r.unique = view[fuse.InHeader](r.in).Unique
	if !r.noReply {
		*view[fuse.OutHeader](r.out) = fuse.OutHeader{}
	}
	if r.c.opts.Layout == LinuxLayout {
		r.layoutLinux()
	} else if err := r.layoutBounced(); err != nil {
		return err
	}
	r.submitted = true
	return q.fq.Submit(&r.chain)
}

// complete checks the reply as the guest's kernel does.
func (r *Request) complete() {
	r.submitted = false
	if r.noReply {
		if r.chain.Used != 0 {
			r.fault("used length %d without a writable descriptor", r.chain.Used)
		}
		return
	}
	if r.c.opts.Layout != LinuxLayout {
		r.unbounce()
	}
	h := *view[fuse.OutHeader](r.out)
	if err := r.verify(h); err != nil {
		r.fault("%v", err)
		r.Err, r.N = unix.EIO, 0
		return
	}
	r.Err, r.N = unix.Errno(-h.Status), int(h.Length)-outHeaderSize
}

func (r *Request) verify(h fuse.OutHeader) error {
	switch {
	case r.chain.Used < outHeaderSize:
		return fmt.Errorf("used length %d has no room for a header", r.chain.Used)
	case h.Length != r.chain.Used:
		return fmt.Errorf("header length %d and used length %d differ", h.Length, r.chain.Used)
	case h.Unique != r.unique:
		return fmt.Errorf("unique %d in the reply to %d", h.Unique, r.unique)
	case h.Status > 0 || h.Status <= -512:
		return fmt.Errorf("error %d is none", h.Status)
	case h.Status != 0 && h.Length != outHeaderSize:
		return fmt.Errorf("error %d with %d bytes", h.Status, h.Length)
	case h.Status != 0:
		return nil
	}
	n := int(h.Length) - outHeaderSize
	if n > r.outArgs+r.dataIn || n < r.outArgs && !r.variable {
		return fmt.Errorf("reply of %d bytes, expected %d and up to %d of data", n, r.outArgs, r.dataIn)
	}
	return nil
}

func (r *Request) fault(format string, args ...any) {
	h := r.Header()
	r.c.fe.Fault(fmt.Sprintf("opcode %d, node %d, unique %d: ", h.Opcode, h.NodeId, r.unique) + fmt.Sprintf(format, args...))
}

// errTimeout is what a request gets that the daemon does not answer. Its memory is never used again.
var errTimeout = errors.New("no reply from the daemon")

// do submits the request, kicks, and waits for the reply.
func (r *Request) do() error {
	q := r.q
	r.deadline = time.Now().Add(r.c.opts.Timeout)
	q.slotFree.L.Lock()
	q.pending[r] = struct{}{}
	for {
		err := r.Submit()
		if err == nil {
			break
		}
		if err != frontend.ErrFull {
			delete(q.pending, r)
			q.slotFree.L.Unlock()
			return err
		}
		q.slotFree.Wait()
	}
	q.slotFree.L.Unlock()
	if err := q.fq.Kick(); err != nil {
		return err
	}
	<-r.done
	if r.Err != 0 {
		return r.Err
	}
	return nil
}
