package frontend

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// userAddr is the address of a mapping in this process, which is what a front-end calls a user address.
func userAddr(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// view16 and view32 see shared memory as little-endian words, cut to whole ones. b must be aligned to a word.
func view16(b []byte) []uint16 {
	checkAligned(b, 2)
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/2)
}

func view32(b []byte) []uint32 {
	checkAligned(b, 4)
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func checkAligned(b []byte, n uintptr) {
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%n != 0 {
		panic("frontend: unaligned view of guest memory")
	}
}

// reserve takes size bytes of address space without access.
func reserve(size uint64) (uintptr, error) {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return uintptr(p), err
}

// mapFixed maps a file over a part of what reserve gave; fd -1 takes the access away again.
func mapFixed(addr uintptr, length uint64, fd int, off int64) error {
	prot, flags := unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED
	if fd < 0 {
		prot, flags = unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED
	}
	_, err := unix.MmapPtr(fd, off, pointer(addr), uintptr(length), prot, flags)
	return err
}

func unreserve(addr uintptr, size uint64) error {
	return unix.MunmapPtr(pointer(addr), uintptr(size))
}

// bytesAt is memory that mapFixed made accessible.
func bytesAt(addr uintptr, n int) []byte { return unsafe.Slice((*byte)(pointer(addr)), n) }

// pointer turns an address outside Go's heap into a pointer.
func pointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

// copyFrom and copyTo move bytes between p and this process's own memory at addr by a system call, so that a missing
// page or one past the end of a file is EFAULT instead of a signal, and so that a fault which takes long does not
// stop the garbage collector.
func copyFrom(p []byte, addr uintptr) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	remote := []unix.RemoteIovec{{Base: addr, Len: len(p)}}
	return unix.ProcessVMReadv(unix.Getpid(), local, remote, 0)
}

func copyTo(addr uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	remote := []unix.RemoteIovec{{Base: addr, Len: len(p)}}
	return unix.ProcessVMWritev(unix.Getpid(), local, remote, 0)
}
