package device

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// waiter is what a reader sleeps on: the kick eventfd of its queue, and an
// eventfd of its own by which it is called to change state.
//
// The kick is watched edge-triggered and never read: each write to it is an
// edge, so that a wake-up costs one system call, and it does not matter whether
// the front-end made it blocking (its file status flags are shared with the
// front-end and so can't be changed here). The counter only grows; at its
// maximum, which takes 2^64 kicks, writers would get EAGAIN.
type waiter struct {
	epfd   int
	callFD int
	kick   int // -1: the driver can't kick, the ring has to be looked at from time to time

	untoldMost int32 // of untoldNow, for this reader to be one of them

	// polls counts the waits in a row that brought nothing in polling mode.
	polls uint
}

const (
	pollFirst = 50 * time.Microsecond
	pollMost  = 4 * time.Millisecond
)

// untold is for how many milliseconds at most a reader sleeps without telling
// the Go scheduler. To be told, and told again some microseconds later, costs
// the scheduler's monitor more than a wake-up costs the reader. Before it stops
// the world the run-time interrupts the reader by a signal, and after ten
// milliseconds it does so too. Longer sleeps are told, so that an idle daemon's
// monitor can sleep.
const untold = 20

// A reader that sleeps untold keeps its processor of the Go scheduler, so only
// so many may that some are left for everybody else.
var untoldNow atomic.Int32

// untoldSpare is how many processors are left.
const untoldSpare = 2

// newWaiter takes over kick, on failure too.
func newWaiter(kick int) (*waiter, error) {
	w := &waiter{epfd: -1, callFD: -1, kick: kick, untoldMost: int32(runtime.GOMAXPROCS(0)) - untoldSpare}
	var err error
	if w.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		w.close()
		return nil, fmt.Errorf("making an epoll descriptor (is the limit of open files reached?): %w", err)
	}
	if w.callFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.close()
		return nil, fmt.Errorf("making an eventfd (is the limit of open files reached?): %w", err)
	}
	err = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, w.callFD, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(w.callFD)})
	if err == nil && kick >= 0 {
		err = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, kick, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(kick)})
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("the front-end's kick descriptor can't be waited for (is it no eventfd?): %w", err)
	}
	return w, nil
}

// wait sleeps until there is a kick or a call, or in polling mode until it is
// time to look. It returns an error only when waiting is impossible. Of several
// threads that wait the one that began last is woken.
func (w *waiter) wait() error {
	_, err := w.sleep(true, -1)
	return err
}

// sleep is wait for at most limit, if that is not negative, and returns false
// when it has passed. short says that a kick is likely to come soon.
func (w *waiter) sleep(short bool, limit time.Duration) (woken bool, err error) {
	if w.kick < 0 {
		return true, w.nap()
	}
	var events [2]unix.EpollEvent
	if short {
		n, err := w.waitUntold(&events, untold)
		if n > 0 || err != nil && err != unix.EINTR {
			return true, w.woken(events[:max(n, 0)], err)
		}
	}
	ms := -1
	if limit >= 0 {
		ms = int(limit / time.Millisecond)
	}
	n, err := unix.EpollWait(w.epfd, events[:], ms)
	return n != 0, w.woken(events[:max(n, 0)], err)
}

// pause is wait for at most d, a multiple of a millisecond up to untold. It may
// end at any time.
func (w *waiter) pause(d time.Duration) error {
	var events [2]unix.EpollEvent
	n, err := w.waitUntold(&events, int(d/time.Millisecond))
	if n < 0 && err == nil {
		n, err = unix.EpollWait(w.epfd, events[:], int(d/time.Millisecond))
	}
	return w.woken(events[:max(n, 0)], err)
}

// waitUntold is epoll_wait of which the Go scheduler is not told, or -1 and no
// error if too few processors would be left.
func (w *waiter) waitUntold(events *[2]unix.EpollEvent, ms int) (int, error) {
	defer untoldNow.Add(-1)
	if untoldNow.Add(1) > w.untoldMost {
		return -1, nil
	}
	n, e := epollWaitUntold(w.epfd, events[:], ms)
	return n, errnoOrNil(e)
}

// woken handles what a wait has returned.
func (w *waiter) woken(events []unix.EpollEvent, err error) error {
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("waiting for a kick, please report it: %w", err)
	}
	for _, e := range events {
		if int(e.Fd) == w.callFD {
			var b [8]byte
			unix.Read(w.callFD, b[:])
		} else if e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 && e.Events&unix.EPOLLIN == 0 {
			return errKickBroken
		}
	}
	return nil
}

var errKickBroken = errors.New("the front-end's kick descriptor is no eventfd, or its other end is closed; report this as a bug of the front-end")

// nap sleeps until it is time to look at a ring that is not kicked. A call is
// left for the next time if that is soon.
func (w *waiter) nap() error {
	d := min(pollFirst<<min(w.polls, 10), pollMost)
	w.polls++
	if d >= time.Millisecond {
		return w.pause(d)
	}
	// epoll_wait counts in milliseconds.
	ts := unix.NsecToTimespec(int64(d))
	_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(w.callFD), Events: unix.POLLIN}}, &ts, nil)
	return w.woken(nil, err)
}

func errnoOrNil(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// kicked says whether the driver can kick.
func (w *waiter) kicked() bool { return w.kick >= 0 }

// found tells that there was something in the ring.
func (w *waiter) found() { w.polls = 0 }

// call wakes a thread that waits, from any goroutine.
func (w *waiter) call() { unix.Write(w.callFD, eventOne[:]) }

// forgetKick has wait ignore the kick from now on.
func (w *waiter) forgetKick() {
	if w.kick >= 0 {
		unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, w.kick, nil)
	}
}

// close closes the descriptors, kick too. Nobody may wait or call any more.
func (w *waiter) close() {
	for _, fd := range []int{w.epfd, w.callFD, w.kick} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	w.epfd, w.callFD, w.kick = -1, -1, -1
}

// eventOne is the value 1 as it is written to an eventfd.
var eventOne = [8]byte{1}
