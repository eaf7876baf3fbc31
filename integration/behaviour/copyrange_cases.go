package behaviour

import (
	"golang.org/x/sys/unix"
)

// copyRange copies by as many calls as it takes, and returns how much was copied.
func (t *T) copyRange(src, dst File, soff, doff int64, n int) (done int) {
	t.Helper()
	for done < n {
		m, err := src.CopyTo(dst, &soff, &doff, n-done)
		t.ok(err, "copy of %d from %d to %d", n-done, soff, doff)
		if m == 0 {
			break
		}
		done += m
	}
	return done
}

var copyRangeCases = []testCase{
	{"a range is copied to another file", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(300000, 1))
		a, b := t.rw("a"), t.rw("b")
		for _, c := range []struct {
			soff, doff int64
			n          int
		}{{0, 0, 300000}, {1, 0, 100}, {4096, 8192, 65536}, {4097, 3, 99999}, {100000, 400000, 50000}} {
			t.ok(b.Ftruncate(0), "ftruncate")
			equal(t, t.copyRange(a, b, c.soff, c.doff, c.n), c.n, "bytes copied")
			want := make([]byte, c.doff+int64(c.n))
			copy(want[c.doff:], pattern(300000, 1)[c.soff:])
			t.sameBytes(t.contents("b"), want, "contents of the copy")
		}
		t.sameBytes(t.contents("a"), pattern(300000, 1), "contents of the source")
	}},
	{"offsets that are given move, and positions stay", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		a, b := t.rw("a"), t.rw("b")
		soff, doff := int64(10), int64(20)
		n, err := a.CopyTo(b, &soff, &doff, 100)
		t.ok(err, "copy")
		equal(t, soff, int64(10+n), "source offset")
		equal(t, doff, int64(20+n), "destination offset")
		t.seek(a, 0, unix.SEEK_CUR, 0)
		t.seek(b, 0, unix.SEEK_CUR, 0)
	}},
	{"without offsets positions are used and moved", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		a, b := t.rw("a"), t.rw("b")
		t.seek(a, 100, unix.SEEK_SET, 100)
		t.seek(b, 5, unix.SEEK_SET, 5)
		n, err := a.CopyTo(b, nil, nil, 200)
		t.ok(err, "copy")
		equal(t, n, 200, "bytes copied")
		t.seek(a, 0, unix.SEEK_CUR, 300)
		t.seek(b, 0, unix.SEEK_CUR, 205)
		t.sameBytes(t.pread(b, 200, 5), pattern(1000, 1)[100:300], "contents")
	}},
	{"a copy stops at the end of the source", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		a, b := t.rw("a"), t.rw("b")
		equal(t, t.copyRange(a, b, 900, 0, 5000), 100, "bytes copied")
		t.size(b, 100)
	}},
	{"a copy from or past the end copies nothing", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		a, b := t.rw("a"), t.rw("b")
		for _, off := range []int64{1000, 1001, gib} {
			n, err := a.CopyTo(b, &off, new(int64), 10)
			t.ok(err, "copy")
			equal(t, n, 0, "bytes copied")
		}
		t.size(b, 0)
	}},
	{"a copy of nothing copies nothing", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		n, err := t.rw("a").CopyTo(t.rw("b"), new(int64), new(int64), 0)
		t.ok(err, "copy")
		equal(t, n, 0, "bytes copied")
	}},
	{"a copy past the end of the destination leaves a hole", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(100, 1))
		t.file("b", []byte("xyz"))
		equal(t, t.copyRange(t.rw("a"), t.rw("b"), 0, 10000, 100), 100, "bytes copied")
		want := make([]byte, 10100)
		copy(want, "xyz")
		copy(want[10000:], pattern(100, 1))
		t.sameBytes(t.contents("b"), want, "contents")
	}},
	{"within one file ranges that do not overlap are copied", []Capability{CopyRange}, func(t *T) {
		data := pattern(200000, 1)
		t.file("a", data)
		a := t.rw("a")
		equal(t, t.copyRange(a, a, 0, 100000, 50000), 50000, "bytes copied")
		copy(data[100000:150000], data[:50000])
		t.sameBytes(t.contents("a"), data, "contents")
		b := t.rw("a")
		equal(t, t.copyRange(a, b, 100, 0, 100), 100, "bytes copied by two handles")
		copy(data, data[100:200])
		t.sameBytes(t.contents("a"), data, "contents")
	}},
	{"within one file ranges that overlap are EINVAL", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(100000, 1))
		a, b := t.rw("a"), t.rw("a")
		for _, dst := range []File{a, b} {
			for _, c := range [][2]int64{{0, 0}, {0, 1}, {1, 0}, {0, 9999}, {9999, 0}, {5000, 4096}} {
				soff, doff := c[0], c[1]
				_, err := a.CopyTo(dst, &soff, &doff, 10000)
				t.fails(err, "copy", unix.EINVAL)
			}
		}
		t.sameBytes(t.contents("a"), pattern(100000, 1), "contents")
	}},
	{"within one file ranges that meet are copied", []Capability{CopyRange}, func(t *T) {
		data := pattern(20000, 1)
		t.file("a", data)
		a := t.rw("a")
		equal(t, t.copyRange(a, a, 0, 10000, 10000), 10000, "bytes copied")
		copy(data[10000:], data[:10000])
		t.sameBytes(t.contents("a"), data, "contents")
	}},
	{"a copy goes by the other name of the file too", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		t.ok(t.Link("a", "b"), "link")
		soff, doff := int64(0), int64(10)
		_, err := t.rw("a").CopyTo(t.rw("b"), &soff, &doff, 100)
		t.fails(err, "copy over itself", unix.EINVAL)
		equal(t, t.copyRange(t.rw("a"), t.rw("b"), 0, 1000, 100), 100, "bytes copied")
	}},
	{"handles that cannot be read or written are EBADF", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		t.file("b", nil)
		r, w := t.open(t.FS, "a", unix.O_RDONLY, 0), t.open(t.FS, "b", unix.O_WRONLY, 0)
		for _, c := range [][2]File{{w, r}, {r, r}, {w, w}} {
			_, err := c[0].CopyTo(c[1], new(int64), new(int64), 10)
			t.fails(err, "copy", unix.EBADF)
		}
		ap := t.open(t.FS, "b", unix.O_WRONLY|unix.O_APPEND, 0)
		_, err := r.CopyTo(ap, new(int64), new(int64), 10)
		t.fails(err, "copy to an appending handle", unix.EBADF)
	}},
	{"a directory is EISDIR and a fifo EINVAL", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		t.dir("d")
		_, err := t.open(t.FS, "d", unix.O_RDONLY, 0).CopyTo(t.rw("a"), new(int64), new(int64), 10)
		t.fails(err, "copy from a directory", unix.EISDIR)
		if t.Lacks(SpecialOpen) == "" {
			t.ok(t.Mknod("p", unix.S_IFIFO|0o600, 0), "mkfifo")
			_, err := t.open(t.FS, "p", unix.O_RDWR, 0).CopyTo(t.rw("a"), nil, new(int64), 10)
			t.fails(err, "copy from a fifo", unix.EINVAL)
		}
	}},
	{"a negative offset is EINVAL or EOVERFLOW", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(1000, 1))
		neg := int64(-5)
		_, err := t.rw("a").CopyTo(t.rw("b"), &neg, new(int64), 10)
		t.fails(err, "copy", unix.EINVAL, unix.EOVERFLOW)
	}},
	{"a copy is seen by a handle that has read the old bytes", []Capability{CopyRange}, func(t *T) {
		t.file("a", pattern(100000, 1))
		t.file("b", pattern(100000, 2))
		r := t.rw("b")
		t.pread(r, 100000, 0)
		equal(t, t.copyRange(t.rw("a"), t.rw("b"), 0, 0, 100000), 100000, "bytes copied")
		t.sameBytes(t.pread(r, 100000, 0), pattern(100000, 1), "contents")
	}},
	{"a copy takes what was written just before", []Capability{CopyRange}, func(t *T) {
		a, b := t.rw("a"), t.rw("b")
		for i := range byte(10) {
			t.pwrite(a, pattern(50000, i), 0)
			equal(t, t.copyRange(a, b, 0, int64(i)*1000, 50000), 50000, "bytes copied")
			t.sameBytes(t.pread(b, 50000, int64(i)*1000), pattern(50000, i), "contents")
		}
	}},
	{"bytes around the copy stay", []Capability{CopyRange}, func(t *T) {
		want := pattern(300000, 2)
		t.file("a", pattern(100000, 1))
		t.file("b", want)
		equal(t, t.copyRange(t.rw("a"), t.rw("b"), 3, 100001, 50001), 50001, "bytes copied")
		copy(want[100001:150002], pattern(100000, 1)[3:])
		t.sameBytes(t.contents("b"), want, "contents")
	}},
	{"a copy at 4 GiB and more", []Capability{CopyRange}, func(t *T) {
		a, b := t.rw("a"), t.rw("b")
		t.pwrite(a, pattern(10000, 1), 5*gib)
		equal(t, t.copyRange(a, b, 5*gib, 6*gib, 10000), 10000, "bytes copied")
		t.sameBytes(t.pread(b, 10000, 6*gib), pattern(10000, 1), "contents")
		t.size(b, 6*gib+10000)
	}},
}
