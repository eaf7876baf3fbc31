package guestmem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DirtyLog is the bitmap in which the device notes the pages that it writes
// (vhost-user specification, "Migration"): one bit per 4 KiB page of guest
// address, in the order of bytes and bits of a little-endian machine.
type DirtyLog struct {
	mem []byte
}

// NewDirtyLog maps size bytes at offset of fd, which it closes. Close unmaps them.
func NewDirtyLog(fd int, offset, size uint64) (*DirtyLog, error) {
	defer unix.Close(fd)
	if size == 0 || size > 1<<40 || offset%PageSize != 0 || offset > 1<<62 {
		return nil, fmt.Errorf("a dirty log of %#x bytes at offset %#x is impossible", size, offset)
	}
	mem, err := unix.Mmap(fd, int64(offset), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("the dirty log can't be mapped: %w", err)
	}
	return &DirtyLog{mem: mem}, nil
}

// Close unmaps the log. No Memory may use it any more, nor any table that did.
func (l *DirtyLog) Close() error { return unix.Munmap(l.mem) }

// mark notes that n bytes from gpa were written. A nil log notes nothing; pages
// past the end of the bitmap have no bit.
func (l *DirtyLog) mark(gpa, n uint64) {
	if l == nil || n == 0 {
		return
	}
	for page := gpa / PageSize; page <= (gpa+n-1)/PageSize; page++ {
		if page/8 >= uint64(len(l.mem)) {
			return
		}
		orByte(l.mem, page/8, 1<<(page%8))
	}
}
