package guestmem

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is the granule of guest memory: regions and mapping offsets are
// multiples of it.
const PageSize = 4096

// Kind says how the bytes of a region may be reached.
type Kind uint8

const (
	// RAM is memory that nothing can take away: memfd, tmpfs, hugetlbfs. It
	// is mapped, and plain and atomic accesses are allowed.
	RAM Kind = iota
	// File is a mapping of a file that somebody may truncate. It is mapped,
	// but bytes are copied by system calls, for which a hole is EFAULT.
	File
	// Window is a mapping of some device's shared memory window. It is never
	// mapped here: bytes are reached by pread and pwrite on its descriptor.
	Window
)

// RegionSpec describes one region as the front-end sent it.
type RegionSpec struct {
	GuestAddr  uint64 // guest physical address of the first byte
	UserAddr   uint64 // the same in the front-end's address space
	Size       uint64 // in bytes, not 0
	MmapOffset uint64 // of the first byte in FD
	// FD becomes the table's, also where adding the region fails.
	FD   int
	Kind Kind
}

func (s RegionSpec) sameRange(o RegionSpec) bool {
	return s.GuestAddr == o.GuestAddr && s.UserAddr == o.UserAddr && s.Size == o.Size && s.MmapOffset == o.MmapOffset && s.Kind == o.Kind
}

// check refuses what no front-end may send.
func (s RegionSpec) check() error {
	switch {
	case s.Size == 0:
		return fmt.Errorf("the memory region at %#x is empty", s.GuestAddr)
	case s.GuestAddr+s.Size < s.GuestAddr || s.UserAddr+s.Size < s.UserAddr:
		return fmt.Errorf("the memory region at %#x of %#x bytes runs past the end of the address space", s.GuestAddr, s.Size)
	case s.MmapOffset > 1<<62 || s.Size > 1<<62:
		return fmt.Errorf("the memory region at %#x has an impossible size %#x or offset %#x", s.GuestAddr, s.Size, s.MmapOffset)
	}
	return nil
}

// Region is one region of a [Table].
type Region struct {
	spec RegionSpec
	mem  []byte // nil for a Window
	refs atomic.Int64
}

// Spec returns what the region was made of. Its FD is only valid for a Window,
// and as long as the table is held.
func (r *Region) Spec() RegionSpec { return r.spec }

func newRegion(spec RegionSpec) (*Region, error) {
	if err := spec.check(); err != nil {
		unix.Close(spec.FD)
		return nil, err
	}
	r := &Region{spec: spec}
	if spec.Kind == Window {
		return r, nil
	}
	// The offset of a region in its descriptor need not be aligned.
	skip := spec.MmapOffset % PageSize
	mem, err := unix.Mmap(spec.FD, int64(spec.MmapOffset-skip), int(spec.Size+skip), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	unix.Close(spec.FD)
	r.spec.FD = -1
	if err != nil {
		return nil, fmt.Errorf("the memory region at %#x of %#x bytes can't be mapped: %w", spec.GuestAddr, spec.Size, err)
	}
	r.mem = mem[skip:]
	// A core dump of the daemon is not to hold the guest's memory.
	unix.Madvise(mem, unix.MADV_DONTDUMP)
	return r, nil
}

func (r *Region) drop() {
	if r.refs.Add(-1) > 0 {
		return
	}
	if r.mem != nil {
		munmap(r.mem)
		r.mem = nil
		return
	}
	unix.Close(r.spec.FD)
}
