package behaviour

import (
	"golang.org/x/sys/unix"
)

func (t *T) seek(f File, off int64, whence int, want int64) {
	t.Helper()
	got, err := f.Lseek(off, whence)
	t.ok(err, "lseek from %d", off)
	equal(t, got, want, "lseek from %d by %d", off, whence)
}

var seekCases = []testCase{
	{"data and holes are found in turn", []Capability{SeekHole}, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, pattern(block, 1), 4*block)
		t.pwrite(f, pattern(block, 1), 10*block)
		t.ok(f.Ftruncate(20*block), "ftruncate")
		t.ok(f.Fsync(), "fsync")
		t.seek(f, 0, unix.SEEK_HOLE, 0)
		t.seek(f, 0, unix.SEEK_DATA, 4*block)
		t.seek(f, 4*block, unix.SEEK_DATA, 4*block)
		t.seek(f, 4*block+5, unix.SEEK_DATA, 4*block+5)
		t.seek(f, 4*block+5, unix.SEEK_HOLE, 5*block)
		t.seek(f, 5*block, unix.SEEK_DATA, 10*block)
		t.seek(f, 10*block, unix.SEEK_HOLE, 11*block)
		_, err := f.Lseek(11*block, unix.SEEK_DATA)
		t.fails(err, "data behind the last", unix.ENXIO)
		t.seek(f, 11*block, unix.SEEK_HOLE, 11*block)
	}},
	{"data just written, not yet synced, is data", []Capability{SeekUnsynced}, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, pattern(block, 1), 8*block)
		t.seek(f, 8*block, unix.SEEK_DATA, 8*block)
		t.seek(f, 8*block, unix.SEEK_HOLE, 9*block)
	}},
	{"a hole before data not yet synced is found", []Capability{SeekHole, SeekUnsynced}, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, pattern(block, 1), 8*block)
		t.seek(f, 0, unix.SEEK_HOLE, 0)
		t.seek(f, 0, unix.SEEK_DATA, 8*block)
	}},
	{"the end of a full file is a hole", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(10000, 1))
		t.ok(f.Fsync(), "fsync")
		t.seek(f, 0, unix.SEEK_HOLE, 10000)
		t.seek(f, 9999, unix.SEEK_HOLE, 10000)
		t.seek(f, 0, unix.SEEK_DATA, 0)
		t.seek(f, 9999, unix.SEEK_DATA, 9999)
	}},
	{"at or past the end both are ENXIO", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(10000, 1))
		t.ok(f.Fsync(), "fsync")
		for _, off := range []int64{10000, 10001, gib} {
			_, err := f.Lseek(off, unix.SEEK_DATA)
			t.fails(err, "SEEK_DATA", unix.ENXIO)
			_, err = f.Lseek(off, unix.SEEK_HOLE)
			t.fails(err, "SEEK_HOLE", unix.ENXIO)
		}
	}},
	{"an empty file is ENXIO", nil, func(t *T) {
		f := t.rw("f")
		_, err := f.Lseek(0, unix.SEEK_DATA)
		t.fails(err, "SEEK_DATA", unix.ENXIO)
		_, err = f.Lseek(0, unix.SEEK_HOLE)
		t.fails(err, "SEEK_HOLE", unix.ENXIO)
	}},
	{"a negative offset is ENXIO or EINVAL", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("x"))
		t.ok(f.Fsync(), "fsync")
		_, err := f.Lseek(-1, unix.SEEK_DATA)
		t.fails(err, "SEEK_DATA", unix.ENXIO, unix.EINVAL)
	}},
	{"the position moves to what was found", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(10000, 1))
		t.ok(f.Fsync(), "fsync")
		t.seek(f, 100, unix.SEEK_DATA, 100)
		t.seek(f, 0, unix.SEEK_CUR, 100)
		t.seek(f, 0, unix.SEEK_HOLE, 10000)
		t.seek(f, 0, unix.SEEK_CUR, 10000)
	}},
	{"a punched hole is found", []Capability{SeekHole, PunchHole}, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(8*block, 1))
		t.ok(f.Fsync(), "fsync")
		t.ok(f.Fallocate(punch, 2*block, 3*block), "punch")
		t.seek(f, 0, unix.SEEK_HOLE, 2*block)
		t.seek(f, 2*block, unix.SEEK_DATA, 5*block)
		t.seek(f, 5*block, unix.SEEK_HOLE, 8*block)
	}},
	{"a file of only a hole has no data", []Capability{SeekHole}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Ftruncate(6*gib), "ftruncate")
		_, err := f.Lseek(0, unix.SEEK_DATA)
		t.fails(err, "SEEK_DATA", unix.ENXIO)
		t.seek(f, 5*gib, unix.SEEK_HOLE, 5*gib)
	}},
	{"data at 5 GiB is found from the start", []Capability{SeekHole}, func(t *T) {
		f := t.rw("f")
		t.pwrite(f, pattern(block, 1), 5*gib)
		t.ok(f.Fsync(), "fsync")
		t.seek(f, 0, unix.SEEK_DATA, 5*gib)
		t.seek(f, 5*gib, unix.SEEK_HOLE, 5*gib+block)
	}},
}
