package guestmem

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kind says how the memory of a region may be touched.
type Kind uint8

const (
	// RAM is memory that has pages as long as it is mapped: memfd, tmpfs,
	// hugetlbfs. It is mapped and used by plain and atomic loads and stores.
	RAM Kind = iota
	// File is a mapped file of any other file system. Buffers in it are
	// touched by system calls only.
	File
	// Window is a mapping in a device's shared memory region. It is not
	// mapped here; buffers in it go through pread and pwrite on its file.
	Window
)

func (k Kind) String() string {
	switch k {
	case RAM:
		return "RAM"
	case File:
		return "file"
	case Window:
		return "window"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// RegionSpec describes a region as SET_MEM_TABLE and ADD_MEM_REG do.
type RegionSpec struct {
	GuestAddr  uint64 // guest physical address of the first byte
	UserAddr   uint64 // address of the first byte in the front-end's process
	Size       uint64 // in bytes, not 0
	MmapOffset uint64 // offset of the first byte in the file
	// FD is the file. It passes to the callee, which closes it on failure too.
	FD   int
	Kind Kind
}

func (s *RegionSpec) String() string {
	return fmt.Sprintf("region of %#x bytes at guest address %#x, user address %#x", s.Size, s.GuestAddr, s.UserAddr)
}

// Region is one region of a [Table], with what backs it.
type Region struct {
	spec     RegionSpec
	dev, ino uint64
	host     uintptr // address of the first byte; 0 for a Window
	mapAddr  uintptr // the mapping that host lies in
	mapLen   uintptr
	refs     atomic.Int64 // tables that have it
}

// Spec returns what the region was made of. Its FD is that of a Window, valid as
// long as the table is held, and else -1.
func (r *Region) Spec() RegionSpec { return r.spec }

// newRegion maps what spec describes. It owns spec.FD.
func newRegion(spec RegionSpec) (*Region, error) {
	r := &Region{spec: spec}
	if err := r.open(); err != nil {
		unix.Close(spec.FD)
		return nil, fmt.Errorf("%v: %w", &spec, err)
	}
	return r, nil
}

func (r *Region) open() error {
	if r.spec.Size == 0 {
		return errors.New("it is empty; report this as a bug of the front-end")
	}
	for _, at := range []uint64{r.spec.GuestAddr, r.spec.UserAddr, r.spec.MmapOffset} {
		if at+r.spec.Size-1 < at {
			return errors.New("its end is past the last address; report this as a bug of the front-end")
		}
	}
	if r.spec.MmapOffset+r.spec.Size > 1<<62 || r.spec.MmapOffset+r.spec.Size < r.spec.Size {
		return errors.New("its end is past the largest file offset; report this as a bug of the front-end")
	}
	var err error
	if r.dev, r.ino, err = identify(r.spec.FD); err != nil {
		return os.NewSyscallError("statx", err)
	}
	if r.spec.Kind == Window {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(r.spec.FD, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if r.spec.Kind == RAM && uint64(st.Size) < r.spec.MmapOffset+r.spec.Size {
		return fmt.Errorf("its file has only %#x bytes; give the front-end a larger one", st.Size)
	}
	page := uint64(os.Getpagesize())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(r.spec.FD, &fs); err == nil && fs.Type == unix.HUGETLBFS_MAGIC {
		page = max(page, uint64(fs.Bsize))
	}
	begin := r.spec.MmapOffset &^ (page - 1)
	end := (r.spec.MmapOffset + r.spec.Size + page - 1) &^ (page - 1)
	r.mapLen = uintptr(end - begin)
	if r.mapAddr, err = mapShared(r.spec.FD, int64(begin), r.mapLen); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	r.host = r.mapAddr + uintptr(r.spec.MmapOffset-begin)
	unix.Close(r.spec.FD)
	r.spec.FD = -1
	return nil
}

// same reports whether spec is this region. Its file is compared as a file, as
// each message brings a descriptor of its own.
func (r *Region) same(spec *RegionSpec) bool {
	if r.spec.GuestAddr != spec.GuestAddr || r.spec.UserAddr != spec.UserAddr || r.spec.Size != spec.Size ||
		r.spec.MmapOffset != spec.MmapOffset || r.spec.Kind != spec.Kind {
		return false
	}
	dev, ino, err := identify(spec.FD)
	return err == nil && dev == r.dev && ino == r.ino
}

// identify finds the identity of fd's file without a request to the file system
// that holds it. A piece of the window may be of a file that its server has
// forgotten by now, and the server may wait for us.
func identify(fd int) (dev, ino uint64, err error) {
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, err
}

// close gives back the mapping and the descriptor. It may take long.
func (r *Region) close() {
	if r.mapLen != 0 {
		unmap(r.mapAddr, r.mapLen)
	}
	if r.spec.FD >= 0 {
		unix.Close(r.spec.FD)
	}
}

// guestEnd returns the last guest address of the region.
func (r *Region) guestEnd() uint64 { return r.spec.GuestAddr + (r.spec.Size - 1) }
