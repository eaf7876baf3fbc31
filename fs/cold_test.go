package fs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadsBehindMissesAreNotTriedForAWhile(t *testing.T) {
	var c coldness
	passed := func() (n int) {
		for c.expected() {
			if n++; n > 100 {
				t.Fatal("no read is tried any more")
			}
		}
		return n
	}
	if n := passed(); n != 0 {
		t.Errorf("%d reads are not tried though none has missed", n)
	}
	for i, want := range []int{1, 3, 7, 15, 15, 15} {
		c.missed(c.state.Load())
		if n := passed(); n != want {
			t.Errorf("after miss %d in a row %d reads are not tried, want %d", i+1, n, want)
		}
	}
	c.hit()
	c.missed(c.state.Load())
	if n := passed(); n != 1 {
		t.Errorf("after a hit and a miss %d reads are not tried, want 1", n)
	}
	c.missed(c.state.Load())
	c.hit()
	if n := passed(); n != 0 {
		t.Errorf("after a hit %d reads are not tried", n)
	}
}

func TestReaderPassesOnWhatIsTakenToMiss(t *testing.T) {
	g := newGuest(t, Options{})
	g.inline = true
	node, fh := g.create(rootID, "file", unix.O_RDWR, 0o644)
	if _, e := g.call(opWrite, node, le(fh, uint64(0), uint32(4), [4]uint32{}, uint32(0), []byte("data"))); e != 0 {
		t.Fatal(e)
	}
	g.fs.rootInode.mnt.memory = false
	f := g.fs.files.get(fh)
	f.cold.missed(f.cold.state.Load())
	f.cold.missed(f.cold.state.Load())
	var passed []int
	for range 6 {
		g.again = 0
		b, e := g.call(opRead, node, le(fh, uint64(0), uint32(4096), [5]uint32{}))
		if e != 0 || string(b) != "data" {
			t.Fatalf("READ: %q, %v", b, e)
		}
		passed = append(passed, g.again)
	}
	if !g.fs.rootInode.mnt.nowait.Load() {
		t.Skip("the file system does not say what is in the page cache")
	}
	if want := []int{1, 1, 1, 0, 0, 0}; !slices.Equal(passed, want) {
		t.Errorf("the reads were passed on %v times, want %v", passed, want)
	}
}
