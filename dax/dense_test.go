package dax

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFaultsMakeNoData has a guest touch a preallocated piece of a file, behind data or not: what the host then has in its page
// cache must not make data of what lies around it.
func TestFaultsMakeNoData(t *testing.T) {
	for _, c := range []struct {
		name  string
		data  int64 // MiB before the hole
		touch uint64
		late  bool // the piece is made when the range is set up
	}{
		{"in the hole", 0, 0, false},
		{"before the hole", 4, 0, false},
		{"at its edge", 4, 1, false},
		{"before one that is new", 4, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 64 << 20
			m := testManager(t, Config{Window: 2 * RangeSize})
			op, f := m.NewOp(), newTestFile(t, c.data<<20, 'a')
			allocate := func() {
				if err := op.BeginFallocate(&f.Inode, 0, 0, size); err != nil {
					t.Fatal(err)
				}
				defer op.End()
				if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
					t.Skipf("the file system of the tests preallocates nothing: %v", err)
				}
			}
			if c.late {
				show(t, m, op, f, c.touch*RangeSize, 0)
			}
			allocate()
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
			show(t, m, op, f, c.touch*RangeSize, 0)
			g := startGuest(t, m)
			g.do(guestCall{Op: "touch", Len: RangeSize, Seed: 4096})
			if at, err := unix.Seek(int(f.Fd()), c.data<<20, unix.SEEK_DATA); err != unix.ENXIO {
				t.Errorf("there are data at %d, %v", at, err)
			}
		})
	}
}

// A write to a file takes its lock in the host's kernel, and then the fault of what it writes, which may be a page of the same file.
func TestFaultIsServedWhileItsFileIsWritten(t *testing.T) {
	// Not every file system reads without that lock. tmpfs does, but does not look for holes without it.
	t.Setenv("TMPDIR", "/dev/shm")
	m := testManager(t, Config{Window: 4 * RangeSize})
	op, f := m.NewOp(), newTestFile(t, 3<<20, 'a')
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	show(t, m, op, f, RangeSize, 1)
	g := startGuest(t, m)
	watchdog(t, m, 20*time.Second)
	const n = 8192
	if r := g.do(guestCall{Op: "pwrite", Off: RangeSize, Len: n, Data: []byte(f.Name())}); r.N != n {
		t.Errorf("%d bytes were written", r.N)
	}
}
