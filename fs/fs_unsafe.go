package fs

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// overlay returns b as a T, or nil when b is too short or not aligned for one.
// T must hold no pointers; every bit pattern of b must be a valid T. The result
// aliases b.
func overlay[T any](b []byte) *T {
	var zero T
	if uintptr(len(b)) < unsafe.Sizeof(zero) || len(b) == 0 {
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%unsafe.Alignof(zero) != 0 {
		return nil
	}
	return (*T)(p)
}

// sizeOf is the length of T on the wire.
func sizeOf[T any]() int {
	var zero T
	return int(unsafe.Sizeof(zero))
}

// alignedBytes returns n zeroed bytes whose first is aligned to 8.
func alignedBytes(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:n]
}

// cstr is a NUL-terminated byte string: its last byte is NUL, no other is.
type cstr []byte

// String copies s without its NUL.
func (s cstr) String() string {
	if len(s) == 0 {
		return ""
	}
	return string(s[:len(s)-1])
}

var emptyPath = cstr{0}

// waits says that a file system is in use whose calls may wait for a network or
// another process.
var waits atomic.Bool

// quick6 is a system call that ends soon on a local file system, so that the Go
// scheduler need not be told: its monitor would, time and again, take the
// processor away from a reader that does little else. Memory that a1 to a6 point
// to is moved to the heap.
//
//go:uintptrescapes
func quick6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1 uintptr, e unix.Errno) {
	if waits.Load() {
		r1, _, e = unix.Syscall6(trap, a1, a2, a3, a4, a5, a6)
	} else {
		r1, _, e = unix.RawSyscall6(trap, a1, a2, a3, a4, a5, a6)
	}
	return r1, e
}

// The calls below are those of x/sys/unix with a name that need not be copied
// into a Go string first.

func sysStatx(dirfd int, name cstr, flags, mask int, st *unix.Statx_t) unix.Errno {
	_, e := quick6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(flags), uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
	return e
}

func sysOpenat(dirfd int, name cstr, flags int, mode uint32) (int, unix.Errno) {
	if flags&(unix.O_PATH|unix.O_NONBLOCK) != 0 && flags&unix.O_TRUNC == 0 {
		// It waits for no lease, and for no truncation.
		fd, e := quick6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0, 0)
		if e != unix.EINTR {
			return int(fd), e
		}
	}
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0, 0)
		if e == unix.EINTR {
			continue
		}
		return int(fd), e
	}
}

func sysMkdirat(dirfd int, name cstr, mode uint32) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_MKDIRAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(mode))
	return e
}

func sysMknodat(dirfd int, name cstr, mode, dev uint32) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_MKNODAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(mode), uintptr(dev), 0, 0)
	return e
}

func sysSymlinkat(target cstr, dirfd int, name cstr) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(unsafe.SliceData(target))), uintptr(dirfd),
		uintptr(unsafe.Pointer(unsafe.SliceData(name))))
	return e
}

func sysUnlinkat(dirfd int, name cstr, flags int) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_UNLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(flags))
	return e
}

func sysRenameat2(olddir int, oldname cstr, newdir int, newname cstr, flags uint32) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_RENAMEAT2, uintptr(olddir), uintptr(unsafe.Pointer(unsafe.SliceData(oldname))),
		uintptr(newdir), uintptr(unsafe.Pointer(unsafe.SliceData(newname))), uintptr(flags), 0)
	return e
}

func sysLinkat(olddir int, oldname cstr, newdir int, newname cstr, flags int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_LINKAT, uintptr(olddir), uintptr(unsafe.Pointer(unsafe.SliceData(oldname))),
		uintptr(newdir), uintptr(unsafe.Pointer(unsafe.SliceData(newname))), uintptr(flags), 0)
	return e
}

func sysReadlinkat(dirfd int, name cstr, buf []byte) (int, unix.Errno) {
	n, e := quick6(unix.SYS_READLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0)
	return int(n), e
}

func sysGetdents(fd int, buf []byte) (int, unix.Errno) {
	n, e := quick6(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0, 0)
	return int(n), e
}

