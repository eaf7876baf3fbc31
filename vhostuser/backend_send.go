package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// QEMU reads a request whenever its main loop comes round, and crashes if the
// device has been stopped since it was sent. A request that is in the socket
// cannot be called back. So the first byte of a message goes out alone, with the
// descriptor. When the front-end has taken it, it is reading this message, and
// QEMU does so with its big lock held, waiting for the rest: no stop can begin
// before it has carried the request out. When a stop comes while the byte is still
// in the socket, the rest makes it a message of an unknown kind, which QEMU
// reports in its log and ignores.

// voidRequest, with the first byte of a request in its low byte, is a kind of
// message that does not exist.
const voidRequest = 0x7fffff00

// How often the socket is looked at: at first whenever others have had the
// processor, for as long as QEMU waits for the rest of a message all of its
// device emulation does; less and less often if QEMU does not come round, being
// stopped by a debugger, say.
const (
	yields    = 100
	pollPause = 50 * time.Microsecond
	pollMany  = 2000 // looks before the pause grows
	pollMost  = 2 * time.Millisecond
)

// ask makes one request and waits for its reply.
func (ch *BackendChannel) ask(ctx context.Context, code BackendRequest, fd int, c *commit, fill func(b []byte) []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ch.mu.Lock()
	err, stopped := ch.state.error(), ch.stopped
	ch.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case ch.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-stopped:
		return ErrSuspended
	}
	r := &request{code: code, done: make(chan struct{}), mapped: c}
	err = ch.begin(r, fd, fill)
	for looks := 0; err == nil; looks++ {
		var sent bool
		if sent, err = ch.complete(ctx, r); sent {
			break
		}
		switch {
		case looks < yields:
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		case looks < pollMany:
			time.Sleep(pollPause)
		default:
			time.Sleep(pollMost)
		}
	}
	if err != nil {
		<-ch.turn
		return err
	}
	select {
	case <-r.done:
		return r.result
	case <-ctx.Done():
		return errors.Join(ctx.Err(), ErrUncertain)
	}
}

// begin sends the first byte of r.
func (ch *BackendChannel) begin(r *request, fd int, fill func(b []byte) []byte) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if err := ch.state.error(); err != nil {
		return err
	}
	b, oob := ch.conn.encode(uint32(r.code), flagNeedReply, fd, fill)
	if err := ch.conn.sendNow(b[:1], oob); err != nil {
		if errors.Is(err, unix.EPIPE) {
			ch.shut(err)
			return errors.Join(ErrChannelClosed, err)
		}
		// The kernel took nothing of it.
		return fmt.Errorf("vhost-user: sending %v: %w", r.code, err)
	}
	r.rest = append([]byte(nil), b[1:]...)
	ch.begun = r
	return nil
}

// complete sends the rest of r if the front-end has taken the first byte, and
// queues r for its reply, which from then on has the turn.
func (ch *BackendChannel) complete(ctx context.Context, r *request) (sent bool, err error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	switch {
	case ch.begun != r:
		return false, r.result
	case ctx.Err() != nil:
		ch.void(ctx.Err())
		return false, ctx.Err()
	case ch.conn.unread():
		return false, nil
	}
	ch.begun = nil
	if err := ch.conn.sendNow(r.rest, nil); err != nil {
		ch.shut(err)
		return false, errors.Join(ErrChannelClosed, err)
	}
	ch.expected = append(ch.expected, r)
	if r.mapped != nil {
		ch.commits.await(r.mapped)
	}
	return true, nil
}

// void takes back the request that is begun, if there is one. mu is held.
func (ch *BackendChannel) void(why error) {
	r := ch.begun
	if r == nil {
		return
	}
	ch.begun = nil
	r.finish(why)
	var b [headerSize]byte
	header{voidRequest | uint32(r.code), flagVersion, 0}.encode(b[:])
	if err := ch.conn.sendNow(b[1:], nil); err != nil {
		ch.shut(err)
	}
}
