package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// BackendChannel makes requests of the front-end (VHOST_USER_BACKEND_*). Its
// methods may be called from any goroutine but that of the connection. One
// request at a time is under way; the others wait for their turn.
//
// Requests are made only while a ring is enabled. From the moment one is being
// disabled or stopped until one is enabled again, or until it shows that the
// others go on without it, they fail with
// [ErrSuspended], and so does one that the front-end has not begun to read:
// QEMU crashes if it reads a request while the device is stopped, and the
// specification forbids it. One that the front-end has begun to read before
// the stop is carried out before it (backend_send.go).
type BackendChannel struct {
	conn     *conn
	protocol ProtocolFeatures
	log      *slog.Logger
	turn     chan struct{} // holds one while a request is under way
	grace    time.Duration // commitGrace; constant
	apart    time.Duration // apartGrace; constant
	reading  sync.WaitGroup

	// mu is held while something is written, which never waits: so none goes
	// out once suspend has returned, and replies come in the order of expected.
	mu       sync.Mutex
	state    channelState
	begun    *request   // its first byte is sent and no more
	expected []*request // sent and not answered, in order
	commits  commits
	// stopped is closed when the state ceases to be running.
	stopped chan struct{}
	stops   uint64      // suspend was called
	later   *time.Timer // of resumeLater, the last one
}

type channelState uint8

const (
	suspended channelState = iota
	running
	closed
)

// request is one that was sent. Its fields belong to the channel's mu, but for
// done, after whose closing result is constant.
type request struct {
	code   BackendRequest
	rest   []byte // of the message, behind its first byte
	done   chan struct{}
	result error
	// mapped is the commit that a SHMEM_MAP waits for, or nil.
	mapped *commit
}

func (r *request) finished() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// newBackendChannel takes fd, on an error as well.
func newBackendChannel(fd int, protocol ProtocolFeatures, log *slog.Logger) (*BackendChannel, error) {
	f := os.NewFile(uintptr(fd), "vhost-user back-end channel")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("the front-end's descriptor for back-end requests can't be used (is it no socket?): %w", err)
	}
	sock, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("the front-end's descriptor for back-end requests is no Unix socket; report this as a bug of the front-end")
	}
	ch := &BackendChannel{
		conn:     newConn(sock),
		protocol: protocol,
		log:      log,
		turn:     make(chan struct{}, 1),
		grace:    commitGrace,
		apart:    apartGrace,
	}
	ch.reading.Add(1)
	go ch.readReplies()
	return ch, nil
}

// Mapping is a piece of a file in a shared memory region.
type Mapping struct {
	ShmID uint8
	// FD is the file to map. It stays the caller's; the front-end gets a
	// duplicate. ShmemUnmap needs none.
	FD int
	// FDOffset is the offset in the file, ShmOffset the one in the region and
	// Len the number of bytes; QEMU wants whole pages.
	FDOffset, ShmOffset, Len uint64
	// Writable asks for a writable mapping. QEMU needs FD to be open for
	// writing even without it.
	Writable bool
}

// ShmemMap maps m and returns when the front-end has committed the mapping, so
// that the guest can see it, which is some time after the front-end's reply. The
// range must be free.
//
// Errors: [ErrRefused], [ErrSuspended], [ErrChannelClosed], [ErrNotOffered], or
// ctx's; with [ErrUncertain] joined, the mapping may exist or come to exist.
func (ch *BackendChannel) ShmemMap(ctx context.Context, m Mapping) error {
	if err := ch.require(ProtocolSHMEM | ProtocolReplyAck | ProtocolBackendSendFD); err != nil {
		return err
	}
	id, err := identify(m.FD)
	if err != nil {
		return fmt.Errorf("vhost-user: identifying the file to map: %w", err)
	}
	c := newCommit(m, id)
	err = ch.ask(ctx, BackendShmemMap, m.FD, c, func(b []byte) []byte { return appendMmap(b, m) })
	if err != nil {
		ch.forget(c)
		return err
	}
	return ch.awaitCommit(ctx, c)
}

// ShmemUnmap removes a mapping, which must have been made with the same ShmID,
// ShmOffset and Len. On return the front-end has agreed; the guest may still see
// the pages for a moment, until the end of the next [BackendChannel.Barrier].
// Errors are those of ShmemMap; a mapping that does not exist is [ErrRefused].
func (ch *BackendChannel) ShmemUnmap(ctx context.Context, m Mapping) error {
	if err := ch.require(ProtocolSHMEM | ProtocolReplyAck); err != nil {
		return err
	}
	m.FDOffset = 0
	return ch.ask(ctx, BackendShmemUnmap, -1, nil, func(b []byte) []byte { return appendMmap(b, m) })
}

// Barrier returns when the front-end has carried out everything asked before:
// it takes requests one after the other, so its answer to a later one tells. It
// uses a notice of a configuration change, which no front-end objects to and
// the virtio-fs driver ignores; where that is not negotiated, an unmap of
// nothing, which is refused.
func (ch *BackendChannel) Barrier(ctx context.Context) error {
	if err := ch.require(ProtocolReplyAck); err != nil {
		return err
	}
	var err error
	if ch.require(ProtocolConfig) == nil {
		err = ch.ask(ctx, BackendConfigChange, -1, nil, nil)
	} else {
		err = ch.ShmemUnmap(ctx, Mapping{})
	}
	if errors.Is(err, ErrRefused) {
		return nil
	}
	return err
}

