package hostfs

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

const unchanged = ^uintptr(0)

func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// setThreadIDs sets the effective ids of this thread alone; the functions of package unix set them for all.
func setThreadIDs(uid, gid uint32, groups []uint32) error {
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, 0, unchanged); e != 0 {
		return e
	}
	p := unsafe.Pointer(unsafe.SliceData(groups))
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, unchanged, uintptr(gid), unchanged); e != 0 {
		return e
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged)
	return errnoOf(e)
}

// futimens is utimensat with a null path.
func futimens(fd int, ts *[2]unix.Timespec) error {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return errnoOf(e)
}

// utimensat passes a null ts on, which package unix cannot.
func utimensat(dirfd int, path string, ts *[2]unix.Timespec, flags int) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return unix.EINVAL
	}
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(dirfd), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(ts)), uintptr(flags), 0, 0)
	return errnoOf(e)
}

const (
	fsIocFSGetxattr = 0x801c581f
	fsIocFSSetxattr = 0x401c5820
)

func ioctlFsxattr(fd int, set bool, x *behaviour.Fsxattr) error {
	req := uintptr(fsIocFSGetxattr)
	if set {
		req = fsIocFSSetxattr
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(x)))
	return errnoOf(e)
}

// mmap is unlike unix.Mmap in that an unaligned offset or a length of 0 reach the kernel.
func mmap(fd int, off int64, length, prot, flags int) ([]byte, error) {
	a, _, e := unix.Syscall6(unix.SYS_MMAP, 0, uintptr(length), uintptr(prot), uintptr(flags), uintptr(fd), uintptr(off))
	if e != 0 {
		return nil, e
	}
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&a))), length), nil
}

func munmap(b []byte) error {
	_, _, e := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0)
	return errnoOf(e)
}
