package device

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// futex is a word that one thread waits on until another has set it. It costs
// one system call on each side, and none when the word is set before the wait.
type futex struct{ word atomic.Uint32 }

const (
	futexWaitPrivate = 0 | 128 // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
	futexWakePrivate = 1 | 128 // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
)

// wait blocks until the word is set, clears it and returns true; it returns
// false when timeout has passed before.
func (f *futex) wait(timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		if f.word.CompareAndSwap(1, 0) {
			return true
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		ts := unix.NsecToTimespec(int64(left))
		unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&f.word)), futexWaitPrivate, 0,
			uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
}

// set sets the word and wakes who waits for it.
func (f *futex) set() {
	f.word.Store(1)
	unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&f.word)), futexWakePrivate, 1)
}

// epollWaitUntold is epoll_wait of which the Go scheduler is not told. ms is not
// to be long, see untold.
func epollWaitUntold(epfd int, events []unix.EpollEvent, ms int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(ms), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// writeEventfd adds one to an eventfd, which does not wait where it is
// nonblocking or below its maximum.
func writeEventfd(fd int) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&eventOne)), uintptr(len(eventOne)))
	return e
}
