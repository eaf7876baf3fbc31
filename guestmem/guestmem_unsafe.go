package guestmem

import (
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Addresses of mappings are kept as integers: the garbage collector has no
// business with them, and a stale one must not look like a pointer to it.

// pid is that of this process; Go does not fork.
var pid = unix.Getpid()

func at(addr uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), addr) }

func mapShared(fd int, off int64, n uintptr) (uintptr, error) {
	p, err := unix.MmapPtr(fd, off, nil, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return 0, err
	}
	// A core dump of the daemon is no place for the guest's memory.
	unix.Syscall(unix.SYS_MADVISE, uintptr(p), n, unix.MADV_DONTDUMP)
	return uintptr(p), nil
}

func unmap(addr, n uintptr) { _ = unix.MunmapPtr(at(addr), n) }

// loadBytes copies mapped memory at addr to dst.
func loadBytes(dst []byte, addr uintptr) (err error) {
	old := debug.SetPanicOnFault(true)
	defer recoverFault(addr, uintptr(len(dst)), old, &err)
	copy(dst, unsafe.Slice((*byte)(at(addr)), len(dst)))
	return nil
}

// storeBytes copies src to mapped memory at addr.
func storeBytes(addr uintptr, src []byte) (err error) {
	old := debug.SetPanicOnFault(true)
	defer recoverFault(addr, uintptr(len(src)), old, &err)
	copy(unsafe.Slice((*byte)(at(addr)), len(src)), src)
	return nil
}

// recoverFault turns a fault at one of n bytes at addr into EFAULT. Any other
// panic goes on.
func recoverFault(addr, n uintptr, old bool, err *error) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	if f, ok := r.(interface{ Addr() uintptr }); !ok || f.Addr()-addr >= n {
		panic(r)
	}
	*err = unix.EFAULT
}

// loadBytesBySystemCall is loadBytes for memory that may have nothing behind it,
// or that takes long to come. Where the call is forbidden loadBytes does.
func loadBytesBySystemCall(dst []byte, addr uintptr) error {
	err := processVM(unix.SYS_PROCESS_VM_READV, dst, addr)
	if err == unix.EPERM || err == unix.ENOSYS {
		return loadBytes(dst, addr)
	}
	return err
}

// storeBytesBySystemCall is storeBytes for such memory.
func storeBytesBySystemCall(addr uintptr, src []byte) error {
	err := processVM(unix.SYS_PROCESS_VM_WRITEV, src, addr)
	if err == unix.EPERM || err == unix.ENOSYS {
		return storeBytes(addr, src)
	}
	return err
}

// processVM copies between local and the mapping at remote. The local iovec
// has a real pointer, so that it follows a stack that moves.
func processVM(trap uintptr, local []byte, remote uintptr) error {
	for len(local) > 0 {
		l := struct {
			base *byte
			len  uintptr
		}{unsafe.SliceData(local), uintptr(len(local))}
		r := iovec{remote, l.len}
		n, _, e := unix.Syscall6(trap, uintptr(pid), uintptr(unsafe.Pointer(&l)), 1, uintptr(unsafe.Pointer(&r)), 1, 0)
		if e != 0 {
			return e
		}
		if n == 0 {
			return unix.EFAULT
		}
		local, remote = local[n:], remote+n
	}
	return nil
}

// iovec is struct iovec, its base an address of a mapping.
type iovec struct {
	base uintptr
	len  uintptr
}

// bytesVector returns b, which the caller keeps alive and in the heap, as an iovec.
func bytesVector(b []byte) iovec {
	return iovec{uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))}
}

// vectored does preadv2 or pwritev2 on v, which is not empty. With now set the
// call can't wait, neither for the file nor for memory, and the Go scheduler is
// not told of it: its monitor would, time and again, take the processor away
// from a reader that mostly copies.
func vectored(trap uintptr, fd int, v []iovec, off int64, flags int, now bool) (int, error) {
	// The kernel takes the low and the high half of the offset, and on
	// 64-bit machines only looks at the low one.
	var n uintptr
	var e unix.Errno
	if now {
		n, _, e = unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)),
			uintptr(off), uintptr(off>>32), uintptr(flags))
	} else {
		n, _, e = unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)),
			uintptr(off), uintptr(off>>32), uintptr(flags))
	}
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// Span is a piece of mapped guest memory, for the words of a ring. Its
// accessors take the offset in bytes of a word, which has to be aligned to the
// word's size, and panic as an index expression does if it lies outside; that
// is a fault of the caller's, never the guest's. If there is nothing behind the
// memory they fault: who uses them calls debug.SetPanicOnFault and recovers.
//
// Load accessors acquire and Store accessors release, and both have the order
// of Go's sync/atomic: a Load is not done before a Store that precedes it in
// the program is visible. On amd64 each Store is an XCHG, a full barrier; on
// arm64 it is a STLR, which a later LDAR does not overtake. Put and Get have no
// order of their own.
type Span struct {
	addr uintptr
	n    uintptr
}

// Len returns the length in bytes.
func (s Span) Len() uint64 { return uint64(s.n) }

// Aligned reports whether the span begins at a multiple of align, a power of two.
func (s Span) Aligned(align uintptr) bool { return s.addr&(align-1) == 0 }

func (s Span) word(off, size uintptr) unsafe.Pointer {
	// As one comparison, for a span that is at least as long as a word.
	if off+size > s.n || off+size < size {
		outside()
	}
	return at(s.addr + off)
}

//go:noinline
func outside() { panic("guestmem: index outside a span") }

// Load16 loads two bytes. sync/atomic has no such size, so it loads the aligned
// four bytes around them, which lie in the same page.
func (s Span) Load16(off uintptr) uint16 {
	p := uintptr(s.word(off, 2))
	return uint16(atomic.LoadUint32((*uint32)(at(p&^3))) >> (p & 2 * 8))
}

func (s Span) Load32(off uintptr) uint32 { return atomic.LoadUint32((*uint32)(s.word(off, 4))) }
func (s Span) Load64(off uintptr) uint64 { return atomic.LoadUint64((*uint64)(s.word(off, 8))) }

func (s Span) Store32(off uintptr, v uint32) { atomic.StoreUint32((*uint32)(s.word(off, 4)), v) }
func (s Span) Store64(off uintptr, v uint64) { atomic.StoreUint64((*uint64)(s.word(off, 8)), v) }

// Put16, Put32 and Put64 store in one piece, without order.
func (s Span) Put16(off uintptr, v uint16) { *(*uint16)(s.word(off, 2)) = v }
func (s Span) Put32(off uintptr, v uint32) { *(*uint32)(s.word(off, 4)) = v }
func (s Span) Put64(off uintptr, v uint64) { *(*uint64)(s.word(off, 8)) = v }

// Has reports whether a fault at addr is one of the span's.
func (s Span) Has(addr uintptr) bool { return addr-s.addr < s.n }

// orUint32 sets bits of the word at addr, which is aligned.
func orUint32(addr uintptr, bits uint32) { atomic.OrUint32((*uint32)(at(addr)), bits) }

// SpanOf returns memory that this process shares with others by other means
// than a region, such as the in-flight buffer. b is a mapping, which the caller
// keeps, and not memory of Go's.
func SpanOf(b []byte) Span {
	return Span{uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))}
}
