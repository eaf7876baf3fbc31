package behaviour

import (
	"fmt"

	"golang.org/x/sys/unix"
)

var truncateCases = []testCase{
	{"truncate down keeps the front", nil, func(t *T) {
		for _, n := range []int64{9999, 8192, 8191, 4097, 4096, 4095, 1, 0} {
			t.file("f", pattern(10000, 1))
			t.ok(t.Truncate("f", n), "truncate")
			t.sameBytes(t.contents("f"), pattern(10000, 1)[:n], fmt.Sprintf("contents of size %d", n))
		}
	}},
	{"truncate up adds zeroes", nil, func(t *T) {
		for _, n := range []int64{101, 4095, 4096, 4097, 65536, 1 << 20} {
			t.file("f", pattern(100, 1))
			t.ok(t.Truncate("f", n), "truncate")
			want := make([]byte, n)
			copy(want, pattern(100, 1))
			t.sameBytes(t.contents("f"), want, fmt.Sprintf("contents of size %d", n))
		}
	}},
	{"truncate down and up leaves zeroes, not the old bytes", nil, func(t *T) {
		f := t.rw("f")
		for _, n := range []int64{0, 1, 100, 4095, 4096, 4097, 9999} {
			t.pwrite(f, pattern(20000, 1), 0)
			t.ok(f.Ftruncate(n), "ftruncate down")
			t.ok(f.Ftruncate(20000), "ftruncate up")
			want := make([]byte, 20000)
			copy(want, pattern(20000, 1)[:n])
			t.sameBytes(t.pread(f, 20001, 0), want, fmt.Sprintf("contents after size %d", n))
		}
	}},
	{"truncate to the same size changes nothing", nil, func(t *T) {
		t.file("f", pattern(5000, 1))
		t.ok(t.Truncate("f", 5000), "truncate")
		t.sameBytes(t.contents("f"), pattern(5000, 1), "contents")
	}},
	{"ftruncate is seen by other handles at once", nil, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.write(a, pattern(10000, 1))
		t.pread(b, 10000, 0)
		t.ok(a.Ftruncate(5), "ftruncate")
		t.size(b, 5)
		equal(t, len(t.pread(b, 100, 0)), 5, "bytes read by the other handle")
		t.ok(b.Ftruncate(5000), "ftruncate")
		t.size(a, 5000)
		t.sameBytes(t.pread(a, 4995, 5), make([]byte, 4995), "new zeroes by the other handle")
	}},
	{"truncate leaves positions, and writing there makes a hole", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(1000, 1))
		t.ok(f.Ftruncate(10), "ftruncate")
		t.write(f, []byte("x"))
		t.size(f, 1001)
		want := make([]byte, 1001)
		copy(want, pattern(1000, 1)[:10])
		want[1000] = 'x'
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a negative size is EINVAL", nil, func(t *T) {
		f := t.rw("f")
		t.fails(f.Ftruncate(-1), "ftruncate", unix.EINVAL)
		t.fails(t.Truncate("f", -1), "truncate", unix.EINVAL)
	}},
	{"a size past all limits is EFBIG or EINVAL", nil, func(t *T) {
		if t.Truncate(".", 0) == nil {
			t.Fatal("a directory was truncated")
		}
		f := t.rw("f")
		if err := f.Ftruncate(1<<63 - 1); err != nil {
			t.fails(err, "ftruncate", unix.EFBIG, unix.EINVAL)
			t.size(f, 0)
		}
	}},
	{"truncate to 8 GiB and back frees it all", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("head"))
		t.ok(f.Ftruncate(8*gib), "ftruncate")
		t.size(f, 8*gib)
		t.sameBytes(t.pread(f, 10000, 5*gib), make([]byte, 10000), "hole")
		t.pwrite(f, []byte("tail"), 8*gib-4)
		t.size(f, 8*gib)
		t.ok(f.Ftruncate(4), "ftruncate")
		t.sameBytes(t.contents("f"), []byte("head"), "contents")
	}},
	{"truncate of a fifo, a link's target and a directory", nil, func(t *T) {
		t.ok(t.Mknod("p", unix.S_IFIFO|0o600, 0), "mkfifo")
		t.fails(t.Truncate("p", 0), "truncate of a fifo", unix.EINVAL)
		t.dir("d")
		t.fails(t.Truncate("d", 0), "truncate of a directory", unix.EISDIR)
		t.file("f", []byte("x"))
		t.symlink("f", "l")
		t.ok(t.Truncate("l", 0), "truncate of a link")
		equal(t, t.stat("f").Size, 0, "size of the target")
	}},
	{"truncate frees blocks", []Capability{BlockCount}, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(1<<20, 1))
		t.ok(f.Fsync(), "fsync")
		t.ok(f.Ftruncate(0), "ftruncate")
		if b := t.fstat(f).Blocks; b > 64 {
			t.Fatalf("an empty file has %d blocks", b)
		}
	}},
	{"writes and truncates in turn keep the model", nil, func(t *T) {
		f := t.rw("f")
		var want []byte
		for i := range 60 {
			n := (i * 7919) % 30000
			if i%3 == 2 {
				t.ok(f.Ftruncate(int64(n)), "ftruncate")
				grown := make([]byte, n)
				copy(grown, want)
				want = grown
			} else {
				p := pattern(1000+i*13, byte(i))
				t.pwrite(f, p, int64(n))
				if len(want) < n+len(p) {
					grown := make([]byte, n+len(p))
					copy(grown, want)
					want = grown
				}
				copy(want[n:], p)
			}
			t.sameBytes(t.pread(f, len(want)+1, 0), want, fmt.Sprintf("contents after step %d", i))
		}
	}},
}