func (ch *BackendChannel) require(features ProtocolFeatures) error {
	if missing := features &^ ch.protocol; missing != 0 {
		return fmt.Errorf("%w: %v", ErrNotOffered, missing)
	}
	return nil
}

func (s channelState) error() error {
	switch s {
	case running:
		return nil
	case suspended:
		return ErrSuspended
	}
	return ErrChannelClosed
}

// readReplies matches replies to requests until the channel ends.
func (ch *BackendChannel) readReplies() {
	defer ch.reading.Done()
	var err error
	for err == nil {
		err = ch.readReply()
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		ch.log.Warn("vhost-user back-end channel ended, and no shared memory can be mapped any more; restart the virtual machine", "error", err)
	}
	ch.mu.Lock()
	ch.shut(err)
	ch.mu.Unlock()
}

func (ch *BackendChannel) readReply() error {
	h, fds, err := ch.conn.receiveHeader()
	closeFDs(fds)
	if err != nil {
		return err
	}
	if h.size != u64Size || h.flags&flagVersionMask != flagVersion || h.flags&flagReply == 0 || len(fds) != 0 {
		return &ProtocolError{
			Request: BackendRequest(h.request).String(),
			Fault:   fmt.Sprintf("reply with flags %#x, %d bytes and %d file descriptors", h.flags, h.size, len(fds)),
			Advice:  "report this as a bug of the front-end",
		}
	}
	payload, err := ch.conn.receivePayload(h.size)
	if err != nil {
		return err
	}
	return ch.answer(BackendRequest(h.request), le.Uint64(payload))
}

// answer gives the oldest request its reply.
func (ch *BackendChannel) answer(code BackendRequest, result uint64) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if len(ch.expected) == 0 || ch.expected[0].code != code {
		return &ProtocolError{Request: code.String(), Fault: "a reply that is not the next one expected", Advice: "report this as a bug of the front-end"}
	}
	r := ch.expected[0]
	ch.expected[0] = nil
	ch.expected = ch.expected[1:]
	<-ch.turn
	// The front-end has finished everything that it was asked before this.
	ch.commits.carriedOut()
	if result != 0 {
		r.finish(fmt.Errorf("%w: %v", ErrRefused, code))
		return nil
	}
	if c := r.mapped; c != nil {
		c.replied = true
		if ch.state == suspended {
			// What was agreed to before the stop is committed before it.
			c.finish(nil)
		}
	}
	r.finish(nil)
	return nil
}

// finish ends the wait for r, if it has not ended.
func (r *request) finish(result error) {
	if !r.finished() {
		r.result = result
		close(r.done)
	}
}

// replyGrace is how long the reply to a request may take that was sent before a
// stop. It is in the socket already, unless the front-end serves its two
// channels independently of each other.
const replyGrace = 500 * time.Millisecond

// suspend takes back the request that the front-end has not begun to read, and
// refuses new ones.
func (ch *BackendChannel) suspend() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.stops++
	if ch.state != running {
		return
	}
	ch.state = suspended
	close(ch.stopped)
	ch.void(ErrSuspended)
	ch.commits.suspend()
	for _, r := range ch.expected {
		time.AfterFunc(replyGrace, func() {
			ch.mu.Lock()
			defer ch.mu.Unlock()
			r.finish(errors.Join(ErrSuspended, ErrUncertain))
		})
	}
}

// apartGrace is how long it may take a front-end that stops the device to go from
// one ring to the next. If it takes longer nothing is lost: it has not stopped the
// device before it has told of the last ring, which suspends requests again.
const apartGrace = 2 * time.Second

// resumeLater allows requests if the rings that still run go on to do so.
func (ch *BackendChannel) resumeLater() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.later != nil {
		ch.later.Stop()
	}
	stops := ch.stops
	ch.later = time.AfterFunc(ch.apart, func() {
		ch.mu.Lock()
		defer ch.mu.Unlock()
		if ch.stops == stops {
			ch.resumeLocked()
		}
	})
}

// resume allows requests.
func (ch *BackendChannel) resume() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.resumeLocked()
}

func (ch *BackendChannel) resumeLocked() {
	if ch.state == suspended {
		ch.state = running
		ch.stopped = make(chan struct{})
	}
}

// shut ends the channel.
func (ch *BackendChannel) shut(cause error) {
	if ch.state == closed {
		return
	}
	if ch.state == running {
		close(ch.stopped)
	}
	ch.state = closed
	err := errors.Join(ErrChannelClosed, cause)
	if ch.begun != nil {
		ch.begun.finish(err)
		ch.begun = nil
	}
	err = errors.Join(err, ErrUncertain)
	for _, r := range ch.expected {
		r.finish(err)
	}
	ch.expected = nil
	ch.commits.failAll(err)
	_ = ch.conn.sock.Close()
}

// close ends the channel for the session and waits for its reader, which waits
// for nothing else.
func (ch *BackendChannel) close() {
	ch.mu.Lock()
	ch.shut(nil)
	ch.mu.Unlock()
	ch.reading.Wait()
}

// regionAdded is the session's news of a region in the memory table.
func (ch *BackendChannel) regionAdded(r knownRegion) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.commits.regionAdded(r)
}
