package fs

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// lockWait is a request that waits for a lock, also while it has no thread.
type lockWait struct {
	delay    time.Duration // until the next look
	canceled bool          // FUSE_INTERRUPT named it
}

const (
	lockPollMin = time.Millisecond
	lockPollMax = 64 * time.Millisecond
	// lockPollMany requests share what one costs; above it, each looks as much
	// less often as there are more.
	lockPollMany = 32
)

func (l *lockWaits) wakeLocked() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *lockWaits) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeLocked()
}

func (l *lockWaits) interrupt(q int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		l.stopped = make(map[int]bool)
	}
	l.stopped[q] = true
	l.wakeLocked()
}

func (l *lockWaits) resume(q int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stopped, q)
}

// cancel ends the wait of the request unique with EINTR.
func (l *lockWaits) cancel(unique uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.waiting[unique]; w != nil {
		w.canceled = true
		l.wakeLocked()
	}
}

// wait sleeps until a lock may have been given back: at once where the guest
// did it through this daemon, after a while where somebody else did. It returns
// Detach to have the request look again, on a thread that others had meanwhile.
// The first time, and where the thread may not block, it does so at once: the
// thread may be a queue's reader, and unique is what the guest says it is.
func (l *lockWaits) wait(q int, unique uint64, mayBlock bool) (device.Verdict, unix.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiting[unique]
	if w == nil {
		if l.waiting == nil {
			l.waiting = make(map[uint64]*lockWait)
		}
		l.waiting[unique] = &lockWait{delay: lockPollMin}
		return device.Detach, 0
	}
	if v, e := l.goesOn(q, w); v != device.Detach || !mayBlock {
		return v, e
	}
	l.sleep(w.delay)
	w.delay = min(2*w.delay, lockPollMax*time.Duration(1+len(l.waiting)/lockPollMany))
	return l.goesOn(q, w)
}

// pause sleeps for d, and returns false if the queue is being stopped.
func (l *lockWaits) pause(q int, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped[q] {
		l.sleep(d)
	}
	return !l.stopped[q]
}

// sleep waits for d or until something has changed. mu is held, but not
// meanwhile.
func (l *lockWaits) sleep(d time.Duration) {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	changed, timer := l.changed, time.NewTimer(d)
	l.mu.Unlock()
	select {
	case <-changed:
	case <-timer.C:
	}
	timer.Stop()
	l.mu.Lock()
}

// goesOn returns Detach unless the wait has to end. mu is held.
func (l *lockWaits) goesOn(q int, w *lockWait) (device.Verdict, unix.Errno) {
	switch {
	case l.stopped[q]:
		return device.Requeue, 0
	case w.canceled:
		return device.Done, unix.EINTR
	}
	return device.Detach, 0
}

// end forgets a request, which may have waited.
func (l *lockWaits) end(unique uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, unique)
}
