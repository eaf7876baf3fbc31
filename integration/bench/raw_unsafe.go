package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readEventfd waits for an eventfd and clears it. It does not tell Go's scheduler that the thread sleeps, which would
// cost more than the system call: the garbage collector has to be off.
func readEventfd(fd int) error {
	var b [8]byte
	for {
		_, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 8)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}
