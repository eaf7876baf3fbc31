package fs

import (
	"bytes"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestAFsyncIsExpectedAfterOneWriteAfterTheOther(t *testing.T) {
	// w is a WRITE and W one after which a FSYNC is expected, s is a FSYNC.
	for _, calls := range []string{
		"wswsWsWsW",
		"wwwswswsWs",
		"wswsWwswswsWs",
		"wswssssWs",
		"swswsW",
		"wwswwswws",
	} {
		var c commitPattern
		for i, call := range calls {
			if call == 's' {
				c.synced()
				continue
			}
			if got := c.expected(); got != (call == 'W') {
				t.Errorf("%s: after call %d a FSYNC is expected: %v", calls, i+1, got)
			}
			c.wrote()
		}
	}
}

func TestAWriteBeforeAnExpectedFsyncIsOnItsWayToTheDisk(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "log", unix.O_RDWR|unix.O_APPEND, 0o644)
	f := g.fs.files.get(fh)
	if !f.writesBack(f.inode) {
		t.Skip("the directory for temporary files is not on a disk; TMPDIR names another")
	}
	dirty := func() uint64 {
		var s unix.Cachestat_t
		if err := unix.Cachestat(uint(f.fd), &unix.CachestatRange{}, &s, 0); err != nil {
			t.Skipf("the kernel does not tell what is in its page cache: %v", err)
		}
		return s.Dirty
	}
	for i := range 4 {
		if _, e := g.write(node, fh, uint64(i)*4096, bytes.Repeat([]byte{'x'}, 4096)); e != 0 {
			t.Fatal(e)
		}
		if i < commitsSure {
			if dirty() == 0 {
				t.Fatal("the host has nothing to write back")
			}
		} else {
			for end := time.Now().Add(2 * time.Second); dirty() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("nothing is being written back")
				}
			}
		}
		if _, e := g.call(opFsync, node, le(fh, uint32(0), uint32(0))); e != 0 {
			t.Fatal(e)
		}
	}
}

// To begin to write may wait for the disk.
func TestReaderPassesOnAWriteBeforeAnExpectedFsync(t *testing.T) {
	g := newGuest(t, Options{})
	g.inline = true
	node, fh := g.create(rootID, "log", unix.O_RDWR, 0o644)
	if f := g.fs.files.get(fh); !f.writesBack(f.inode) {
		t.Skip("the directory for temporary files is not on a disk; TMPDIR names another")
	}
	const busy = commitsSure + 1 // before this one others are being synced, and behind it another comes
	for i := range busy + 2 {
		g.again = 0
		if i == busy {
			g.fs.syncing.Store(1)
		}
		if _, e := g.write(node, fh, 0, []byte("x")); e != 0 {
			t.Fatal(e)
		}
		if passed := g.again > 0; passed != (i == commitsSure) {
			t.Errorf("WRITE %d was passed on: %v", i+1, passed)
		}
		g.fs.syncing.Store(0)
		if i == busy {
			// The host may be at work on the page.
			g.again = 0
			if _, e := g.write(node, fh, 0, []byte("y")); e != 0 || g.again == 0 {
				t.Errorf("another WRITE before the FSYNC: %v, and the reader serves it", e)
			}
		}
		if _, e := g.call(opFsync, node, le(fh, uint32(0), uint32(0))); e != 0 {
			t.Fatal(e)
		}
	}
}

func TestNothingIsLostWhereTheDiskWasNotBegunWith(t *testing.T) {
	for e, want := range map[unix.Errno]bool{
		0: false, unix.EINTR: false, unix.EAGAIN: false, unix.ENOMEM: false, unix.ENOSYS: false, unix.EPERM: false,
		unix.EIO: true, unix.ENOSPC: true, unix.EDQUOT: true, unix.EUCLEAN: true, unix.EBADMSG: true,
	} {
		if mayHaveLost(e) != want {
			t.Errorf("%v: an error for the next FSYNC: %v", e, !want)
		}
	}
}

// Where the host finds no room on the disk it may say so only to who has it begin.
func TestAnErrorOfBeginningToWriteIsToldByTheNextFsync(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "log", unix.O_RDWR, 0o644)
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	g.thread.startWriteback(g.fs.files.get(fh).inode, &file{fd: pipe[1]}, &fuse.WriteIn{Size: 1}, 0)
	for i, want := range []unix.Errno{unix.ESPIPE, 0} {
		if _, e := g.call(opFsync, node, le(fh, uint32(0), uint32(0))); e != want {
			t.Errorf("FSYNC %d: %v, want %v", i+1, e, want)
		}
	}
}
