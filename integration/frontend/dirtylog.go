package frontend

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// DirtyLog is the bitmap of guest pages that the daemon wrote while it was on: bit n of byte m is page 8*m+n.
type DirtyLog struct {
	fd   int
	data []byte
}

func (l *DirtyLog) close() {
	unix.Munmap(l.data)
	unix.Close(l.fd)
}

// Dirty says whether the page at gpa is marked.
func (l *DirtyLog) Dirty(gpa uint64) bool {
	page := gpa / PageSize
	return l.data[page/8]&(1<<(page%8)) != 0
}

// Pages lists the marked pages' addresses.
func (l *DirtyLog) Pages() []uint64 {
	var out []uint64
	for i, b := range l.data {
		for n := 0; b != 0; n++ {
			if b&1 != 0 {
				out = append(out, (uint64(i)*8+uint64(n))*PageSize)
			}
			b >>= 1
		}
	}
	return out
}

// Clear forgets all marks.
func (l *DirtyLog) Clear() { clear(l.data) }

// StartLog begins dirty logging as migration does (vhost_log_global_start); the daemon must offer LOG_SHMFD.
func (f *Frontend) StartLog() (*DirtyLog, error) {
	f.bql.Lock()
	defer f.bql.Unlock()
	if f.features&FLogAll == 0 || f.protocol&ProtocolLogShmFD == 0 {
		return nil, fmt.Errorf("the daemon can't log dirty pages (features %#x, protocol %#x)", f.features, f.protocol)
	}
	if f.log == nil {
		if err := f.makeLog(); err != nil {
			return nil, err
		}
	}
	f.logging = true
	if !f.started {
		return f.log, nil
	}
	if err := f.sendLog(); err != nil {
		return nil, err
	}
	return f.log, f.resendForLog()
}

// StopLog ends it; the log stays readable.
func (f *Frontend) StopLog() error {
	f.bql.Lock()
	defer f.bql.Unlock()
	f.logging = false
	if !f.started {
		return nil
	}
	return f.resendForLog()
}

// resendForLog is vhost_dev_set_log.
func (f *Frontend) resendForLog() error {
	if err := f.sendFeatures(); err != nil {
		return err
	}
	for _, q := range f.queues {
		if err := f.sendVringAddr(q); err != nil {
			return err
		}
	}
	return nil
}

func (f *Frontend) makeLog() error {
	var end uint64
	for _, r := range f.Mem.regions {
		end = max(end, r.GPA+r.Size)
	}
	// QEMU sizes it in words of 64 pages.
	size := (end/PageSize/64 + 1) * 8
	fd, err := unix.MemfdCreate("vhost-log", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd for the dirty log: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return fmt.Errorf("size the dirty log: %w", err)
	}
	data, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("map the dirty log: %w", err)
	}
	f.log = &DirtyLog{fd: fd, data: data}
	return nil
}

func (f *Frontend) sendLog() error {
	m := Message{Request: SetLogBase, Payload: u64s(uint64(len(f.log.data)), 0)}
	reply, fds, err := f.ask(m, f.log.fd)
	closeAll(fds)
	if err != nil {
		return err
	}
	// Back-ends differ in what they put there; QEMU does not look.
	if n := len(reply.Payload); n == 8 && binary.LittleEndian.Uint64(reply.Payload) != 0 {
		return &RefusedError{SetLogBase, binary.LittleEndian.Uint64(reply.Payload)}
	}
	return nil
}
