package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// waitingLock waits for a lock that the host holds until it is told to end.
type waitingLock struct {
	s      *session
	f      *os.File
	unlock bool // the lock was granted and is being given back
}

func besideLock(s *session) (lane, error) {
	f, err := os.OpenFile(s.tree.path(writeFile), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &waitingLock{s: s, f: f}, nil
}

// lockFirstByte has the host's own lock on the first byte of the scratch file.
func (l *waitingLock) lockFirstByte(typ int16) error {
	lk := unix.Flock_t{Type: typ, Whence: unix.SEEK_SET, Start: 0, Len: 1}
	return unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLKW, &lk)
}

func (l *waitingLock) start(r *fuseclient.Request) {
	l.unlock = false
	l.lockFirstByte(unix.F_WRLCK)
	l.fill(r, fuseclient.OpSetlkw, unix.F_WRLCK)
}

func (l *waitingLock) fill(r *fuseclient.Request, op fuseclient.Opcode, typ uint32) {
	r.Begin(op, l.s.write, nobody)
	le := binary.LittleEndian
	b := le.AppendUint64(nil, l.s.writeFH)
	b = le.AppendUint64(b, 1) // owner
	b = le.AppendUint64(b, 0) // first and last byte
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, typ)
	b = le.AppendUint32(b, 1) // pid
	r.Append(le.AppendUint64(b, 0))
}

func (l *waitingLock) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, fmt.Errorf("SETLKW (does the daemon serve locks?): %w", r.Err)
	}
	if l.unlock {
		return false, nil
	}
	l.unlock = true
	l.fill(r, fuseclient.OpSetlk, unix.F_UNLCK)
	return true, nil
}

// end gives the lock back.
func (l *waitingLock) end() error { return l.lockFirstByte(unix.F_UNLCK) }

func (l *waitingLock) finish() error { return l.f.Close() }
