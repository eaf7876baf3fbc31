package fs

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// fsyncOf is an FSYNC as it is on the wire.
func (g *guest) fsyncOf(node, fh uint64, flags uint32) []byte {
	g.unique++
	return le(uint32(inHeaderLen+16), uint32(opFsync), g.unique, node, g.uid, g.gid, uint32(1), uint32(0), fh, flags, uint32(0))
}

func TestFsyncsOfOneHandleAreJoint(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "file", unix.O_RDWR, 0o644)
	_, other := g.create(rootID, "other", unix.O_RDWR, 0o644)
	joint := func(fh uint64, flags uint32) uint64 {
		if _, v := g.serve(g.fsyncOf(node, fh, flags), replyRoom, false); v != device.Again {
			t.Fatalf("a reader gave the verdict %d", v)
		}
		return g.thread.Joint()
	}
	a := joint(fh, 0)
	if a == 0 || a != joint(fh, 0) {
		t.Error("two of one handle are not joint")
	}
	if a == joint(fh, 1) {
		t.Error("an fdatasync is joint with an fsync")
	}
	if a == joint(other, 0) {
		t.Error("two handles are joint")
	}
	if _, v := g.serve(g.fsyncOf(node, fh, 0)[:inHeaderLen+4], replyRoom, false); v == device.Again {
		t.Error("a request that is too short is passed on")
	}
	if g.call(opGetattr, node, make([]byte, 16)); g.thread.Joint() != 0 {
		t.Error("a GETATTR is joint with something")
	}
}

func TestFsyncThatJoinsIsAnsweredAlike(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "file", unix.O_RDWR, 0o644)
	otherNode, other := g.create(rootID, "other", unix.O_RDWR, 0o644)
	f := g.fs.files.get(fh)
	file := f.fd
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	defer func() { f.fd = file }()
	sync := func(join bool, node, fh uint64, flags uint32) unix.Errno {
		if join {
			g.thread.Join()
		}
		_, e := g.call(opFsync, node, le(fh, flags, uint32(0)))
		return e
	}
	type step struct {
		what  string
		join  bool
		flags uint32
		other bool
		bad   bool // what the file is made to be: nothing that can be synced
		want  unix.Errno
	}
	for i, s := range []step{
		{what: "the first, which joins nothing", join: true, bad: true, want: unix.EINVAL},
		{what: "one that joins it", join: true, want: unix.EINVAL},
		{what: "another", join: true, want: unix.EINVAL},
		{what: "one that does not", want: 0},
		{what: "one that joins that", join: true, bad: true, want: 0},
		{what: "of another handle", join: true, other: true, want: 0},
		{what: "behind that", join: true, bad: true, want: unix.EINVAL},
		{what: "of another kind", join: true, flags: 1, want: 0},
		{what: "behind that", join: true, bad: true, want: unix.EINVAL},
	} {
		f.fd = file
		if s.bad {
			f.fd = pipe[0]
		}
		n, h := node, fh
		if s.other {
			n, h = otherNode, other
		}
		if e := sync(s.join, n, h, s.flags); e != s.want {
			t.Errorf("step %d, %s: %v, want %v", i, s.what, e, s.want)
		}
	}
	f.fd = file
	g.must("FSYNC", sync(false, node, fh, 0))
	f.fd = pipe[0]
	if e := sync(false, otherNode, fh, 0); e != unix.EBADF {
		t.Errorf("of a handle of another inode: %v", e)
	}
	if e := sync(true, node, fh, 0); e != unix.EINVAL {
		t.Errorf("one that joins one that was refused: %v", e)
	}
}
