package guestmem

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStoresOutsideTheFileAreDropped reads into a window of which every second
// 1000 bytes are said to be outside the file.
func TestStoresOutsideTheFileAreDropped(t *testing.T) {
	const n = 2 * bounceSize
	data := bytes.Repeat([]byte{'x'}, n)
	alternate := func(gpa uint64, n int) (next, inside int) {
		next = min(n, 1000-int(gpa%1000))
		if gpa/1000%2 == 0 {
			inside = next
		}
		return next, inside
	}
	for _, c := range []struct {
		name   string
		extent WindowExtent
		kind   Kind
		e      error
		stored func(at int) bool
	}{
		{"no limit", nil, Window, nil, func(int) bool { return true }},
		{"a limit", alternate, Window, nil, func(at int) bool { return at/1000%2 == 0 }},
		{"a limit is of no meaning for RAM", alternate, RAM, nil, func(int) bool { return true }},
		{"all outside", func(_ uint64, n int) (int, int) { return n, 0 }, Window, nil, func(int) bool { return false }},
		{"an extent without end", func(uint64, int) (int, int) { return 0, 0 }, Window, unix.EFAULT, func(int) bool { return false }},
		{"an extent past the end", func(_ uint64, n int) (int, int) { return n + 1, n + 1 }, Window, unix.EFAULT, func(int) bool { return false }},
		{"more inside than there is", func(_ uint64, n int) (int, int) { return n, n + 1 }, Window, unix.EFAULT, func(int) bool { return false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, host := newFile(t, n), newFile(t, n)
			if _, err := unix.Pwrite(host.fd, data, 0); err != nil {
				t.Fatal(err)
			}
			var m Memory
			must(t, m.Add(RegionSpec{Size: n, FD: f.dup(), Kind: c.kind}))
			table := m.Acquire()
			b := new(Buffers)
			b.Reset(table)
			must(t, b.Append(0, n))
			b.LimitStores(c.extent)
			got, err := b.ReadFrom(host.fd, 0, n, 0)
			if err != c.e || err == nil && got != n {
				t.Errorf("%d bytes, %v; want %v", got, err, c.e)
			}
			now := make([]byte, n)
			if _, err := unix.Pread(f.fd, now, 0); err != nil {
				t.Fatal(err)
			}
			for i, v := range now {
				if (v == 'x') != c.stored(i) {
					t.Fatalf("byte %d is %q", i, v)
				}
			}
			if b.Reset(table); b.extent != nil {
				t.Error("the limit outlasts the request")
			}
			table.Release()
			must(t, m.Replace(nil))
		})
	}
}