func sysFchmodat2(fd int, mode uint32) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(emptyPath))),
		uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
	return e
}

// atFDCWD is AT_FDCWD as an argument of a system call.
var atFDCWD = func() uintptr { cwd := unix.AT_FDCWD; return uintptr(cwd) }()

func sysChmod(path cstr, mode uint32) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_FCHMODAT, atFDCWD, uintptr(unsafe.Pointer(unsafe.SliceData(path))), uintptr(mode))
	return e
}

func sysUtimensat(fd int, path cstr, ts *[2]unix.Timespec, flags int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(path))),
		uintptr(unsafe.Pointer(ts)), uintptr(flags), 0, 0)
	return e
}

// fileAttr is struct file_attr of include/uapi/linux/fs.h.
type fileAttr struct {
	xflags                             uint64
	extsize, nextents, projid, cowsize uint32
}

// sysFileGetattr follows a symbolic link at the end of path.
func sysFileGetattr(path cstr, attr *fileAttr) unix.Errno {
	_, e := quick6(unix.SYS_FILE_GETATTR, atFDCWD, uintptr(unsafe.Pointer(unsafe.SliceData(path))),
		uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0, 0)
	return e
}

func sysFstatfs(fd int, st *unix.Statfs_t) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
	return e
}

func sysFchownat(fd int, uid, gid uint32) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_FCHOWNAT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(emptyPath))),
		uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, 0)
	return e
}

func sysGetxattr(path, name cstr, buf []byte) (int, unix.Errno) {
	n, e := quick6(unix.SYS_GETXATTR, uintptr(unsafe.Pointer(unsafe.SliceData(path))), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0)
	return int(n), e
}

func sysSetxattr(path, name cstr, value []byte, flags uint32) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_SETXATTR, uintptr(unsafe.Pointer(unsafe.SliceData(path))), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), uintptr(flags), 0)
	return e
}

func sysListxattr(path cstr, buf []byte) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(unsafe.SliceData(path))),
		uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	return int(n), e
}

func sysRemovexattr(path, name cstr) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(unsafe.SliceData(path))), uintptr(unsafe.Pointer(unsafe.SliceData(name))), 0)
	return e
}

// maxHandleSize is MAX_HANDLE_SZ of include/linux/exportfs.h.
const maxHandleSize = 128

// handleBuf is struct file_handle with room for the largest handle.
type handleBuf struct {
	bytes uint32
	typ   int32
	data  [maxHandleSize]byte
}

func sysNameToHandleAt(dirfd int, name cstr, h *handleBuf, flags int) (mountID int, e unix.Errno) {
	h.bytes = maxHandleSize
	var id int32
	_, _, e = unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(&id)), uintptr(flags), 0)
	return int(id), e
}

func sysOpenByHandleAt(mountfd int, h *handleBuf, flags int) (int, unix.Errno) {
	fd, _, e := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mountfd), uintptr(unsafe.Pointer(h)),
		uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE))
	return int(fd), e
}

func sysIoctl(fd int, cmd uint32, arg []byte) (int, unix.Errno) {
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	return int(r), e
}

// sysEnableVerity makes salt and sig what the pointers of arg point to. They lie
// in the thread's request, on the heap, where nothing moves.
func sysEnableVerity(fd int, arg *[verityEnableLen]byte, salt, sig []byte) unix.Errno {
	point := func(at int, b []byte) {
		var p uintptr
		if len(b) > 0 {
			p = uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		}
		binary.NativeEndian.PutUint64(arg[at:], uint64(p))
	}
	point(veritySaltPtrAt, salt)
	point(veritySigPtrAt, sig)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocEnableVerity, uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(salt)
	runtime.KeepAlive(sig)
	return e
}

func sysFcntlLock(fd int, cmd int, lk *unix.Flock_t) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(lk)))
	return e
}

// sysSetgroups sets the supplementary groups of the calling thread only.
func sysSetgroups(gids []uint32) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(unsafe.Pointer(unsafe.SliceData(gids))), 0)
	return e
}
