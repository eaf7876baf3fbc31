package guestmem

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrShort says that a chain ended before the bytes that were to be copied.
var ErrShort = errors.New("the buffers are too short")

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// munmap unmaps mem, which may begin inside its first page.
func munmap(mem []byte) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	skip := start % PageSize
	unix.Syscall(unix.SYS_MUNMAP, start-skip, uintptr(len(mem))+skip, 0)
}

func preadv2(fd int, iov []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(off), uintptr(off>>63), uintptr(flags))
	return int(n), e
}

func pwritev2(fd int, iov []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
		uintptr(off), uintptr(off>>63), uintptr(flags))
	return int(n), e
}

var self = os.Getpid()

// load copies from the region at off. The caller has checked the bounds.
func (r *Region) load(dst []byte, off uint64) error {
	switch r.spec.Kind {
	case RAM:
		copy(dst, r.mem[off:off+uint64(len(dst))])
		return nil
	case File:
		return r.copyByKernel(unix.SYS_PROCESS_VM_READV, dst, off)
	default:
		return fullTransfer(len(dst), func(done int) (int, error) {
			return unix.Pread(r.spec.FD, dst[done:], int64(r.spec.MmapOffset+off)+int64(done))
		})
	}
}

// store copies to the region at off. The caller has checked the bounds.
func (r *Region) store(src []byte, off uint64) error {
	switch r.spec.Kind {
	case RAM:
		copy(r.mem[off:off+uint64(len(src))], src)
		return nil
	case File:
		return r.copyByKernel(unix.SYS_PROCESS_VM_WRITEV, src, off)
	default:
		return fullTransfer(len(src), func(done int) (int, error) {
			return unix.Pwrite(r.spec.FD, src[done:], int64(r.spec.MmapOffset+off)+int64(done))
		})
	}
}

// copyByKernel copies between buf and the region with the kernel touching the
// region, so that a page which is gone is EFAULT and not SIGBUS.
func (r *Region) copyByKernel(call uintptr, buf []byte, off uint64) error {
	if len(buf) == 0 {
		return nil
	}
	mem := r.mem[off : off+uint64(len(buf))]
	local := unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}
	remote := unix.Iovec{Base: &mem[0], Len: uint64(len(mem))}
	n, _, e := unix.Syscall6(call, uintptr(self), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if e != 0 {
		return e
	}
	if int(n) != len(buf) {
		return unix.EFAULT
	}
	return nil
}

func fullTransfer(n int, step func(done int) (int, error)) error {
	for done := 0; done < n; {
		k, err := step(done)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return unix.EFAULT
		}
		done += k
	}
	return nil
}

// orByte sets bits in byte i of mem, which the front-end reads meanwhile.
func orByte(mem []byte, i uint64, bits byte) {
	word := i &^ 3
	if word+4 > uint64(len(mem)) {
		mem[i] |= bits // a log is a whole number of pages; this is not reached
		return
	}
	p := (*uint32)(unsafe.Pointer(&mem[word]))
	atomic.OrUint32(p, uint32(bits)<<(8*(i&3)))
}

// Ring is a piece of guest memory that holds a virtqueue's structures. Its
// accessors are bounds-checked; offsets are aligned to what they access. Loads
// acquire and stores release.
type Ring struct {
	region *Region
	mem    []byte
	log    *DirtyLog
	gpa    uint64
}

// Ring returns size bytes at front-end address user as a ring; they have to lie
// in one mapped region. It is valid while t is held.
func (t *Table) Ring(user, size uint64) (Ring, error) {
	r, off, err := t.findUser(user, size)
	if err != nil {
		return Ring{}, err
	}
	if r.mem == nil {
		return Ring{}, errors.New("a ring can't lie in a shared memory window")
	}
	return Ring{region: r, mem: r.mem[off : off+size : off+size]}, nil
}

// Load16 returns the 16-bit word at off.
func (g *Ring) Load16(off uint64) uint16 {
	_ = g.mem[off : off+2]
	return *(*uint16)(unsafe.Pointer(&g.mem[off]))
}

// Store16 stores a 16-bit word at off, ahead of every later atomic access.
func (g *Ring) Store16(off uint64, v uint16) {
	_ = g.mem[off : off+2]
	*(*uint16)(unsafe.Pointer(&g.mem[off])) = v
}

// Load32 atomically loads the 32-bit word at off.
func (g *Ring) Load32(off uint64) uint32 {
	_ = g.mem[off : off+4]
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&g.mem[off])))
}

// Store32 atomically stores the 32-bit word at off; it is a full barrier.
func (g *Ring) Store32(off uint64, v uint32) {
	_ = g.mem[off : off+4]
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&g.mem[off])), v)
}

// Read copies the bytes at off, once.
func (g *Ring) Read(dst []byte, off uint64) { copy(dst, g.mem[off:off+uint64(len(dst))]) }

// Write copies src to off.
func (g *Ring) Write(off uint64, src []byte) { copy(g.mem[off:off+uint64(len(src))], src) }
