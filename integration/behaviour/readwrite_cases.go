package behaviour

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	gib = int64(1) << 30
	mib = int64(1) << 20
)

var readWriteCases = []testCase{
	{"what is written is read, for sizes around the block and page", nil, func(t *T) {
		for _, n := range []int{1, 2, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 65535, 65536, 65537, 131072, 1 << 20, 1<<20 + 1} {
			name := fmt.Sprintf("f%d", n)
			t.file(name, pattern(n, byte(n)))
			equal(t, int(t.stat(name).Size), n, "size")
			t.sameBytes(t.contents(name), pattern(n, byte(n)), name)
		}
	}},
	{"a read of many sizes at many offsets gives the right bytes", nil, func(t *T) {
		data := pattern(300000, 7)
		t.file("f", data)
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		for _, off := range []int{0, 1, 4095, 4096, 4097, 65535, 131071, 131072, 200001, 299999} {
			for _, n := range []int{1, 2, 4095, 4096, 4097, 100000, 150001} {
				end := min(off+n, len(data))
				t.sameBytes(t.pread(f, n, int64(off)), data[off:end], fmt.Sprintf("%d bytes at %d", n, off))
			}
		}
	}},
	{"overwrites at odd places leave the rest", nil, func(t *T) {
		want := pattern(100000, 1)
		t.file("f", want)
		f := t.rw("f")
		for i, c := range []struct{ off, n int }{{0, 1}, {1, 4095}, {4095, 2}, {4096, 4096}, {8191, 4098}, {50001, 3}, {99999, 1}, {65535, 2}} {
			part := pattern(c.n, byte(i+10))
			t.pwrite(f, part, int64(c.off))
			copy(want[c.off:], part)
		}
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a write past the end leaves a hole of zeroes", nil, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, []byte("end"), 100000)
		t.size(f, 100003)
		want := make([]byte, 100003)
		copy(want[100000:], "end")
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a write past the end of a partial page zeroes the rest of the page", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(3000, 1))
		t.ok(f.Ftruncate(1000), "ftruncate")
		t.pwrite(f, []byte("x"), 3500)
		want := make([]byte, 3501)
		copy(want, pattern(3000, 1)[:1000])
		want[3500] = 'x'
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a read at or past the end gives nothing", nil, func(t *T) {
		t.file("f", []byte("abc"))
		f := t.rw("f")
		for _, off := range []int64{3, 4, 4096, gib, 1 << 40} {
			n, err := f.Pread(make([]byte, 10), off)
			t.ok(err, "pread")
			equal(t, n, 0, "bytes read at %d", off)
		}
	}},
	{"a read over the end is short", nil, func(t *T) {
		t.file("f", []byte("abc"))
		n, err := t.rw("f").Pread(make([]byte, 4096), 1)
		t.ok(err, "pread")
		equal(t, n, 2, "bytes read")
	}},
	{"a read of nothing gives nothing", nil, func(t *T) {
		t.file("f", []byte("abc"))
		f := t.rw("f")
		n, err := f.Read(nil)
		t.ok(err, "read")
		equal(t, n, 0, "bytes read")
		pos, err := f.Lseek(0, unix.SEEK_CUR)
		t.ok(err, "lseek")
		equal(t, pos, 0, "position")
	}},
	{"a write of nothing changes nothing, past the end neither", nil, func(t *T) {
		t.file("f", []byte("abc"))
		f := t.rw("f")
		n, err := f.Pwrite(nil, 100)
		t.ok(err, "pwrite")
		equal(t, n, 0, "bytes written")
		t.size(f, 3)
	}},
	{"read and write share one position", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("abcdef"))
		_, err := f.Lseek(2, unix.SEEK_SET)
		t.ok(err, "lseek")
		t.write(f, []byte("XY"))
		p := make([]byte, 10)
		n, err := f.Read(p)
		t.ok(err, "read")
		equal(t, string(p[:n]), "ef", "bytes read")
		t.sameBytes(t.contents("f"), []byte("abXYef"), "contents")
	}},
	{"pread and pwrite leave the position", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("abcdef"))
		t.pread(f, 3, 0)
		t.pwrite(f, []byte("ZZ"), 0)
		pos, err := f.Lseek(0, unix.SEEK_CUR)
		t.ok(err, "lseek")
		equal(t, pos, 6, "position")
	}},
	{"a negative offset is EINVAL", nil, func(t *T) {
		f := t.rw("f")
		_, err := f.Pread(make([]byte, 1), -1)
		t.fails(err, "pread", unix.EINVAL)
		_, err = f.Pwrite(make([]byte, 1), -1)
		t.fails(err, "pwrite", unix.EINVAL)
	}},
	{"two handles see each other's writes at once", nil, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		for i := range byte(30) {
			t.pwrite(a, pattern(100, i), int64(i)*100)
			t.sameBytes(t.pread(b, 100, int64(i)*100), pattern(100, i), "read by the other handle")
			t.size(b, int64(i+1)*100)
			a, b = b, a
		}
	}},
	{"a read-only handle sees the writes of another", nil, func(t *T) {
		w := t.rw("f")
		r := t.open(t.FS, "f", unix.O_RDONLY, 0)
		for i := range byte(10) {
			t.pwrite(w, pattern(5000, i), 0)
			t.sameBytes(t.pread(r, 5000, 0), pattern(5000, i), "read")
		}
	}},
	{"appends by two handles do not overwrite", nil, func(t *T) {
		a := t.open(t.FS, "f", unix.O_CREAT|unix.O_RDWR|unix.O_APPEND, 0o600)
		b := t.open(t.FS, "f", unix.O_RDWR|unix.O_APPEND, 0)
		var want []byte
		for i := range byte(40) {
			p := pattern(100+int(i)*37, i)
			t.write(a, p)
			want = append(want, p...)
			a, b = b, a
		}
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a file has data at 4 GiB and more", nil, func(t *T) {
		f := t.rw("f")
		offs := []int64{0, 2*gib - 1, 2 * gib, 4*gib - 3, 4 * gib, 4*gib + 1<<20, 7 * gib}
		for i, off := range offs {
			t.pwrite(f, pattern(6000, byte(i)), off)
		}
		t.size(f, 7*gib+6000)
		for i, off := range offs {
			if off == 2*gib-1 || off == 4*gib-3 {
				// the next write overlaps it
				t.sameBytes(t.pread(f, 1, off), pattern(6000, byte(i))[:1], fmt.Sprintf("bytes at %d", off))
				continue
			}
			t.sameBytes(t.pread(f, 6000, off), pattern(6000, byte(i)), fmt.Sprintf("bytes at %d", off))
		}
		t.sameBytes(t.pread(f, 8192, 3*gib), make([]byte, 8192), "hole")
	}},
	{"a file has data just below 16 TiB", []Capability{HugeFiles}, func(t *T) {
		f := t.rw("f")
		const off = int64(16)<<40 - 16384
		t.pwrite(f, pattern(4096, 5), off)
		t.size(f, off+4096)
		t.sameBytes(t.pread(f, 5000, off), pattern(4096, 5), "contents")
	}},
	{"a write past the largest offset is EFBIG or EINVAL", nil, func(t *T) {
		f := t.rw("f")
		_, err := f.Pwrite([]byte("xx"), 1<<63-1)
		t.fails(err, "pwrite", unix.EFBIG, unix.EINVAL, unix.EOVERFLOW)
		t.size(f, 0)
	}},
	{"one large write and one large read", nil, func(t *T) {
		data := pattern(t.scaled(16<<20, 2<<20), 3)
		t.file("f", data)
		t.sameBytes(t.contents("f"), data, "contents")
	}},
	{"many small writes in a row make the file", nil, func(t *T) {
		f := t.rw("f")
		var want []byte
		for i := range t.scaled(2000, 200) {
			p := pattern(1+i%97, byte(i))
			t.write(f, p)
			want = append(want, p...)
		}
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"a file is read byte by byte", nil, func(t *T) {
		want := pattern(t.scaled(4000, 300), 2)
		t.file("f", want)
		f := t.rw("f")
		var got []byte
		for {
			p := make([]byte, 1)
			n, err := f.Read(p)
			t.ok(err, "read")
			if n == 0 {
				break
			}
			got = append(got, p[0])
		}
		t.sameBytes(got, want, "contents")
	}},
	{"a file written backwards is whole", nil, func(t *T) {
		want := pattern(200000, 4)
		f := t.rw("f")
		for off := len(want) - 1000; off >= 0; off -= 1000 {
			t.pwrite(f, want[off:off+1000], int64(off))
		}
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"lseek goes from the start, the position and the end", nil, func(t *T) {
		t.file("f", make([]byte, 1000))
		f := t.rw("f")
		for _, c := range []struct {
			off    int64
			whence int
			want   int64
		}{{10, unix.SEEK_SET, 10}, {5, unix.SEEK_CUR, 15}, {-10, unix.SEEK_CUR, 5}, {0, unix.SEEK_END, 1000},
			{-1, unix.SEEK_END, 999}, {500, unix.SEEK_END, 1500}, {4 * gib, unix.SEEK_SET, 4 * gib}, {0, unix.SEEK_SET, 0}} {
			got, err := f.Lseek(c.off, c.whence)
			t.ok(err, "lseek")
			equal(t, got, c.want, "position after lseek %d, %d", c.off, c.whence)
		}
	}},
	{"lseek before the start or by a strange whence is EINVAL and stays", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("abc"))
		for _, c := range []struct {
			off    int64
			whence int
		}{{-1, unix.SEEK_SET}, {-4, unix.SEEK_CUR}, {-4, unix.SEEK_END}, {0, 99}} {
			_, err := f.Lseek(c.off, c.whence)
			t.fails(err, fmt.Sprintf("lseek %d, %d", c.off, c.whence), unix.EINVAL)
		}
		pos, err := f.Lseek(0, unix.SEEK_CUR)
		t.ok(err, "lseek")
		equal(t, pos, 3, "position")
	}},
	{"SEEK_END sees what another handle wrote", nil, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		for i := range int64(5) {
			t.write(a, make([]byte, 100))
			pos, err := b.Lseek(0, unix.SEEK_END)
			t.ok(err, "lseek")
			equal(t, pos, (i+1)*100, "end of the file")
		}
	}},
	{"a write at a position past the end makes a hole", nil, func(t *T) {
		f := t.rw("f")
		_, err := f.Lseek(5000, unix.SEEK_SET)
		t.ok(err, "lseek")
		t.size(f, 0)
		t.write(f, []byte("x"))
		t.size(f, 5001)
	}},
	{"blocks are counted for data and not for holes", []Capability{BlockCount}, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, pattern(1<<20, 1), 64*mib)
		t.ok(f.Fsync(), "fsync")
		st := t.fstat(f)
		if kib := st.Blocks / 2; kib < 1024 || kib > 3*1024 {
			t.Fatalf("1 MiB of data behind 64 MiB of hole takes %d KiB", kib)
		}
	}},
	{"fsync and fdatasync pass on every handle", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(100000, 1))
		t.ok(f.Fsync(), "fsync")
		t.write(f, pattern(100000, 2))
		t.ok(f.Fdatasync(), "fdatasync")
		t.ok(t.open(t.FS, "f", unix.O_RDONLY, 0).Fsync(), "fsync of a reading handle")
		t.ok(t.Syncfs(), "syncfs")
		t.sameBytes(t.contents("f"), append(pattern(100000, 1), pattern(100000, 2)...), "contents")
	}},
	{"data written and closed are there for the next open", nil, func(t *T) {
		for i := range byte(20) {
			f, err := t.Open("f", unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)
			t.ok(err, "open")
			t.write(f, pattern(3000+int(i)*999, i))
			t.ok(f.Close(), "close")
			t.sameBytes(t.contents("f"), pattern(3000+int(i)*999, i), "contents")
		}
	}},
	{"a file read to its end and then grown reads on", nil, func(t *T) {
		t.file("f", []byte("one"))
		r, w := t.rw("f"), t.open(t.FS, "f", unix.O_WRONLY|unix.O_APPEND, 0)
		p := make([]byte, 100)
		for _, want := range []string{"one", "", "two", "", "three", ""} {
			n, err := r.Read(p)
			t.ok(err, "read")
			equal(t, string(p[:n]), want, "bytes read")
			switch want {
			case "one":
			case "two":
			case "":
				if pos, _ := r.Lseek(0, unix.SEEK_CUR); pos == 3 {
					t.write(w, []byte("two"))
				} else if pos == 6 {
					t.write(w, []byte("three"))
				}
			}
		}
	}},
	{"zeroes written are data like others", nil, func(t *T) {
		want := bytes.Repeat([]byte{0, 0, 0, 1}, 5000)
		t.file("f", want)
		t.sameBytes(t.contents("f"), want, "contents")
		f := t.rw("f")
		t.pwrite(f, make([]byte, 20000), 0)
		t.sameBytes(t.contents("f"), make([]byte, 20000), "contents")
	}},
}
