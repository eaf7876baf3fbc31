package behaviour

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const readWrite = unix.PROT_READ | unix.PROT_WRITE

// mapped makes a case in which a fault that the tree cannot serve fails the case, not the process.
func mapped(run func(t *T)) func(t *T) {
	return func(t *T) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if r := recover(); r != nil {
				t.Fatalf("touching the mapping: %v", r)
			}
		}()
		run(t)
	}
}

func (t *T) mmap(f File, off int64, n, prot, flags int) Mapping {
	t.Helper()
	m, err := f.Mmap(off, n, prot, flags)
	t.ok(err, "mmap of %d at %d", n, off)
	t.Cleanup(func() { m.Close() })
	return m
}

var mmapCases = []testCase{
	{"a mapping shows what the file holds", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(100000, 1))
		m := t.mmap(t.rw("f"), 0, 100000, unix.PROT_READ, unix.MAP_SHARED)
		t.sameBytes(m.Bytes(), pattern(100000, 1), "mapping")
	})},
	{"the rest of the last page is zero", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(5000, 1))
		m := t.mmap(t.rw("f"), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
		t.sameBytes(m.Bytes()[:5000], pattern(5000, 1), "mapping")
		t.sameBytes(m.Bytes()[5000:], make([]byte, 3192), "rest of the page")
	})},
	{"a mapping at an offset shows that part", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(300000, 1))
		for _, off := range []int64{4096, 65536, 131072, 294912} {
			n := min(8192, 300000-int(off))
			m := t.mmap(t.rw("f"), off, n, unix.PROT_READ, unix.MAP_SHARED)
			t.sameBytes(m.Bytes(), pattern(300000, 1)[off:int(off)+n], fmt.Sprintf("mapping at %d", off))
		}
	})},
	{"bytes stored in a shared mapping are read", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(50000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 50000, readWrite, unix.MAP_SHARED)
		copy(m.Bytes()[10000:], pattern(20000, 2))
		t.sameBytes(t.pread(f, 20000, 10000), pattern(20000, 2), "read by the handle")
		t.sameBytes(t.contents("f")[10000:30000], pattern(20000, 2), "read by another handle")
	})},
	{"bytes stored survive msync, unmap and close", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(50000, 1))
		f, err := t.Open("f", unix.O_RDWR, 0)
		t.ok(err, "open")
		m, err := f.Mmap(0, 50000, readWrite, unix.MAP_SHARED)
		t.ok(err, "mmap")
		t.ok(f.Close(), "close, with the mapping left")
		copy(m.Bytes(), pattern(50000, 2))
		t.ok(m.Msync(), "msync")
		copy(m.Bytes()[49000:], pattern(1000, 3))
		t.ok(m.Close(), "munmap")
		want := pattern(50000, 2)
		copy(want[49000:], pattern(1000, 3))
		t.sameBytes(t.contents("f"), want, "contents")
	})},
	{"writes are seen in a shared mapping", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(50000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 50000, unix.PROT_READ, unix.MAP_SHARED)
		for i := range byte(20) {
			t.pwrite(t.rw("f"), pattern(3000, i), int64(i)*2000)
			t.sameBytes(m.Bytes()[int(i)*2000:int(i)*2000+3000], pattern(3000, i), "mapping after a write")
		}
	})},
	{"bytes stored in a private mapping stay private", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(10000, 1))
		m := t.mmap(t.rw("f"), 0, 10000, readWrite, unix.MAP_PRIVATE)
		copy(m.Bytes(), pattern(10000, 2))
		t.sameBytes(m.Bytes(), pattern(10000, 2), "mapping")
		t.sameBytes(t.contents("f"), pattern(10000, 1), "contents")
	})},
	{"two shared mappings are one memory", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", make([]byte, 16384))
		a := t.mmap(t.rw("f"), 0, 16384, readWrite, unix.MAP_SHARED)
		b := t.mmap(t.rw("f"), 4096, 8192, readWrite, unix.MAP_SHARED)
		for i := range byte(100) {
			a.Bytes()[4096+int(i)*50] = i
			equal(t, b.Bytes()[int(i)*50], i, "byte in the second mapping")
			b.Bytes()[int(i)*50+1] = i + 1
			equal(t, a.Bytes()[4096+int(i)*50+1], i+1, "byte in the first mapping")
		}
	})},
	{"a mapping sees the file grow in its last page and pages behind", []Capability{Mmap}, mapped(func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(100, 1))
		m := t.mmap(f, 0, 65536, unix.PROT_READ, unix.MAP_SHARED)
		t.sameBytes(m.Bytes()[:200], append(pattern(100, 1), make([]byte, 100)...), "before")
		t.pwrite(f, pattern(100, 2), 100)
		t.sameBytes(m.Bytes()[100:200], pattern(100, 2), "grown in the page")
		t.pwrite(f, pattern(60000, 3), 200)
		t.sameBytes(m.Bytes()[200:60200], pattern(60000, 3), "grown behind it")
	})},
	{"a file grown by ftruncate is written through its mapping", []Capability{Mmap}, mapped(func(t *T) {
		f := t.rw("f")
		t.ok(f.Ftruncate(1<<20), "ftruncate")
		m := t.mmap(f, 0, 1<<20, readWrite, unix.MAP_SHARED)
		for off := 0; off < 1<<20; off += 4096 {
			m.Bytes()[off] = byte(off>>12) | 1
		}
		got := t.contents("f")
		equal(t, len(got), 1<<20, "size")
		for off := 0; off < 1<<20; off += 4096 {
			equal(t, got[off], byte(off>>12)|1, "byte at %d", off)
		}
	})},
	{"truncate zeroes the tail of the last page of a mapping", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(8192, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 8192, readWrite, unix.MAP_SHARED)
		m.Bytes()[5000] = 'x'
		t.ok(f.Ftruncate(4500), "ftruncate")
		t.sameBytes(m.Bytes()[4500:8192], make([]byte, 3692), "tail of the page")
		t.ok(f.Ftruncate(8192), "ftruncate up")
		t.sameBytes(t.contents("f"), append(pattern(8192, 1)[:4500], make([]byte, 3692)...), "contents")
	})},
	{"what is stored behind the end in the last page is not in the file", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(1000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 4096, readWrite, unix.MAP_SHARED)
		copy(m.Bytes()[1000:], "garbage")
		t.ok(m.Msync(), "msync")
		t.size(f, 1000)
		t.sameBytes(t.contents("f"), pattern(1000, 1), "contents")
	})},
	{"a hole punched is zero in the mapping", []Capability{Mmap, PunchHole}, mapped(func(t *T) {
		t.file("f", pattern(200000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 200000, readWrite, unix.MAP_SHARED)
		for i := range byte(10) {
			copy(m.Bytes(), pattern(200000, i))
			t.ok(f.Fallocate(punch, 10000, 100000), "punch")
			t.sameBytes(m.Bytes(), zeroed(pattern(200000, i), 10000, 100000), "mapping")
			t.sameBytes(t.pread(f, 200000, 0), zeroed(pattern(200000, i), 10000, 100000), "read")
		}
	})},
	{"a copied range is seen in the mapping, and one stored is copied", []Capability{Mmap, CopyRange}, mapped(func(t *T) {
		t.file("a", pattern(100000, 1))
		t.file("b", make([]byte, 100000))
		a, b := t.rw("a"), t.rw("b")
		ma := t.mmap(a, 0, 100000, readWrite, unix.MAP_SHARED)
		mb := t.mmap(b, 0, 100000, readWrite, unix.MAP_SHARED)
		for i := range byte(10) {
			copy(ma.Bytes(), pattern(100000, i))
			mb.Bytes()[5] = i
			equal(t, t.copyRange(a, b, 100, 200, 50000), 50000, "bytes copied")
			t.sameBytes(mb.Bytes()[200:50200], pattern(100000, i)[100:50100], "mapping of the copy")
			equal(t, mb.Bytes()[5], i, "byte before the copy")
		}
	})},
	{"O_TRUNC under a mapping and growth again gives zeroes", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(50000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 50000, unix.PROT_READ, unix.MAP_SHARED)
		t.sameBytes(m.Bytes()[:100], pattern(50000, 1)[:100], "before")
		t.open(t.FS, "f", unix.O_WRONLY|unix.O_TRUNC, 0)
		t.ok(f.Ftruncate(50000), "ftruncate")
		t.sameBytes(m.Bytes(), make([]byte, 50000), "after")
	})},
	{"a read into a mapping of the same file and a write from it", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(100000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 100000, readWrite, unix.MAP_SHARED)
		n, err := f.Pread(m.Bytes()[50000:60000], 0)
		t.ok(err, "pread into the mapping")
		equal(t, n, 10000, "bytes read")
		n, err = f.Pwrite(m.Bytes()[:10000], 80000)
		t.ok(err, "pwrite from the mapping")
		equal(t, n, 10000, "bytes written")
		want := pattern(100000, 1)
		copy(want[50000:60000], want[:10000])
		copy(want[80000:90000], want[:10000])
		t.sameBytes(t.contents("f"), want, "contents")
	})},
	{"a write from a mapping of another file, and a read into it", []Capability{Mmap}, mapped(func(t *T) {
		t.file("a", pattern(200000, 1))
		t.file("b", pattern(200000, 2))
		a, b := t.rw("a"), t.rw("b")
		m := t.mmap(b, 0, 200000, readWrite, unix.MAP_SHARED)
		_, err := a.Pwrite(m.Bytes()[:100000], 50000)
		t.ok(err, "pwrite")
		t.sameBytes(t.pread(a, 100000, 50000), pattern(200000, 2)[:100000], "written from the mapping")
		_, err = a.Pread(m.Bytes()[100000:100500], 0)
		t.ok(err, "pread")
		t.sameBytes(t.pread(b, 500, 100000), pattern(200000, 1)[:500], "read into the mapping")
	})},
	{"a mapping outlives unlink and rename", []Capability{Mmap}, mapped(func(t *T) {
		t.file("f", pattern(50000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 50000, readWrite, unix.MAP_SHARED)
		t.ok(t.Rename("f", "g", 0), "rename")
		copy(m.Bytes(), pattern(10000, 2))
		t.sameBytes(t.contents("g")[:10000], pattern(10000, 2), "contents after rename")
		t.ok(t.Unlink("g"), "unlink")
		copy(m.Bytes()[20000:], pattern(10000, 3))
		t.sameBytes(t.pread(f, 10000, 20000), pattern(10000, 3), "read after unlink")
	})},
	{"a mapping moves mtime when it was written", []Capability{Mmap, WriteTimes}, mapped(func(t *T) {
		t.file("f", pattern(5000, 1))
		f := t.rw("f")
		m := t.mmap(f, 0, 5000, readWrite, unix.MAP_SHARED)
		setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		m.Bytes()[0] = 'x'
		t.ok(m.Msync(), "msync")
		t.ok(f.Fsync(), "fsync")
		if st := t.fstat(f); st.Mtime.Sec < 1e9 {
			t.Fatalf("mtime is %d", st.Mtime.Sec)
		}
	})},
	{"mapping rights follow the handle", []Capability{Mmap}, func(t *T) {
		t.file("f", pattern(5000, 1))
		r, w := t.open(t.FS, "f", unix.O_RDONLY, 0), t.open(t.FS, "f", unix.O_WRONLY, 0)
		_, err := r.Mmap(0, 4096, readWrite, unix.MAP_SHARED)
		t.fails(err, "shared and writable by a reading handle", unix.EACCES)
		_, err = w.Mmap(0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		t.fails(err, "by a writing handle", unix.EACCES)
		t.mmap(r, 0, 4096, readWrite, unix.MAP_PRIVATE)
	}},
	{"a bad length or offset is EINVAL, a directory ENODEV", []Capability{Mmap}, func(t *T) {
		f := t.rw("f")
		_, err := f.Mmap(0, 0, unix.PROT_READ, unix.MAP_SHARED)
		t.fails(err, "length 0", unix.EINVAL)
		_, err = f.Mmap(100, 4096, unix.PROT_READ, unix.MAP_SHARED)
		t.fails(err, "odd offset", unix.EINVAL)
		_, err = t.opendir(".").Mmap(0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		t.fails(err, "directory", unix.ENODEV, unix.EACCES)
	}},
	{"many ranges of a large sparse file are mapped in turn", []Capability{Mmap}, mapped(func(t *T) {
		f := t.rw("f")
		const step = 2 << 20
		n := t.scaled(200, 20)
		t.ok(f.Ftruncate(int64(n)*step), "ftruncate")
		for i := range n {
			m, err := f.Mmap(int64(i)*step, 8192, readWrite, unix.MAP_SHARED)
			t.ok(err, "mmap")
			m.Bytes()[4095], m.Bytes()[8191] = byte(i)|1, byte(i)|2
			t.ok(m.Close(), "munmap")
		}
		for i := range n {
			got := t.pread(f, 8192, int64(i)*step)
			equal(t, got[4095], byte(i)|1, "byte in range %d", i)
			equal(t, got[8191], byte(i)|2, "byte in range %d", i)
		}
	})},
}
