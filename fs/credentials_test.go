package fs

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A thread goes on to serve others after a fault of ours, so it must not stay
// who it was then.
func TestPanicAsTheCallerLeavesTheThreadItself(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root")
	}
	g := newGuest(t, Options{})
	th := g.thread
	before := th.cred.caps
	assumed := 0
	_, e := th.call(&operation{name: "TEST", run: func(th *Thread) (int, unix.Errno) {
		th.id = identity{uid: 1000, gid: 1001, groups: []uint32{1002}, umask: 0o77, keep: 1 << unix.CAP_DAC_OVERRIDE}
		return 0, th.withIdentity(func() unix.Errno {
			assumed = unix.Geteuid()
			panic("a fault")
		})
	}})
	if e != unix.EIO || assumed != 1000 {
		t.Errorf("answered with %v, served as user %d", e, assumed)
	}
	groups, err := unix.Getgroups()
	if unix.Geteuid() != 0 || unix.Getegid() != 0 || len(groups) > 0 || err != nil {
		t.Errorf("the thread is user %d, group %d, in %v, %v", unix.Geteuid(), unix.Getegid(), groups, err)
	}
	if mask := unix.Umask(0); mask != 0 {
		t.Errorf("the thread has umask %#o", mask)
	}
	if getCaps(&th.cred.caps); th.cred.caps != before {
		t.Errorf("the thread has capabilities %v, had %v", th.cred.caps, before)
	}
	if th.unfit {
		t.Error("the thread serves nothing more")
	}
}
