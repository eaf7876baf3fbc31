package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// message is one received message. fds are owned by it until taken.
type message struct {
	request   Request
	needReply bool
	payload   []byte
	fds       []int
	// vring is the index of the ring it is about, where its rule has one.
	vring uint64
}

// takeFD passes the ownership of descriptor i to the caller.
func (m *message) takeFD(i int) int {
	fd := m.fds[i]
	m.fds[i] = -1
	return fd
}

// closeFDs closes the descriptors that were not taken.
func (m *message) closeFDs() {
	closeFDs(m.fds)
	m.fds = m.fds[:0]
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// conn moves messages over one Unix stream socket. One goroutine may receive
// while another sends.
type conn struct {
	sock *net.UnixConn
	in   [maxPayload]byte
	oob  []byte
	fds  [maxFDs]int
	out  []byte
}

func newConn(sock *net.UnixConn) *conn {
	return &conn{
		sock: sock,
		oob:  make([]byte, unix.CmsgSpace(maxFDs*4)),
		out:  make([]byte, 0, headerSize+maxPayload),
	}
}

// receiveHeader reads a header and the descriptors that come with its first
// byte, which the caller owns, on an error as well. At the end of the stream
// before a first byte it returns io.EOF. With errTruncated the header is valid.
func (c *conn) receiveHeader() (header, []int, error) {
	var b [headerSize]byte
	fds := c.fds[:0]
	var truncated error
	for n := 0; n < len(b); {
		more, all, err := c.receive(b[n:], fds)
		fds = all
		switch {
		case errors.Is(err, errTruncated):
			truncated = err
		case err != nil && n > 0:
			return header{}, fds, unexpectedEOF(err)
		case err != nil:
			return header{}, fds, err
		}
		n += more
	}
	return decodeHeader(b[:]), fds, truncated
}

// receivePayload reads size bytes, which are valid until the next call.
// Descriptors belong to the header; ones that come here are closed and an error.
func (c *conn) receivePayload(size uint32) ([]byte, error) {
	b := c.in[:size]
	for n := 0; n < len(b); {
		var late [maxFDs]int
		more, fds, err := c.receive(b[n:], late[:0])
		if err == nil && len(fds) > 0 {
			err = errLateFDs
		}
		closeFDs(fds)
		if err != nil {
			return nil, unexpectedEOF(err)
		}
		n += more
	}
	return b, nil
}

var (
	errLateFDs   = errors.New("file descriptors came after the message's first bytes")
	errTruncated = fmt.Errorf("more than %d file descriptors, or other control data, came with it", maxFDs)
)

// receive reads at least one byte into b and appends descriptors to fds.
func (c *conn) receive(b []byte, fds []int) (int, []int, error) {
	// The net package sets MSG_CMSG_CLOEXEC.
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(b, c.oob)
	var parseErr error
	if oobn > 0 {
		fds, parseErr = appendRights(fds, c.oob[:oobn])
	}
	switch {
	case err != nil:
		return n, fds, err
	case n == 0:
		return n, fds, io.EOF
	case flags&unix.MSG_CTRUNC != 0 || parseErr != nil:
		return n, fds, errTruncated
	}
	return n, fds, nil
}

// appendRights appends the descriptors of the control data oob to fds. All of
// them are appended or closed, whatever the error.
func appendRights(fds []int, oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		rights, parseErr := unix.ParseUnixRights(&msgs[i])
		if parseErr != nil {
			err = parseErr
			continue
		}
		for _, fd := range rights {
			if len(fds) == maxFDs {
				_ = unix.Close(fd)
				err = errTruncated
				continue
			}
			fds = append(fds, fd)
		}
	}
	return fds, err
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send writes one message, with the descriptor fd unless it is negative. fill
// appends the payload. fd stays the caller's.
func (c *conn) send(request, flags uint32, fd int, fill func(b []byte) []byte) error {
	b, oob := c.encode(request, flags, fd, fill)
	n, _, err := c.sock.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.sock.Write(b[n:])
	}
	return err
}

var errPartial = errors.New("message sent in part")

// sendNow writes b, or fails with EAGAIN where that would wait.
func (c *conn) sendNow(b, oob []byte) error {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var sendErr error
	err = raw.Control(func(sock uintptr) {
		n, sendErr = unix.SendmsgN(int(sock), b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	switch {
	case err != nil:
		return err
	case sendErr != nil:
		return sendErr
	case n < len(b):
		return errPartial
	}
	return nil
}

// unread says whether something that was sent is still in the socket.
func (c *conn) unread() bool {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return false
	}
	unread := false
	_ = raw.Control(func(sock uintptr) {
		n, err := unix.IoctlGetInt(int(sock), unix.SIOCOUTQ)
		unread = err == nil && n > 0
	})
	return unread
}

func (c *conn) encode(request, flags uint32, fd int, fill func(b []byte) []byte) (b, oob []byte) {
	b = c.out[:headerSize]
	if fill != nil {
		b = fill(b)
	}
	header{request, flags | flagVersion, uint32(len(b) - headerSize)}.encode(b)
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	return b, oob
}
