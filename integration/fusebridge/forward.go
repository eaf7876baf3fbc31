package fusebridge

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

const (
	inHeader  = 40
	splitAt   = 80 // header and fuse_write_in: what follows in a WRITE is data
	readers   = 4
	inFlight  = 256 // each has more than 1 MiB of guest memory
	answerIn  = time.Minute
	linuxData = 1 << 20
)

// forwarder moves requests between a /dev/fuse descriptor and a daemon.
type forwarder struct {
	fuse int
	c    *fuseclient.Client

	slots chan struct{} // one for each request that has memory

	mu      sync.Mutex
	started map[*fuseclient.Request]time.Time
	room    *sync.Cond // a ring may have room again
	ended   atomic.Bool
	wg      sync.WaitGroup
}

// forward runs until the file system is unmounted or fails; it returns nil for the first.
func forward(fuseFD int, fe *frontend.Frontend) error {
	f := &forwarder{
		fuse:    fuseFD,
		c:       fuseclient.New(fe, fuseclient.Options{Polled: true, MaxData: linuxData}),
		slots:   make(chan struct{}, inFlight),
		started: map[*fuseclient.Request]time.Time{},
	}
	f.room = sync.NewCond(&f.mu)
	ended := make(chan error, readers+1+fe.NumQueues())
	for i := range readers {
		go func() { ended <- f.read(1 + i%f.c.NumRequestQueues()) }()
	}
	for i := range fe.NumQueues() {
		f.wg.Add(1)
		go f.reap(i)
	}
	go f.watch(ended)
	err := <-ended
	f.ended.Store(true)
	for i := range fe.NumQueues() {
		fe.Queue(i).Wake()
	}
	f.wg.Wait()
	return err
}

// read takes requests from the kernel.
func (f *forwarder) read(queue int) error {
	for {
		f.slots <- struct{}{}
		r, err := f.c.Acquire(queue)
		if err != nil {
			return err
		}
		in, data := r.Memory()
		n, err := unix.Readv(f.fuse, [][]byte{in[:splitAt], data})
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted before it was read
			f.release(r)
			continue
		case unix.ENODEV:
			return nil // unmounted
		default:
			return fmt.Errorf("read /dev/fuse: %w", err)
		}
		if n < inHeader {
			return fmt.Errorf("a request of %d bytes from /dev/fuse", n)
		}
		if err := f.submit(queue, r, in, data, n); err != nil {
			return err
		}
	}
}

func (f *forwarder) release(r *fuseclient.Request) {
	f.c.Release(r)
	<-f.slots
}

func (f *forwarder) submit(queue int, r *fuseclient.Request, in, data []byte, n int) error {
	op := fuseclient.Opcode(binary.LittleEndian.Uint32(in[4:]))
	args, sent := n-inHeader, 0
	switch {
	case n <= splitAt:
	case op == fuseclient.OpWrite || n > len(in):
		args, sent = splitAt-inHeader, n-splitAt
	default:
		copy(in[splitAt:], data[:n-splitAt])
	}
	r.SetArgs(args)
	r.SendData(sent)
	if forgets(op) {
		queue = 0
		r.NoReply()
	} else {
		expect(r, op, in)
	}
	return f.send(queue, r, op)
}

func forgets(op fuseclient.Opcode) bool {
	return op == fuseclient.OpForget || op == fuseclient.OpBatchForget || op == fuseclient.OpInterrupt
}

func (f *forwarder) send(queue int, r *fuseclient.Request, op fuseclient.Opcode) error {
	f.mu.Lock()
	if op != fuseclient.OpSetlkw && op != fuseclient.OpPoll {
		f.started[r] = time.Now()
	}
	for {
		err := r.SubmitAsIs(queue)
		if err == nil {
			break
		}
		if err != frontend.ErrFull {
			f.mu.Unlock()
			return err
		}
		f.room.Wait()
	}
	f.mu.Unlock()
	return f.c.Kick(queue)
}

