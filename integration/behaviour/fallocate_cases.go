package behaviour

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	keepSize = unix.FALLOC_FL_KEEP_SIZE
	punch    = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	zero     = unix.FALLOC_FL_ZERO_RANGE
	collapse = unix.FALLOC_FL_COLLAPSE_RANGE
	insert   = unix.FALLOC_FL_INSERT_RANGE
	unshare  = unix.FALLOC_FL_UNSHARE_RANGE
)

// block is a multiple of the block size of every tree that the suite meets.
const block = 64 << 10

// zeroed is data with n bytes from off made zero, grown if need be.
func zeroed(data []byte, off, n int) []byte {
	out := make([]byte, max(len(data), off+n))
	copy(out, data)
	clear(out[off : off+n])
	return out
}

var fallocateCases = []testCase{
	{"fallocate makes an empty file a file of zeroes", []Capability{Fallocate}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Fallocate(0, 0, 100000), "fallocate")
		t.size(f, 100000)
		t.sameBytes(t.contents("f"), make([]byte, 100000), "contents")
	}},
	{"fallocate within the file leaves its bytes and size", []Capability{Fallocate}, func(t *T) {
		t.file("f", pattern(200000, 1))
		f := t.rw("f")
		t.ok(f.Fallocate(0, 1000, 100000), "fallocate")
		t.sameBytes(t.contents("f"), pattern(200000, 1), "contents")
	}},
	{"fallocate over the end grows the file", []Capability{Fallocate}, func(t *T) {
		t.file("f", pattern(1000, 1))
		f := t.rw("f")
		t.ok(f.Fallocate(0, 500, 9500), "fallocate")
		t.sameBytes(t.contents("f"), append(pattern(1000, 1), make([]byte, 9000)...), "contents")
	}},
	{"fallocate that keeps the size takes blocks only", []Capability{Fallocate, BlockCount}, func(t *T) {
		t.file("f", []byte("abc"))
		f := t.rw("f")
		t.ok(f.Fallocate(keepSize, 0, 1<<20), "fallocate")
		t.size(f, 3)
		if b := t.fstat(f).Blocks; b < 2048 {
			t.Fatalf("%d blocks after asking for 1 MiB", b)
		}
		t.sameBytes(t.contents("f"), []byte("abc"), "contents")
		t.pwrite(f, []byte("x"), 5000)
		t.sameBytes(t.contents("f"), append(zeroed([]byte("abc"), 3, 4997), 'x'), "contents after a write in the blocks")
	}},
	{"fallocate of blocks before writing at 4 GiB", []Capability{Fallocate}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Fallocate(0, 4*gib-4096, 8192), "fallocate")
		t.size(f, 4*gib+4096)
		t.pwrite(f, pattern(100, 1), 4*gib-50)
		t.sameBytes(t.pread(f, 100, 4*gib-50), pattern(100, 1), "contents")
	}},
	{"fallocate of no bytes or from before the start is EINVAL", []Capability{Fallocate}, func(t *T) {
		f := t.rw("f")
		t.fails(f.Fallocate(0, 0, 0), "length 0", unix.EINVAL)
		t.fails(f.Fallocate(0, 0, -1), "length -1", unix.EINVAL)
		t.fails(f.Fallocate(0, -1, 10), "offset -1", unix.EINVAL)
		t.fails(f.Fallocate(0, 1<<63-1, 10), "past the largest offset", unix.EFBIG, unix.EINVAL)
		t.size(f, 0)
	}},
	{"fallocate by a reading handle is EBADF", []Capability{Fallocate}, func(t *T) {
		t.file("f", nil)
		t.fails(t.open(t.FS, "f", unix.O_RDONLY, 0).Fallocate(0, 0, 10), "fallocate", unix.EBADF)
	}},
	{"fallocate of a directory is an error", []Capability{Fallocate}, func(t *T) {
		t.dir("d")
		err := t.open(t.FS, "d", unix.O_RDONLY, 0).Fallocate(0, 0, 10)
		t.fails(err, "fallocate", unix.EBADF, unix.EISDIR, unix.ENODEV)
	}},
	{"an unknown mode, or a hole that may change the size, is EOPNOTSUPP", []Capability{Fallocate}, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(10000, 1))
		for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE, 0x80000000, 0x4000, punch | zero} {
			t.fails(f.Fallocate(mode, 0, 4096), fmt.Sprintf("mode %#x", mode), unix.EOPNOTSUPP, unix.EINVAL)
		}
		t.sameBytes(t.contents("f"), pattern(10000, 1), "contents")
	}},
	{"a punched hole is zero and all around it stays", []Capability{PunchHole}, func(t *T) {
		for _, c := range []struct{ off, n int }{{0, 4096}, {4096, 8192}, {1, 1}, {4095, 2}, {100, 30000}, {0, 300000},
			{299999, 1}, {131072, 65536}, {65535, 65538}} {
			t.file("f", pattern(300000, 1))
			f := t.rw("f")
			t.ok(f.Fallocate(punch, int64(c.off), int64(c.n)), "punch")
			t.sameBytes(t.contents("f"), zeroed(pattern(300000, 1), c.off, c.n), fmt.Sprintf("hole of %d at %d", c.n, c.off))
		}
	}},
	{"a hole over and past the end leaves the size", []Capability{PunchHole}, func(t *T) {
		t.file("f", pattern(10000, 1))
		f := t.rw("f")
		t.ok(f.Fallocate(punch, 5000, 100000), "punch over the end")
		t.ok(f.Fallocate(punch, 50000, 100000), "punch past the end")
		t.sameBytes(t.contents("f"), zeroed(pattern(10000, 1), 5000, 5000), "contents")
	}},
	{"a hole is seen by other handles that have read the pages", []Capability{PunchHole}, func(t *T) {
		t.file("f", pattern(100000, 1))
		a, b := t.rw("f"), t.rw("f")
		t.pread(b, 100000, 0)
		t.ok(a.Fallocate(punch, 10000, 50000), "punch")
		t.sameBytes(t.pread(b, 100000, 0), zeroed(pattern(100000, 1), 10000, 50000), "read by the other handle")
	}},
	{"dirty pages do not come back into a hole", []Capability{PunchHole}, func(t *T) {
		f := t.rw("f")
		for i := range byte(20) {
			t.pwrite(f, pattern(200000, i), 0)
			t.ok(f.Fallocate(punch, 4096, 131072), "punch")
			t.ok(f.Fsync(), "fsync")
			t.sameBytes(t.pread(f, 200000, 0), zeroed(pattern(200000, i), 4096, 131072), "contents")
		}
	}},
	{"a hole can be written again", []Capability{PunchHole}, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(100000, 1))
		t.ok(f.Fallocate(punch, 0, 100000), "punch")
		t.pwrite(f, pattern(5000, 2), 30000)
		want := make([]byte, 100000)
		copy(want[30000:], pattern(5000, 2))
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a hole frees blocks", []Capability{PunchHole, BlockCount}, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(4<<20, 1))
		t.ok(f.Fsync(), "fsync")
		before := t.fstat(f).Blocks
		t.ok(f.Fallocate(punch, 1<<20, 2<<20), "punch")
		if after := t.fstat(f).Blocks; after > before-2<<20/512+64 {
			t.Fatalf("%d blocks before, %d after a hole of 2 MiB", before, after)
		}
	}},
	{"a zeroed range is zero and all around it stays", []Capability{ZeroRange}, func(t *T) {
		for _, c := range []struct{ off, n int }{{0, 4096}, {4096, 8192}, {1, 1}, {4095, 2}, {100, 30000}, {131072, 65536}, {299999, 1}} {
			t.file("f", pattern(300000, 1))
			f := t.rw("f")
			t.ok(f.Fallocate(zero, int64(c.off), int64(c.n)), "zero")
			t.sameBytes(t.contents("f"), zeroed(pattern(300000, 1), c.off, c.n), fmt.Sprintf("%d zeroes at %d", c.n, c.off))
		}
	}},
	{"zeroing over the end grows the file, with KEEP_SIZE not", []Capability{ZeroRange}, func(t *T) {
		t.file("f", pattern(10000, 1))
		f := t.rw("f")
		t.ok(f.Fallocate(zero|keepSize, 5000, 20000), "zero, keeping the size")
		t.sameBytes(t.contents("f"), zeroed(pattern(10000, 1), 5000, 5000), "contents")
		t.ok(f.Fallocate(zero, 8000, 20000), "zero")
		t.sameBytes(t.contents("f"), zeroed(pattern(10000, 1)[:5000], 5000, 23000), "contents")
	}},
	{"a collapsed range is gone", []Capability{CollapseRange}, func(t *T) {
		data := pattern(6*block+777, 1)
		t.file("f", data)
		f := t.rw("f")
		t.ok(f.Fallocate(collapse, block, 2*block), "collapse")
		want := append(append([]byte{}, data[:block]...), data[3*block:]...)
		t.sameBytes(t.contents("f"), want, "contents")
		t.size(f, 4*block+777)
	}},
	{"a collapse of odd size or to the end is EINVAL", []Capability{CollapseRange}, func(t *T) {
		data := pattern(4*block, 1)
		t.file("f", data)
		f := t.rw("f")
		t.fails(f.Fallocate(collapse, 0, 1000), "odd length", unix.EINVAL)
		t.fails(f.Fallocate(collapse, 100, block), "odd offset", unix.EINVAL)
		t.fails(f.Fallocate(collapse, 2*block, 2*block), "to the end", unix.EINVAL)
		t.fails(f.Fallocate(collapse, 8*block, block), "past the end", unix.EINVAL)
		t.fails(f.Fallocate(collapse|keepSize, 0, block), "keeping the size", unix.EINVAL, unix.EOPNOTSUPP)
		t.sameBytes(t.contents("f"), data, "contents")
	}},
	{"an inserted range is zero and moves the rest", []Capability{InsertRange}, func(t *T) {
		data := pattern(3*block+55, 1)
		t.file("f", data)
		f := t.rw("f")
		t.ok(f.Fallocate(insert, block, 2*block), "insert")
		want := append(append(append([]byte{}, data[:block]...), make([]byte, 2*block)...), data[block:]...)
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"an insert of odd size or at the end is EINVAL", []Capability{InsertRange}, func(t *T) {
		data := pattern(2*block, 1)
		t.file("f", data)
		f := t.rw("f")
		t.fails(f.Fallocate(insert, 0, 1000), "odd length", unix.EINVAL)
		t.fails(f.Fallocate(insert, 100, block), "odd offset", unix.EINVAL)
		t.fails(f.Fallocate(insert, 2*block, block), "at the end", unix.EINVAL)
		t.sameBytes(t.contents("f"), data, "contents")
	}},
	{"collapse and insert undo each other", []Capability{CollapseRange, InsertRange}, func(t *T) {
		data := pattern(5*block, 1)
		t.file("f", data)
		f := t.rw("f")
		other := t.rw("f")
		for i := range 5 {
			t.pread(other, len(data), 0)
			t.ok(f.Fallocate(insert, int64(i%4)*block, block), "insert")
			t.size(other, 6*block)
			t.ok(f.Fallocate(collapse, int64(i%4)*block, block), "collapse")
			t.sameBytes(t.pread(other, 6*block, 0), data, "contents by another handle")
		}
	}},
	{"unshare leaves the bytes", []Capability{UnshareRange}, func(t *T) {
		t.file("f", pattern(200000, 1))
		t.ok(t.rw("f").Fallocate(unshare, 0, 200000), "unshare")
		t.sameBytes(t.contents("f"), pattern(200000, 1), "contents")
	}},
	{"the modes that a tree lacks are EOPNOTSUPP and change nothing", nil, func(t *T) {
		t.file("f", pattern(4*block, 1))
		f := t.rw("f")
		for c, mode := range map[Capability]uint32{PunchHole: punch, ZeroRange: zero, CollapseRange: collapse,
			InsertRange: insert, UnshareRange: unshare, Fallocate: 0} {
			if t.Lacks(c) != "" {
				t.fails(f.Fallocate(mode, block, block), string(c), unix.EOPNOTSUPP)
			}
		}
		t.sameBytes(t.contents("f"), pattern(4*block, 1), "contents")
	}},
}
