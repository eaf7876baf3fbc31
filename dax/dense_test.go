package dax

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFaultsMakeNoData has a guest touch a preallocated piece of a file, behind data or not: what the host then has in its page
// cache must not make data of what lies around it.
func TestFaultsMakeNoData(t *testing.T) {
	for _, c := range []struct {
		name  string
		data  int64 // MiB before the hole
		touch uint64
	}{
		{"in the hole", 0, 0},
		{"before the hole", 4, 0},
		{"at its edge", 4, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 64 << 20
			m := testManager(t, Config{Window: 2 * RangeSize})
			op, f := m.NewOp(), newTestFile(t, c.data<<20, 'a')
			if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
				t.Skip(err)
			}
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