// expect says how long the reply may be, as the kernel's callers do.
func expect(r *fuseclient.Request, op fuseclient.Opcode, in []byte) {
	le := binary.LittleEndian
	switch op {
	case fuseclient.OpLookup, fuseclient.OpSymlink, fuseclient.OpMknod, fuseclient.OpMkdir, fuseclient.OpLink:
		r.Expect(128, false)
	case fuseclient.OpGetattr, fuseclient.OpSetattr:
		r.Expect(104, false)
	case fuseclient.OpCreate, fuseclient.OpTmpfile:
		r.Expect(144, false)
	case fuseclient.OpOpen, fuseclient.OpOpendir:
		r.Expect(16, false)
	case fuseclient.OpWrite, fuseclient.OpLseek, fuseclient.OpCopyFileRange, fuseclient.OpCopyFileRange64,
		fuseclient.OpBmap, fuseclient.OpPoll:
		r.Expect(8, false)
	case fuseclient.OpStatfs:
		r.Expect(80, false)
	case fuseclient.OpInit:
		r.Expect(64, true)
	case fuseclient.OpGetlk:
		r.Expect(24, false)
	case fuseclient.OpStatx:
		r.Expect(288, false)
	case fuseclient.OpReadlink:
		r.ExpectData(4096)
	case fuseclient.OpRead, fuseclient.OpReaddir, fuseclient.OpReaddirplus:
		r.ExpectData(int(min(le.Uint32(in[inHeader+16:]), linuxData)))
	case fuseclient.OpGetxattr, fuseclient.OpListxattr:
		if size := le.Uint32(in[inHeader:]); size > 0 {
			r.ExpectData(int(min(size, linuxData)))
		} else {
			r.Expect(8, false)
		}
	case fuseclient.OpIoctl:
		r.Expect(16, false)
		r.ExpectData(int(min(le.Uint32(in[inHeader+28:]), linuxData)))
	}
}

// reap takes replies to the kernel.
func (f *forwarder) reap(queue int) {
	defer f.wg.Done()
	var done [64]*fuseclient.Request
	for !f.ended.Load() {
		n := f.c.Reap(queue, done[:])
		if n == 0 {
			if err := f.c.Wait(queue); err != nil {
				fmt.Fprintln(os.Stderr, "fusebridge: wait for the queue:", err)
				return
			}
			continue
		}
		f.mu.Lock()
		for _, r := range done[:n] {
			delete(f.started, r)
		}
		f.room.Broadcast()
		f.mu.Unlock()
		for _, r := range done[:n] {
			if queue != 0 {
				f.reply(r)
			}
			f.release(r)
		}
	}
}

func (f *forwarder) reply(r *fuseclient.Request) {
	out, data := r.RawReply()
	if r.Err != 0 {
		// Also where the reply was at fault and has no good header.
		binary.LittleEndian.PutUint32(out, uint32(len(out)))
		binary.LittleEndian.PutUint32(out[4:], uint32(-int32(r.Err)))
		binary.LittleEndian.PutUint64(out[8:], r.Header().Unique)
	}
	iov := [][]byte{out}
	if len(data) > 0 {
		iov = append(iov, data)
	}
	for {
		_, err := unix.Writev(f.fuse, iov)
		switch err {
		case unix.EINTR:
			continue
		case nil, unix.ENOENT, unix.ENODEV: // interrupted, or unmounted meanwhile
		default:
			fmt.Fprintf(os.Stderr, "fusebridge: the kernel refuses a reply to opcode %d: %v\n", r.Header().Opcode, err)
		}
		return
	}
}

// watch ends the bridge when a request waits for too long.
func (f *forwarder) watch(ended chan<- error) {
	for !f.ended.Load() {
		time.Sleep(time.Second)
		f.mu.Lock()
		for r, t := range f.started {
			if time.Since(t) > answerIn {
				h := r.Header()
				f.mu.Unlock()
				ended <- fmt.Errorf("no reply to opcode %d on node %d within %v", h.Opcode, h.NodeId, answerIn)
				return
			}
		}
		f.mu.Unlock()
	}
}
