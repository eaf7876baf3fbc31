package fuseclient

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

// Options say how a Client makes its requests.
type Options struct {
	Layout  Layout
	SegSize int // bytes of data in one descriptor; default a page
	MaxData int // room for data in one request; default 1 MiB, or what the queue has descriptors for
	// Timeout is how long the daemon may take for a request; default 30 s.
	Timeout time.Duration
	// Polled leaves completions to Reap: the operations' methods cannot be used.
	Polled bool
	// Offer is the set of INIT flags that are offered; 0 is what Linux 7.2 offers over virtio without DAX.
	Offer uint64
}

// LinuxInitFlags is what Linux 7.2 offers over virtio-fs without a DAX window.
const LinuxInitFlags uint64 = fuse.CAP_ASYNC_READ | fuse.CAP_POSIX_LOCKS | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_EXPORT_SUPPORT |
	fuse.CAP_BIG_WRITES | fuse.CAP_DONT_MASK | fuse.CAP_SPLICE_WRITE | fuse.CAP_SPLICE_MOVE | fuse.CAP_SPLICE_READ |
	fuse.CAP_FLOCK_LOCKS | fuse.CAP_IOCTL_DIR | fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_READDIRPLUS |
	fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_NO_OPEN_SUPPORT |
	fuse.CAP_PARALLEL_DIROPS | fuse.CAP_HANDLE_KILLPRIV | fuse.CAP_POSIX_ACL | fuse.CAP_ABORT_ERROR |
	fuse.CAP_MAX_PAGES | fuse.CAP_CACHE_SYMLINKS | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_EXPLICIT_INVAL_DATA |
	fuse.CAP_SUBMOUNTS | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_INIT_EXT |
	fuse.CAP_SECURITY_CTX | fuse.CAP_CREATE_SUPP_GROUP | fuse.CAP_HAS_EXPIRE_ONLY | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
	fuse.CAP_NO_EXPORT_SUPPORT | fuse.CAP_HAS_RESEND | fuse.CAP_ALLOW_IDMAP | fuse.CAP_REQUEST_TIMEOUT

// Client sends FUSE requests on all request queues of a front-end.
type Client struct {
	fe     *frontend.Frontend
	opts   Options
	queues []*queue // by index; 0 is hiprio
	unique atomic.Uint64
	turn   atomic.Uint32
	stop   chan struct{}
	closed atomic.Bool
	wg     sync.WaitGroup

	// Sent and Got are the two halves of INIT, and Flags what is in force after it.
	Sent, Got struct {
		Major, Minor, MaxReadahead uint32
		Flags                      uint64
		Reply                      fuse.InitOut // only of Got
	}
	Flags uint64
}

// queue is a virtqueue's requests.
type queue struct {
	fq *frontend.Queue

	mu       sync.Mutex
	free     []*Request
	pending  map[*Request]struct{}
	slotFree *sync.Cond // the ring has room again; its lock is mu

	done [256]*frontend.Chain
}

// New makes a client for a front-end that is started. It sends nothing.
func New(fe *frontend.Frontend, o Options) *Client {
	if o.SegSize == 0 {
		o.SegSize = frontend.PageSize
	}
	if o.MaxData == 0 {
		o.MaxData = 1 << 20
	}
	o.MaxData = min(o.MaxData, (fe.Queue(fe.NumQueues()-1).Size()-4)*o.SegSize)
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Offer == 0 {
		o.Offer = LinuxInitFlags
	}
	c := &Client{fe: fe, opts: o, stop: make(chan struct{})}
	for i := range fe.NumQueues() {
		q := &queue{fq: fe.Queue(i), pending: map[*Request]struct{}{}}
		q.slotFree = sync.NewCond(&q.mu)
		c.queues = append(c.queues, q)
		if !o.Polled {
			c.wg.Add(1)
			go c.completions(q)
		}
	}
	if !o.Polled {
		c.wg.Add(1)
		go c.watch()
	}
	return c
}

// Close ends the client's goroutines; it sends nothing. Requests in flight are failed.
func (c *Client) Close() {
	if c.opts.Polled || c.closed.Swap(true) {
		return
	}
	close(c.stop)
	for _, q := range c.queues {
		q.fq.Wake()
	}
	c.wg.Wait()
	c.Abort()
}

