package behaviour

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// stamped is a call and the times that it moves: for each path, as it is after the call, some of m (mtime) and
// c (ctime). The times of the paths that are listed and are not moved must stand. A path before a colon is where
// the file was before the call.
type stamped struct {
	name  string
	needs []Capability
	do    func(t *T, f File) error // f is d/f, open to read and write, 9 bytes long
	moves map[string]string
}

var stampedCalls = []stamped{
	{"write", []Capability{WriteTimes}, func(t *T, f File) error { _, err := f.Write([]byte("x")); return err },
		map[string]string{"d/f": "mc", "d": ""}},
	{"pwrite past the end", nil, func(t *T, f File) error { _, err := f.Pwrite([]byte("x"), 100); return err },
		map[string]string{"d/f": "mc", "d": ""}},
	{"write of nothing", nil, func(t *T, f File) error { _, err := f.Write(nil); return err },
		map[string]string{"d/f": "", "d": ""}},
	{"read", nil, func(t *T, f File) error { _, err := f.Pread(make([]byte, 9), 0); return err },
		map[string]string{"d/f": "", "d": ""}},
	{"ftruncate to another size", nil, func(t *T, f File) error { return f.Ftruncate(3) },
		map[string]string{"d/f": "mc", "d": ""}},
	{"ftruncate to the same size", nil, func(t *T, f File) error { return f.Ftruncate(9) },
		map[string]string{"d/f": "mc"}},
	{"truncate to another size", nil, func(t *T, f File) error { return t.Truncate("d/f", 30) },
		map[string]string{"d/f": "mc", "d": ""}},
	{"open with O_TRUNC", nil, func(t *T, f File) error { return closed(t.Open("d/f", unix.O_WRONLY|unix.O_TRUNC, 0)) },
		map[string]string{"d/f": "mc", "d": ""}},
	{"open and close", nil, func(t *T, f File) error { return closed(t.Open("d/f", unix.O_RDWR|unix.O_CREAT, 0o600)) },
		map[string]string{"d/f": "", "d": ""}},
	{"fallocate that grows", []Capability{Fallocate}, func(t *T, f File) error { return f.Fallocate(0, 0, 9000) },
		map[string]string{"d/f": "mc", "d": ""}},
	{"a punched hole", []Capability{PunchHole}, func(t *T, f File) error {
		return f.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	}, map[string]string{"d/f": "mc", "d": ""}},
	{"copy_file_range", []Capability{CopyRange}, func(t *T, f File) error {
		src, dst := int64(0), int64(100)
		_, err := t.open(t.FS, "e/g", unix.O_RDONLY, 0).CopyTo(f, &src, &dst, 5)
		return err
	}, map[string]string{"d/f": "mc", "e/g": "", "d": ""}},
	{"chmod", nil, func(t *T, f File) error { return t.Chmod("d/f", 0o640) },
		map[string]string{"d/f": "c", "d": ""}},
	{"fchmod", nil, func(t *T, f File) error { return f.Fchmod(0o640) },
		map[string]string{"d/f": "c", "d": ""}},
	{"chown", []Capability{Callers}, func(t *T, f File) error { return t.Chown("d/f", 5, 5) },
		map[string]string{"d/f": "c", "d": ""}},
	{"fchown", []Capability{Callers}, func(t *T, f File) error { return f.Fchown(5, -1) },
		map[string]string{"d/f": "c", "d": ""}},
	{"chmod of a directory", nil, func(t *T, f File) error { return t.Chmod("d", 0o700) },
		map[string]string{"d": "c", ".": "", "d/f": ""}},
	{"setxattr", []Capability{XattrUser}, func(t *T, f File) error { return t.Setxattr("d/f", "user.a", []byte("v"), 0) },
		map[string]string{"d/f": "c", "d": ""}},
	{"removexattr", []Capability{XattrUser}, func(t *T, f File) error { return t.Removexattr("d/f", "user.old") },
		map[string]string{"d/f": "c", "d": ""}},
	{"getxattr", []Capability{XattrUser}, func(t *T, f File) error { _, err := t.Getxattr("d/f", "user.old", nil); return err },
		map[string]string{"d/f": "", "d": ""}},
	{"link", nil, func(t *T, f File) error { return t.Link("d/f", "e/l") },
		map[string]string{"d/f": "c", "d": "", "e": "mc"}},
	{"unlink of one of two names", nil, func(t *T, f File) error { return t.Unlink("e/second") },
		map[string]string{"d/f": "c", "d": "", "e": "mc"}},
	{"unlink", nil, func(t *T, f File) error { return t.Unlink("e/g") },
		map[string]string{"e": "mc", "d": "", "d/f": ""}},
	{"create", nil, func(t *T, f File) error { return closed(t.Open("d/new", unix.O_CREAT|unix.O_WRONLY, 0o600)) },
		map[string]string{"d": "mc", ".": "", "d/f": ""}},
	{"mkdir", nil, func(t *T, f File) error { return t.Mkdir("d/new", 0o700) },
		map[string]string{"d": "mc", ".": "", "d/f": ""}},
	{"rmdir", nil, func(t *T, f File) error { return t.Rmdir("d/sub") },
		map[string]string{"d": "mc", ".": ""}},
	{"symlink", nil, func(t *T, f File) error { return t.Symlink("f", "d/new") },
		map[string]string{"d": "mc", "d/f": ""}},
	{"mkfifo", nil, func(t *T, f File) error { return t.Mknod("d/new", unix.S_IFIFO|0o600, 0) },
		map[string]string{"d": "mc", "d/f": ""}},
	{"rename in a directory", nil, func(t *T, f File) error { return t.Rename("d/f", "d/g", 0) },
		map[string]string{"d": "mc", "d/f:d/g": "?", "e": ""}},
	{"rename to another directory", nil, func(t *T, f File) error { return t.Rename("d/f", "e/f", 0) },
		map[string]string{"d": "mc", "e": "mc", "d/f:e/f": "?"}},
	{"rename over another file", nil, func(t *T, f File) error { return t.Rename("e/g", "d/f", 0) },
		map[string]string{"d": "mc", "e": "mc"}},
	{"rename of a directory", nil, func(t *T, f File) error { return t.Rename("d/sub", "e/sub", 0) },
		map[string]string{"d": "mc", "e": "mc", "d/f": ""}},
	{"a failed create", nil, func(t *T, f File) error {
		_, err := t.Open("d/f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
		t.fails(err, "create", unix.EEXIST)
		return nil
	}, map[string]string{"d/f": "", "d": ""}},
	{"a failed rmdir", nil, func(t *T, f File) error {
		t.fails(t.Rmdir("d"), "rmdir", unix.ENOTEMPTY)
		return nil
	}, map[string]string{"d": "", ".": ""}},
	{"utimens", nil, func(t *T, f File) error { return t.Utimens("d/f", &[2]unix.Timespec{{Sec: 7}, {Sec: 8}}, 0) },
		map[string]string{"d/f": "mc", "d": ""}},
	{"utimens of nothing", nil, func(t *T, f File) error {
		omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
		return t.Utimens("d/f", &[2]unix.Timespec{omit, omit}, 0)
	}, map[string]string{"d/f": "", "d": ""}},
	{"readlink", nil, func(t *T, f File) error { _, err := t.Readlink("d/l"); return err },
		map[string]string{"d/l": "", "d": ""}},
	{"stat and access", nil, func(t *T, f File) error {
		_, err := t.Stat("d/f")
		if err != nil {
			return err
		}
		return t.Access("d/f", unix.R_OK)
	}, map[string]string{"d/f": "", "d": ""}},
	{"fsync", nil, func(t *T, f File) error { return f.Fsync() }, map[string]string{"d/f": "", "d": ""}},
}

// stamps are the times of a file that cases compare.
type stamps struct{ atime, mtime, ctime int64 }

func (t *T) stamps(path string) stamps {
	t.Helper()
	st := t.stat(path)
	return stamps{nanos(st.Atime), nanos(st.Mtime), nanos(st.Ctime)}
}

func timeCases() (cases []testCase) {
	for _, c := range stampedCalls {
		cases = append(cases, testCase{"times moved by " + c.name, c.needs, func(t *T) { checkStamps(t, c) }})
	}
	return append(cases, timeSingles...)
}

func checkStamps(t *T, c stamped) {
	t.dir("clock")
	t.dir("d")
	t.dir("e")
	t.dir("d/sub")
	t.file("d/f", []byte("some data"))
	t.file("e/g", []byte("more data"))
	t.symlink("f", "d/l")
	t.ok(t.Link("d/f", "e/second"), "link")
	if t.Lacks(XattrUser) == "" {
		t.ok(t.Setxattr("d/f", "user.old", []byte("v"), 0), "setxattr")
	}
	f := t.rw("d/f")
	old := &[2]unix.Timespec{{Sec: 1e9}, {Sec: 1e9 + 1}}
	before := map[string]stamps{}
	for _, p := range []string{".", "d", "e", "d/f", "e/g", "d/l", "d/sub"} {
		t.ok(t.Utimens(p, old, unix.AT_SYMLINK_NOFOLLOW), "utimens")
	}
	for p := range c.moves {
		was, _, _ := strings.Cut(p, ":")
		before[p] = t.stamps(was)
	}
	t.tickIn("clock")
	t.ok(c.do(t, f), "%s", c.name)
	for p, moves := range c.moves {
		is := p
		if _, after, ok := strings.Cut(p, ":"); ok {
			is = after
		}
		now, was := t.stamps(is), before[p]
		if moves == "?" { // ctime of a renamed file: file systems differ
			equal(t, now.mtime, was.mtime, "mtime of %s", is)
			continue
		}
		equal(t, now.mtime != was.mtime, strings.Contains(moves, "m"), "mtime of %s was moved", is)
		equal(t, now.ctime != was.ctime, strings.Contains(moves, "c"), "ctime of %s was moved", is)
		if now.ctime < was.ctime {
			t.Fatalf("ctime of %s went back", is)
		}
	}
}

func setTimes(t *T, path string, a, m unix.Timespec) unix.Statx_t {
	t.Helper()
	t.ok(t.Utimens(path, &[2]unix.Timespec{a, m}, unix.AT_SYMLINK_NOFOLLOW), "utimens")
	return t.stat(path)
}

func wantTimes(t *T, st unix.Statx_t, a, m unix.Timespec) {
	t.Helper()
	equal(t, fmt.Sprint(st.Atime.Sec, st.Atime.Nsec), fmt.Sprint(a.Sec, a.Nsec), "atime")
	equal(t, fmt.Sprint(st.Mtime.Sec, st.Mtime.Nsec), fmt.Sprint(m.Sec, m.Nsec), "mtime")
}

var timeSingles = []testCase{
	{"all times of a new file are the same and are now", nil, func(t *T) {
		t.tick()
		before := t.clock()
		t.dir("d")
		t.file("f", nil)
		t.symlink("x", "l")
		t.ok(t.Mknod("p", unix.S_IFIFO|0o600, 0), "mkfifo")
		for _, n := range []string{"d", "f", "l", "p"} {
			s := t.stamps(n)
			if s.atime != s.mtime || s.mtime != s.ctime {
				t.Errorf("times of the new %s differ: %+v", n, s)
			}
			if s.ctime < before || s.ctime > before+60e9 {
				t.Errorf("%s was made at %d, the tree's clock said %d", n, s.ctime, before)
			}
		}
	}},
	{"the times of a file and its directory agree on a create", nil, func(t *T) {
		t.dir("d")
		t.tick()
		t.file("d/f", nil)
		f, d := t.stamps("d/f"), t.stamps("d")
		if d.mtime-f.mtime > 2e9 || f.mtime-d.mtime > 2e9 {
			t.Fatalf("mtime of the file is %d, of the directory %d", f.mtime, d.mtime)
		}
	}},
	{"utimens sets seconds and nanoseconds of both", []Capability{FineTimes}, func(t *T) {
		t.file("f", nil)
		a, m := unix.Timespec{Sec: 1234567890, Nsec: 123456789}, unix.Timespec{Sec: 987654321, Nsec: 999999999}
		wantTimes(t, setTimes(t, "f", a, m), a, m)
		m.Nsec, a.Nsec = 1, 0
		wantTimes(t, setTimes(t, "f", a, m), a, m)
	}},
	{"utimens works on every kind of file", nil, func(t *T) {
		a, m := unix.Timespec{Sec: 1111111111}, unix.Timespec{Sec: 1222222222}
		for _, p := range t.makeAll(t.FS, ".") {
			wantTimes(t, setTimes(t, p, a, m), a, m)
		}
	}},
	{"futimens sets times of an open file, by a reading descriptor too", nil, func(t *T) {
		t.file("f", nil)
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		a, m := unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200}
		t.ok(f.Futimens(&[2]unix.Timespec{a, m}), "futimens")
		wantTimes(t, t.stat("f"), a, m)
	}},
	{"times before 1970 and after 2038 are kept", []Capability{WideTimes}, func(t *T) {
		t.file("f", nil)
		for _, sec := range []int64{-1, -1e9, -(1 << 31), 0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 5e9, 1<<33 + 7} {
			a, m := unix.Timespec{Sec: sec, Nsec: 0}, unix.Timespec{Sec: sec, Nsec: 0}
			wantTimes(t, setTimes(t, "f", a, m), a, m)
		}
	}},
	{"a negative time keeps its nanoseconds", []Capability{WideTimes, FineTimes}, func(t *T) {
		t.file("f", nil)
		a, m := unix.Timespec{Sec: -1, Nsec: 999999999}, unix.Timespec{Sec: -1000, Nsec: 1}
		wantTimes(t, setTimes(t, "f", a, m), a, m)
	}},
	{"UTIME_OMIT leaves one time, UTIME_NOW sets it to now", nil, func(t *T) {
		t.file("f", nil)
		a, m := unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200}
		setTimes(t, "f", a, m)
		omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
		wantTimes(t, setTimes(t, "f", omit, unix.Timespec{Sec: 300}), a, unix.Timespec{Sec: 300})
		wantTimes(t, setTimes(t, "f", unix.Timespec{Sec: 400}, omit), unix.Timespec{Sec: 400}, unix.Timespec{Sec: 300})
		start := t.clock()
		st := setTimes(t, "f", omit, now)
		equal(t, st.Atime.Sec, 400, "atime")
		if nanos(st.Mtime) < start {
			t.Fatalf("mtime is %d, before %d", nanos(st.Mtime), start)
		}
		st = setTimes(t, "f", now, unix.Timespec{Sec: 500})
		equal(t, st.Mtime.Sec, 500, "mtime")
		if nanos(st.Atime) < start {
			t.Fatalf("atime is %d, before %d", nanos(st.Atime), start)
		}
	}},
	{"the seconds beside UTIME_NOW and UTIME_OMIT do not matter", nil, func(t *T) {
		t.file("f", nil)
		setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		st := setTimes(t, "f", unix.Timespec{Sec: 77, Nsec: unix.UTIME_OMIT}, unix.Timespec{Sec: 88, Nsec: unix.UTIME_NOW})
		equal(t, st.Atime.Sec, 100, "atime")
		if st.Mtime.Sec < 1e9 {
			t.Fatalf("mtime is %d", st.Mtime.Sec)
		}
	}},
	{"nanoseconds of a second or more are EINVAL", nil, func(t *T) {
		t.file("f", nil)
		for _, ns := range []int64{1e9, -1, 1 << 40} {
			err := t.Utimens("f", &[2]unix.Timespec{{Nsec: ns}, {}}, 0)
			t.fails(err, fmt.Sprintf("utimens with %d ns", ns), unix.EINVAL)
		}
	}},
	{"utimens of a link is of the link with NOFOLLOW, else of the target", nil, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		ts := func(s int64) *[2]unix.Timespec { return &[2]unix.Timespec{{Sec: s}, {Sec: s}} }
		t.ok(t.Utimens("l", ts(100), 0), "utimens")
		t.ok(t.Utimens("l", ts(200), unix.AT_SYMLINK_NOFOLLOW), "utimens of the link")
		equal(t, t.stat("f").Mtime.Sec, 100, "mtime of the target")
		equal(t, t.stat("l").Mtime.Sec, 200, "mtime of the link")
	}},
	{"set times outlive close, rename and link", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("data"))
		a, m := unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200}
		t.ok(f.Futimens(&[2]unix.Timespec{a, m}), "futimens")
		t.ok(f.Fsync(), "fsync")
		t.ok(f.Close(), "close")
		t.ok(t.Rename("f", "g", 0), "rename")
		t.ok(t.Link("g", "h"), "link")
		wantTimes(t, t.stat("h"), a, m)
	}},
	{"a write after utimens moves mtime from the set time", []Capability{WriteTimes}, func(t *T) {
		f := t.rw("f")
		for range 3 {
			setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
			t.write(f, []byte("x"))
			if st := t.stat("f"); st.Mtime.Sec < 1e9 {
				t.Fatalf("mtime is %d after a write", st.Mtime.Sec)
			}
		}
	}},
	{"utimens after a write stands", nil, func(t *T) {
		f := t.rw("f")
		m := unix.Timespec{Sec: 1200000000, Nsec: 0}
		for range 5 {
			t.write(f, pattern(5000, 1))
			t.ok(f.Futimens(&[2]unix.Timespec{m, m}), "futimens")
			equal(t, t.fstat(f).Mtime.Sec, m.Sec, "mtime by the handle")
		}
		t.ok(f.Fsync(), "fsync")
		t.ok(f.Close(), "close")
		equal(t, t.stat("f").Mtime.Sec, m.Sec, "mtime after close")
	}},
	{"a read moves atime from before mtime", []Capability{Atime}, func(t *T) {
		t.file("f", []byte("data"))
		setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		t.pread(f, 4, 0)
		st := t.stat("f")
		if st.Atime.Sec < 1e9 {
			t.Fatalf("atime is %d after a read", st.Atime.Sec)
		}
		equal(t, st.Mtime.Sec, 200, "mtime")
	}},
	{"a read by O_NOATIME leaves atime", []Capability{Atime}, func(t *T) {
		t.file("f", []byte("data"))
		setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		t.pread(t.open(t.FS, "f", unix.O_RDONLY|unix.O_NOATIME, 0), 4, 0)
		equal(t, t.stat("f").Atime.Sec, 100, "atime")
	}},
	{"reading a directory moves its atime from before mtime", []Capability{Atime}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		setTimes(t, "d", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		t.wantNames("d", "f")
		if st := t.stat("d"); st.Atime.Sec < 1e9 {
			t.Fatalf("atime is %d after reading", st.Atime.Sec)
		}
	}},
	{"opening and stating leave atime", nil, func(t *T) {
		t.file("f", []byte("data"))
		setTimes(t, "f", unix.Timespec{Sec: 100}, unix.Timespec{Sec: 200})
		t.open(t.FS, "f", unix.O_RDWR, 0)
		equal(t, t.stat("f").Atime.Sec, 100, "atime")
	}},
	{"times never go back over a row of changes", nil, func(t *T) {
		f := t.rw("f")
		last := t.stamps("f")
		for i := range 50 {
			switch i % 4 {
			case 0:
				t.write(f, []byte("x"))
			case 1:
				t.ok(f.Ftruncate(int64(i)), "ftruncate")
			case 2:
				t.ok(f.Fchmod(0o600|uint32(i&7)), "fchmod")
			case 3:
				t.ok(t.Rename("f", "f", 0), "rename")
			}
			now := t.stamps("f")
			if now.ctime < last.ctime || now.mtime < last.mtime {
				t.Fatalf("step %d: times went from %+v to %+v", i, last, now)
			}
			last = now
		}
	}},
	{"a file changed later has the later time", []Capability{WriteTimes}, func(t *T) {
		a, b := t.rw("a"), t.rw("b")
		for range 3 {
			t.write(a, []byte("x"))
			t.tick()
			t.write(b, []byte("x"))
			if t.stamps("b").mtime <= t.stamps("a").mtime {
				t.Fatal("the later write has the earlier time")
			}
			t.tick()
			a, b = b, a
			t.ok(t.Rename("a", "b", 0), "rename")
			t.ok(closed(t.Open("a", unix.O_CREAT|unix.O_RDWR, 0o600)), "create")
			a, b = t.rw("a"), t.rw("b")
		}
	}},
	{"the time of birth stands whatever is done", []Capability{Btime}, func(t *T) {
		f := t.rw("f")
		birth := nanos(t.fstat(f).Btime)
		if birth == 0 {
			t.Fatal("no time of birth")
		}
		t.tick()
		t.write(f, []byte("x"))
		t.ok(f.Fchmod(0o600), "fchmod")
		setTimes(t, "f", unix.Timespec{Sec: 1}, unix.Timespec{Sec: 2})
		t.ok(t.Rename("f", "g", 0), "rename")
		equal(t, nanos(t.stat("g").Btime), birth, "time of birth")
	}},
	{"a directory is born too", []Capability{Btime}, func(t *T) {
		t.dir("d")
		st := t.stat("d")
		if st.Mask&unix.STATX_BTIME == 0 || nanos(st.Btime) > nanos(st.Ctime) || nanos(st.Btime) == 0 {
			t.Fatalf("born %d, changed %d", nanos(st.Btime), nanos(st.Ctime))
		}
	}},
}

// clock is the time by which the tree stamps.
func (t *T) clock() int64 {
	t.Helper()
	t.file(".clock", nil)
	now := t.stamps(".clock").ctime
	t.ok(t.Unlink(".clock"), "unlink")
	return now
}
