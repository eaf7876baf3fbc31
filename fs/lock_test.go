package fs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// setlk asks for a lock of bytes 0 to 9, or gives it back.
func (g *guest) setlk(node, fh, owner uint64, typ uint32) unix.Errno {
	g.t.Helper()
	_, e := g.call(opSetlk, node, le(fh, owner, uint64(0), uint64(9), typ, uint32(0), uint32(0), uint32(0)))
	return e
}

func (g *guest) release(node, fh uint64) {
	g.t.Helper()
	_, e := g.call(opRelease, node, le(fh, [2]uint64{}))
	g.must("RELEASE", e)
}

func TestLocksEndWithWhatTheyBelongTo(t *testing.T) {
	const process, description, other = 100, 200, 300
	for _, c := range []struct {
		name string
		// do ends, or fails to end, the locks of owner on node; a and b are
		// handles of it.
		do    func(g *guest, node, a, b uint64)
		owner uint64
		twice bool // the owner has locked by b, after a
		freed bool
	}{
		{"nothing", func(*guest, uint64, uint64, uint64) {}, process, false, false},
		{"an unlock", func(g *guest, node, a, _ uint64) { g.must("SETLK", g.setlk(node, a, process, unix.F_UNLCK)) }, process, false, true},
		{"an unlock by another owner", func(g *guest, node, a, _ uint64) { g.must("SETLK", g.setlk(node, a, other, unix.F_UNLCK)) }, process, false, false},
		{"a close by the process", func(g *guest, node, _, b uint64) { g.flush(node, b, process) }, process, false, true},
		{"a close by another process", func(g *guest, node, a, _ uint64) { g.flush(node, a, other) }, process, false, false},
		{"the end of the description", func(g *guest, node, a, _ uint64) { g.flush(node, a, other); g.release(node, a) }, description, false, true},
		{"the end of another description", func(g *guest, node, _, b uint64) { g.release(node, b) }, description, false, false},
		{"the end of the handle it locked by before", func(g *guest, node, a, _ uint64) { g.release(node, a) }, process, true, false},
		{"the end of the handle it locked by last", func(g *guest, node, _, b uint64) { g.release(node, b) }, process, true, true},
		{"DESTROY", func(g *guest, _, _, _ uint64) { g.call(opDestroy, 0, nil) }, process, false, true},
		{"a reset", func(g *guest, _, _, _ uint64) { g.fs.Reset() }, description, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			g := newGuest(t, Options{SharedDir: dir, PosixLock: true})
			node, a := g.create(rootID, "f", unix.O_RDWR, 0o644)
			b, e := g.open(node, unix.O_RDWR)
			g.must("OPEN", e)
			g.must("SETLK", g.setlk(node, a, c.owner, unix.F_WRLCK))
			if c.twice {
				g.must("SETLK", g.setlk(node, b, c.owner, unix.F_WRLCK))
			}
			c.do(g, node, a, b)
			host, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
			err = unix.FcntlFlock(host.Fd(), unix.F_OFD_SETLK, &lk)
			if freed := err == nil; freed != c.freed {
				t.Errorf("freed: %v (%v), want %v", freed, err, c.freed)
			}
		})
	}
}

func (g *guest) flush(node, fh, owner uint64) {
	g.t.Helper()
	_, e := g.call(opFlush, node, le(fh, uint64(0), owner))
	g.must("FLUSH", e)
}

