package dax

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A link joins the daemon to the process that serves the backing mount: a
// SOCK_SEQPACKET pair on which the daemon sends one message and reads one
// answer. There are several, so that one slow call does not hold up the others;
// each is read by a thread of the server that does nothing else.
type link struct {
	fd  int
	buf []byte
	oob []byte
}

type linkOp uint32

const (
	// opHello asks for nothing; its answer carries the mount (first link only).
	opHello linkOp = iota + 1
	// opBind makes window range Index show File from offset Off. It carries a
	// descriptor if that replaces the file's. Answer EBUSY: pages of nothing
	// may be cached there.
	opBind
	// opFreeze begins an exclusion over the spans: READs that overlap them
	// are served and noted.
	opFreeze
	// opPark ends a pass of invalidation. Answer: the spans of READs served
	// since the pass began; if none, READs over the frozen spans now wait.
	opPark
	// opNoWrite holds back WRITEs to File until opThaw, after those that have
	// begun are done.
	opNoWrite
	// opThaw ends an exclusion; with flagUnbind its ranges show no file
	// from then on.
	opThaw
	// opForget closes the server's descriptor of File, and answers as opError.
	opForget
	// opError answers the first error of a WRITE to File since the last such
	// question.
	opError
	// opLost answers on which mounts files are whose WRITEs have failed since
	// the last such question: pairs of a mount's id and an errno. If it answers
	// maxLost pairs there may be more.
	opLost
	// opExport gives File its descriptor and, with flagPassthrough, a name in
	// the mount.
	opExport
	// opEnd tells that the pages of File in the window's cache hold data up to off.
	opEnd
	// opExact has File read no further than asked for.
	opExact
	// opCounters answers the counters of the server.
	opCounters
	// opFaults answers the faults of each range from the one with index off on, of
	// maxFaults at most.
	opFaults
	// opResident tells what the engine does; without a flag, that it has freed
	// off bytes.
	opResident
)

const (
	flagWritable    = 1 << iota // opBind, opExport: the descriptor may be written to
	flagUnbind                  // opThaw
	flagEnd                     // opThaw: opEnd for the file whose WRITEs were held back
	flagClean                   // opBind: the caller has just excluded and invalidated the range
	flagPassthrough             // opExport
	flagMeasuring               // opResident: it looks at what is resident; the answer's off is how many threads may fault at a time
	flagMeasured                // opResident: off is what is resident
	flagStep                    // opResident: it takes the span next; if there is none it waits for a lock
	flagIdle                    // opResident: it sleeps, and wants to be woken
	flagNothing                 // opResident, with flagIdle: it can take nothing
	flagLitter                  // answer to opBind: pages without content may be in the way
)

// message is what crosses a link, in both directions.
type message struct {
	op     linkOp
	errno  uint32 // answers
	id     uint32 // of an exclusion
	index  uint32
	flags  uint32
	file   uint64
	off    uint64
	spans  []span
	values []uint64 // answers to opCounters, opFaults and opLost
	fd     int      // -1 for none; owned by the receiver
}

const messageHeader = 48

func (m *message) encode(b []byte) []byte {
	le := binary.LittleEndian
	b = b[:messageHeader]
	le.PutUint32(b[0:], uint32(m.op))
	le.PutUint32(b[4:], m.errno)
	le.PutUint32(b[8:], m.id)
	le.PutUint32(b[12:], m.index)
	le.PutUint32(b[16:], m.flags)
	le.PutUint32(b[20:], uint32(len(m.spans)))
	le.PutUint64(b[24:], m.file)
	le.PutUint64(b[32:], m.off)
	le.PutUint64(b[40:], uint64(len(m.values)))
	for _, s := range m.spans {
		b = le.AppendUint64(b, s.Off)
		b = le.AppendUint64(b, s.Len)
	}
	for _, v := range m.values {
		b = le.AppendUint64(b, v)
	}
	return b
}

func (m *message) decode(b []byte) error {
	le := binary.LittleEndian
	if len(b) < messageHeader {
		return fmt.Errorf("dax: message of %d bytes", len(b))
	}
	m.op = linkOp(le.Uint32(b[0:]))
	m.errno = le.Uint32(b[4:])
	m.id = le.Uint32(b[8:])
	m.index = le.Uint32(b[12:])
	m.flags = le.Uint32(b[16:])
	n := int(le.Uint32(b[20:]))
	m.file = le.Uint64(b[24:])
	m.off = le.Uint64(b[32:])
	v := int(le.Uint64(b[40:]))
	if n < 0 || v < 0 || n > len(b) || v > len(b) || len(b) != messageHeader+16*n+8*v {
		return fmt.Errorf("dax: message of %d bytes with %d spans and %d values", len(b), n, v)
	}
	m.spans, m.values = m.spans[:0], m.values[:0]
	b = b[messageHeader:]
	for range n {
		m.spans = append(m.spans, span{le.Uint64(b), le.Uint64(b[8:])})
		b = b[16:]
	}
	for range v {
		m.values = append(m.values, le.Uint64(b))
		b = b[8:]
	}
	return nil
}

// maxFaults is how many ranges one answer to opFaults tells of: a message has to fit
// into what a socket takes at once.
const maxFaults = 8 << 10

const linkBuffer = messageHeader + 16*maxSpans + 8*maxFaults

func newLink(fd int) *link {
	return &link{fd: fd, buf: make([]byte, linkBuffer), oob: make([]byte, unix.CmsgSpace(4))}
}

// errLinkClosed says that the other side is gone.
var errLinkClosed = errors.New("dax: the process that serves the backing mount is gone")

func (l *link) send(m *message) error {
	b := m.encode(l.buf)
	for {
		var err error
		if m.fd >= 0 {
			_, err = unix.SendmsgN(l.fd, b, unix.UnixRights(m.fd), nil, unix.MSG_NOSIGNAL)
		} else {
			err = unix.Send(l.fd, b, unix.MSG_NOSIGNAL)
		}
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EPIPE || err == unix.ECONNRESET:
			return errLinkClosed
		}
		return err
	}
}

// receive reads a message that may carry a descriptor.
func (l *link) receive(m *message) error {
	m.fd = -1
	for {
		n, oobn, flags, _, err := unix.Recvmsg(l.fd, l.buf, l.oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET || err == nil && n == 0:
			return errLinkClosed
		case err != nil:
			return err
		}
		if oobn > 0 {
			if m.fd, err = oneRight(l.oob[:oobn]); err != nil {
				return err
			}
		}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			return errors.New("dax: message cut short")
		}
		return m.decode(l.buf[:n])
	}
}

// receivePlain reads a message without a descriptor, and does not allocate.
func (l *link) receivePlain(m *message) error {
	m.fd = -1
	for {
		n, err := unix.Read(l.fd, l.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET || err == nil && n == 0:
			return errLinkClosed
		case err != nil:
			return err
		}
		return m.decode(l.buf[:n])
	}
}

func oneRight(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	fd := -1
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fd, err
		}
		for _, f := range fds {
			if fd >= 0 {
				unix.Close(fd)
			}
			fd = f
		}
	}
	return fd, nil
}
