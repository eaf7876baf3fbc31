package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is one end of a vhost-user socket. Send and Recv may be used by one goroutine each; Close by any.
type Conn struct {
	fd      int
	closeMu sync.RWMutex // shared while a system call uses fd
	closed  bool
	// closing is set before the socket is shut down.
	closing atomic.Bool
}

// Dial connects to a daemon's socket. Every receive gives up after timeout.
func Dial(path string, timeout time.Duration) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	for deadline := time.Now().Add(time.Second); err == unix.ECONNREFUSED && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // the socket is bound and not yet listened to
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return NewConn(fd, timeout)
}

// NewConn takes ownership of a connected socket, also when it fails. A timeout of 0 waits for ever.
func NewConn(fd int, timeout time.Duration) (*Conn, error) {
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &tv); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("set a timeout on the socket: %w", err)
		}
	}
	return &Conn{fd: fd}, nil
}

// Close ends the connection and wakes whoever is in Recv.
func (c *Conn) Close() error {
	c.closeMu.RLock()
	c.closing.Store(true)
	if !c.closed {
		unix.Shutdown(c.fd, unix.SHUT_RDWR) // makes a blocked receive let go of the lock
	}
	c.closeMu.RUnlock()
	c.closeMu.Lock()
	defer c.closeMu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return unix.Close(c.fd)
}

// Send writes a whole message with its descriptors, which stay the caller's.
func (c *Conn) Send(m Message, fds ...int) error {
	return c.SendRaw(m.Encode(), fds...)
}

// SendRaw writes any bytes; the descriptors go with the first of them.
func (c *Conn) SendRaw(b []byte, fds ...int) error {
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	if c.closed {
		return unix.EBADF
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil && c.closing.Load() {
			return unix.EBADF
		}
		if err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}

// Recv reads one message. The descriptors become the caller's. io.EOF means that the peer closed the connection
// between two messages.
func (c *Conn) Recv() (Message, []int, error) {
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	if c.closed {
		return Message{}, nil, unix.EBADF
	}
	hdr := make([]byte, headerSize)
	fds, err := c.read(hdr)
	if err != nil {
		closeAll(fds)
		return Message{}, nil, err
	}
	le := binary.LittleEndian
	m := Message{Request: Request(le.Uint32(hdr)), Flags: le.Uint32(hdr[4:])}
	size := le.Uint32(hdr[8:])
	if m.Flags&versionMask != FlagVersion || size > 1<<16 {
		closeAll(fds)
		return m, nil, fmt.Errorf("%w: %v with flags %#x and size %d", errProtocol, m.Request, m.Flags, size)
	}
	m.Payload = make([]byte, size)
	more, err := c.read(m.Payload)
	fds = append(fds, more...)
	if err != nil {
		closeAll(fds)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return m, nil, err
	}
	return m, fds, nil
}

// waitReadable returns when Recv would not wait.
func (c *Conn) waitReadable() {
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	for !c.closed {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

var errProtocol = errors.New("the daemon broke the vhost-user protocol")

func (c *Conn) read(b []byte) (fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(16*4))
	for got := 0; got < len(b); {
		n, oobn, _, _, err := unix.Recvmsg(c.fd, b[got:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return fds, unix.ETIMEDOUT
		case err != nil:
			return fds, err
		}
		if oobn > 0 {
			msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil {
				return fds, err
			}
			for i := range msgs {
				if f, err := unix.ParseUnixRights(&msgs[i]); err == nil {
					fds = append(fds, f...)
				}
			}
		}
		if n == 0 {
			if c.closing.Load() {
				return fds, unix.EBADF // the end of the stream is our own doing
			}
			if got > 0 {
				return fds, io.ErrUnexpectedEOF
			}
			return fds, io.EOF
		}
		got += n
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
