package fs

import (
	"os"
	"path/filepath"
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

func TestPanicBeforeAChangeLeavesTheThreadItself(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const group = 1001
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1000, group); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(path, unix.S_ISGID|0o644); err != nil { // which one of the group keeps
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	fh, e := g.open(f.NodeId, unix.O_WRONLY)
	g.must("OPEN", e)
	g.uid, g.gid = 1000, group
	n := g.fs.inodes.get(f.NodeId)
	mnt := n.mnt
	n.mnt = nil // a fault, which killPriv meets when the thread has become one of the group
	_, e = g.call(opWrite, f.NodeId, le(fh, uint64(0), uint32(1), uint32(writeKillSuidgid), uint64(0), uint32(0), uint32(0), []byte("D")))
	n.mnt = mnt
	if e != unix.EIO || g.fs.stats.Bugs.Load() != 1 {
		t.Fatalf("answered with %v, %d faults: this test is about one", e, g.fs.stats.Bugs.Load())
	}
	if got, err := unix.SetfsgidRetGid(-1); got != 0 || err != nil {
		t.Errorf("the thread's group to the file system is %d, %v", got, err)
	}
	var caps [2]unix.CapUserData
	if getCaps(&caps); caps != g.thread.cred.caps {
		t.Errorf("the thread has capabilities %v, had %v", caps, g.thread.cred.caps)
	}
}

func TestPanicDuringAChangeLeavesTheThreadItself(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(path, unix.S_ISUID|0o755); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	th, n := g.thread, g.fs.inodes.get(f.NodeId)
	var caps [2]unix.CapUserData
	had := false
	_, e = th.call(&operation{name: "TEST", run: func(th *Thread) (int, unix.Errno) {
		return th.changeAs(callerLacksFsetid, n, false, func() (int, unix.Errno) {
			getCaps(&caps)
			had = caps[0].Effective&(1<<capFsetid) != 0
			panic("a fault")
		})
	}})
	if e != unix.EIO || had {
		t.Errorf("answered with %v, changed with CAP_FSETID: %v", e, had)
	}
	if getCaps(&caps); caps != th.cred.caps {
		t.Errorf("the thread has capabilities %v, had %v", caps, th.cred.caps)
	}
}