// Frontend is the front-end the client uses; MaxData the largest READ or WRITE.
func (c *Client) Frontend() *frontend.Frontend { return c.fe }
func (c *Client) MaxData() int                 { return c.opts.MaxData }

// NumRequestQueues counts the queues besides hiprio.
func (c *Client) NumRequestQueues() int { return len(c.queues) - 1 }

// Linux counts in twos: bit 0 marks interrupts.
func (c *Client) nextUnique() uint64 { return c.unique.Add(2) }

// LastUnique is the number of the request made last.
func (c *Client) LastUnique() uint64 { return c.unique.Load() }

// Acquire gives a request of a queue that is not in use, or makes one.
func (c *Client) Acquire(queue int) (*Request, error) {
	q := c.queues[queue]
	q.mu.Lock()
	if n := len(q.free); n > 0 {
		r := q.free[n-1]
		q.free = q.free[:n-1]
		q.mu.Unlock()
		return r, nil
	}
	q.mu.Unlock()
	return c.newRequest(q)
}

// Release gives a completed request back.
func (c *Client) Release(r *Request) {
	if r.submitted {
		return // the device may still write to it
	}
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	r.q.free = append(r.q.free, r)
}

// Kick tells the device of what was submitted to a queue.
func (c *Client) Kick(queue int) error { return c.queues[queue].fq.Kick() }

// Reap takes completed requests of a queue, at most len(done), without waiting. For a Polled client, by one goroutine.
func (c *Client) Reap(queue int, done []*Request) int {
	q := c.queues[queue]
	n := q.fq.Poll(q.done[:min(len(done), len(q.done))])
	for i := range n {
		r := q.done[i].Tag.(*Request)
		r.complete()
		done[i] = r
	}
	return n
}

// Wait returns when Reap may find something.
func (c *Client) Wait(queue int) error { return c.queues[queue].fq.Wait() }

func (c *Client) completions(q *queue) {
	defer c.wg.Done()
	for {
		n := q.fq.Poll(q.done[:])
		if n == 0 {
			select {
			case <-c.stop:
				return
			default:
			}
			if err := q.fq.Wait(); err != nil {
				c.fe.Fault(fmt.Sprintf("wait for queue %d: %v", q.fq.Index(), err))
				return
			}
			continue
		}
		q.mu.Lock()
		for _, chain := range q.done[:n] {
			r := chain.Tag.(*Request)
			if _, ok := q.pending[r]; ok {
				r.complete()
				delete(q.pending, r)
				r.done <- struct{}{}
			}
		}
		q.slotFree.Broadcast()
		q.mu.Unlock()
	}
}

// watch fails requests that the daemon does not answer in time.
func (c *Client) watch() {
	defer c.wg.Done()
	tick := time.NewTicker(min(time.Second, c.opts.Timeout/4))
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case now := <-tick.C:
			c.fail(func(r *Request) bool {
				late := !r.NoTimeout && now.After(r.deadline)
				if late {
					r.fault("%v", errTimeout)
				}
				return late
			})
		}
	}
}

// Abort fails all requests in flight with ETIMEDOUT: for a device that was reset or whose daemon is gone for good.
func (c *Client) Abort() { c.fail(func(*Request) bool { return true }) }

func (c *Client) fail(which func(*Request) bool) {
	for _, q := range c.queues {
		q.mu.Lock()
		for r := range q.pending {
			if r.submitted && which(r) {
				delete(q.pending, r)
				r.Err = unix.ETIMEDOUT
				r.done <- struct{}{}
			}
		}
		q.mu.Unlock()
	}
}

// begin takes a request of the next request queue in turn.
func (c *Client) begin(op Opcode, node uint64, who Caller) *Request {
	i := 1 + int(c.turn.Add(1))%(len(c.queues)-1)
	return c.beginOn(i, op, node, who)
}

func (c *Client) beginOn(queue int, op Opcode, node uint64, who Caller) *Request {
	r, err := c.Acquire(queue)
	if err != nil {
		panic(err) // guest memory used up: a test asked for more requests than it gave memory
	}
	r.Begin(op, node, who)
	return r
}