// A waiting lock ends when FUSE_INTERRUPT names it, and changes nothing.
func TestInterruptEndsAWaitingLock(t *testing.T) {
	g := newGuest(t, Options{PosixLock: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.must("SETLK", g.setlk(node, fh, 1, unix.F_WRLCK))
	other, err := g.fs.newThread()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan unix.Errno)
	go func() {
		waiting := func() (unique uint64) {
			g.fs.locks.mu.Lock()
			defer g.fs.locks.mu.Unlock()
			for unique = range g.fs.locks.waiting {
			}
			return unique
		}
		unique := waiting()
		for ; unique == 0; unique = waiting() {
			time.Sleep(time.Millisecond)
		}
		other.in = append(make([]byte, inHeaderLen), le(unique)...)
		_, e := other.interrupt()
		done <- e
	}()
	_, e := g.call(opSetlkw, node, le(fh, uint64(2), uint64(0), uint64(9), uint32(unix.F_WRLCK), uint32(0), uint32(0), uint32(0)))
	if e != unix.EINTR {
		t.Errorf("the waiting lock ended with %v", e)
	}
	g.must("INTERRUPT", <-done)
	if len(g.fs.locks.waiting) != 0 {
		t.Error("the request still counts as waiting")
	}
	g.must("unlock", g.setlk(node, fh, 1, unix.F_UNLCK))
	g.must("lock by the other", g.setlk(node, fh, 3, unix.F_WRLCK))
}

// A second request by the number of one that waits is not to have a queue's reader wait in its place.
func TestTheNumberOfAWaitingLockHoldsUpNoReader(t *testing.T) {
	g := newGuest(t, Options{PosixLock: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.must("SETLK", g.setlk(node, fh, 1, unix.F_WRLCK))
	body := le(fh, uint64(2), uint64(0), uint64(9), uint32(unix.F_WRLCK), uint32(0), uint32(0), uint32(0))
	const unique = uint64(4711)
	g.fs.locks.waiting = map[uint64]*lockWait{unique: {delay: time.Hour}}
	req := le(uint32(inHeaderLen+len(body)), uint32(opSetlkw), unique, node, g.uid, g.gid, uint32(1), uint16(0), uint16(0), body)
	if _, v := g.serve(req, replyRoom, false); v != device.Detach {
		t.Errorf("verdict %d", v)
	}
}

func TestAskingAboutLocksKeepsNothing(t *testing.T) {
	g := newGuest(t, Options{PosixLock: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.must("SETLK", g.setlk(node, fh, 1, unix.F_WRLCK))
	reader, e := g.open(node, unix.O_RDONLY)
	g.must("OPEN", e)
	before := g.fs.budget.count.Load()
	for owner := range uint64(20) {
		rep, e := g.call(opGetlk, node, le(reader, owner, uint64(0), uint64(9), uint32(unix.F_WRLCK), uint32(0), uint32(0), uint32(0)))
		g.must("GETLK", e)
		free := overlay[fuse.LkOut](aligned(rep)).Lk.Typ == unix.F_UNLCK
		if free != (owner == 1) {
			t.Errorf("to owner %d the range is free: %v", owner, free)
		}
	}
	if after := g.fs.budget.count.Load(); after != before {
		t.Errorf("%d descriptors more than before", after-before)
	}
}

func TestALockOpensNothingForWritingInAReadOnlyShare(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir, PosixLock: true, ReadOnly: true})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	fh, e := g.open(f.NodeId, unix.O_RDONLY)
	g.must("OPEN", e)
	g.must("SETLK", g.setlk(f.NodeId, fh, 1, unix.F_RDLCK))
	for _, of := range g.fs.locks.owners {
		flags, err := unix.FcntlInt(uintptr(of.fd), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
			t.Errorf("the descriptor of the lock has flags %#x (%v)", flags, err)
		}
	}
}

// A process that finds a lock taken may ask by whom.
func TestGetlkNamesTheGuestsProcess(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, PosixLock: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	set := func(owner uint64, first, last uint64, typ, pid uint32) {
		t.Helper()
		_, e := g.call(opSetlk, node, le(fh, owner, first, last, typ, pid, uint32(0), uint32(0)))
		g.must("SETLK", e)
	}
	get := func(owner, first, last uint64) fuse.FileLock {
		t.Helper()
		rep, e := g.call(opGetlk, node, le(fh, owner, first, last, uint32(unix.F_WRLCK), uint32(1), uint32(0), uint32(0)))
		g.must("GETLK", e)
		return overlay[fuse.LkOut](aligned(rep)).Lk
	}
	set(1, 0, 9, unix.F_WRLCK, 1001)
	set(2, 20, 29, unix.F_RDLCK, 1002)
	host, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := unix.FcntlFlock(host.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 40, Len: 10}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		first, last uint64
		typ, pid    uint32
	}{
		{"of one", 5, 6, unix.F_WRLCK, 1001},
		{"of the other", 25, 35, unix.F_RDLCK, 1002},
		{"of the host", 40, 41, unix.F_WRLCK, 0},
		{"of nobody", 60, 61, unix.F_UNLCK, 0},
	} {
		if lk := get(3, c.first, c.last); lk.Typ != c.typ || lk.Pid != c.pid {
			t.Errorf("a lock %s: type %d, process %d, want %d and %d", c.name, lk.Typ, lk.Pid, c.typ, c.pid)
		}
	}
	if lk := get(1, 0, 9); lk.Typ != unix.F_UNLCK {
		t.Errorf("its own lock: type %d", lk.Typ)
	}
}
