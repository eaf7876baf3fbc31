package hostfs

import (
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

// caller is what a thread must be for a call. The zero value is the process itself, which is root or whoever
// runs the tests.
type caller struct {
	cred  behaviour.Cred
	umask uint32
}

func (c caller) isProcess() bool {
	return c.cred.UID == 0 && c.cred.GID == 0 && len(c.cred.Groups) == 0 && c.umask == 0
}

func (c caller) equal(o caller) bool {
	return c.cred.UID == o.cred.UID && c.cred.GID == o.cred.GID && c.umask == o.umask &&
		slices.Equal(c.cred.Groups, o.cred.Groups)
}

// do makes the call fn as c, on this thread or on one of the pool.
func (c caller) do(fn func() error) error {
	if c.isProcess() {
		return fn()
	}
	t := threads.get()
	t.work <- task{c, fn}
	err := <-t.done
	threads.put(t)
	return err
}

type task struct {
	as caller
	fn func() error
}

// thread is a goroutine that owns an OS thread for good.
type thread struct {
	work chan task
	done chan error
	now  caller
}

// pool holds the idle threads. Their number is that of the most calls by others at one time.
type pool struct {
	mu   sync.Mutex
	idle []*thread
}

var threads pool

func (p *pool) get() *thread {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		t := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return t
	}
	t := &thread{work: make(chan task), done: make(chan error)}
	go t.run()
	return t
}

func (p *pool) put(t *thread) {
	p.mu.Lock()
	p.idle = append(p.idle, t)
	p.mu.Unlock()
}

func (t *thread) run() {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_FS)
	for w := range t.work {
		if err == nil {
			err = t.become(w.as)
		}
		if err != nil {
			t.done <- err
			continue
		}
		t.done <- w.fn()
	}
}

// become changes the effective ids only, so that the way back stays open. Leaving user 0 takes all effective
// capabilities away, going back to it returns them.
func (t *thread) become(c caller) error {
	if c.equal(t.now) {
		return nil
	}
	unix.Umask(int(c.umask))
	if os.Getuid() == 0 {
		groups := make([]uint32, len(c.cred.Groups))
		copy(groups, c.cred.Groups)
		if err := setThreadIDs(c.cred.UID, c.cred.GID, groups); err != nil {
			return err
		}
	}
	t.now = c
	return nil
}
