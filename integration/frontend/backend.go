package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// backend is the backend channel: a goroutine that serves it as QEMU's main loop does, only while it has the big lock.
type backend struct {
	conn *Conn
	done chan struct{}
}

func (f *Frontend) openBackend() error {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket pair for the backend channel: %w", err)
	}
	conn, err := NewConn(sp[0], 0)
	if err != nil {
		unix.Close(sp[1])
		return err
	}
	b := &backend{conn: conn, done: make(chan struct{})}
	f.backend = b
	go f.serveBackend(b)
	err = f.sendSync(SetBackendReqFD, nil, sp[1])
	unix.Close(sp[1])
	return err
}

func (f *Frontend) serveBackend(b *backend) {
	defer close(b.done)
	defer b.conn.Close()
	for {
		// QEMU reads a message only when its main loop runs, so that one may wait in the socket while the device is stopped.
		b.conn.waitReadable()
		f.bql.Lock()
		m, fds, err := b.conn.Recv()
		if err == nil {
			err = f.handleBackend(b, m, fds)
			closeAll(fds)
		} else if err != io.EOF && err != unix.EBADF && err != unix.ECONNRESET {
			f.fault("backend channel: %v", err)
		}
		f.bql.Unlock()
		if err != nil {
			f.logf("backend channel closed: %v", err)
			return
		}
	}
}

var backendNames = map[Request]string{
	BackendConfigChange: "CONFIG_CHANGE_MSG", BackendShmemMap: "SHMEM_MAP", BackendShmemUnmap: "SHMEM_UNMAP",
}

func (f *Frontend) handleBackend(b *backend, m Message, fds []int) error {
	name := backendNames[m.Request]
	if name == "" {
		name = fmt.Sprintf("backend request %d", m.Request)
	}
	f.logf("<= %s flags %#x, %d bytes, %d fds", name, m.Flags, len(m.Payload), len(fds))
	var commit func()
	var refusal error
	switch m.Request {
	case BackendShmemMap, BackendShmemUnmap:
		if f.started {
			commit, refusal = f.shmem(m, fds)
			break
		}
		f.fault("%s while the device is stopped: QEMU dereferences a null pointer", name)
		refusal = errors.New("QEMU has crashed")
	case BackendConfigChange:
		if !f.started {
			f.fault("%s while the device is stopped: QEMU dereferences a null pointer", name)
		}
	default:
		refusal = fmt.Errorf("QEMU knows no %s", name)
	}
	if refusal != nil {
		f.logf("%s refused: %v", name, refusal)
	}
	if m.Flags&FlagNeedReply != 0 {
		code := uint64(0)
		if refusal != nil {
			code = 1
		}
		reply := Message{Request: m.Request, Flags: m.Flags&^FlagNeedReply | FlagReply, Payload: u64s(code)}
		if err := b.conn.Send(reply); err != nil {
			return err
		}
	}
	if commit != nil {
		time.Sleep(f.opts.CommitDelay)
		commit()
	}
	return nil
}

// shmem checks a map or unmap by QEMU's rules. What it returns makes the change; that is after the reply.
func (f *Frontend) shmem(m Message, fds []int) (commit func(), refusal error) {
	if f.Window == nil {
		return nil, fmt.Errorf("there is no window")
	}
	if len(m.Payload) != mmapSize {
		f.fault("SHMEM request of %d bytes, not %d", len(m.Payload), mmapSize)
		return nil, fmt.Errorf("wrong size")
	}
	if m.Flags&FlagNeedReply != 0 && f.protocol&ProtocolReplyAck == 0 {
		f.fault("SHMEM request with the need-reply flag without REPLY_ACK")
	}
	le := binary.LittleEndian
	p := Mapping{
		ShmID: m.Payload[0], FileOffset: le.Uint64(m.Payload[8:]), Offset: le.Uint64(m.Payload[16:]),
		Len: le.Uint64(m.Payload[24:]), Flags: le.Uint64(m.Payload[32:]), fd: -1,
	}
	var err error
	if m.Request == BackendShmemMap {
		err = f.Window.prepareMap(&p, fds)
	} else {
		err = f.Window.prepareUnmap(p)
	}
	if err != nil {
		return nil, err
	}
	return func() {
		if m.Request == BackendShmemMap {
			if err := f.Window.commitMap(p); err != nil {
				f.fault("mmap of %v failed after the reply: %v", p, err)
				return
			}
		} else {
			f.Window.commitUnmap(p)
		}
		// vhost's commit callback: the mapping comes to the daemon as a memory region, or goes.
		if err := f.sendMemory(); err != nil && !errors.Is(err, unix.EBADF) {
			f.fault("memory table after %s: %v", backendNames[m.Request], err)
		}
	}, nil
}
