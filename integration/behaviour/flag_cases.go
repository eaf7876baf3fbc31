package behaviour

import (
	"golang.org/x/sys/unix"
)

// flagged sets inode flags on an open file, and takes them back when the case ends.
func (t *T) flagged(f File, flag uint32) {
	t.Helper()
	old, err := f.GetFlags()
	t.ok(err, "getflags")
	t.ok(f.SetFlags(old|flag), "setflags")
	t.Cleanup(func() {
		if err := f.SetFlags(old); err != nil {
			t.Errorf("setflags back: %v", err)
		}
	})
}

var flagCases = []testCase{
	{"flags are set, read and taken back", []Capability{FileFlags}, func(t *T) {
		f := t.rw("f")
		old, err := f.GetFlags()
		t.ok(err, "getflags")
		for _, flag := range []uint32{NodumpFlag, AppendFlag, ImmutableFlag, AppendFlag | NodumpFlag} {
			t.ok(f.SetFlags(old|flag), "setflags")
			got, err := f.GetFlags()
			t.ok(err, "getflags")
			equal(t, got, old|flag, "flags")
			t.ok(f.SetFlags(old), "setflags")
		}
	}},
	{"a directory has flags", []Capability{FileFlags}, func(t *T) {
		t.dir("d")
		d := t.opendir("d")
		t.flagged(d, NodumpFlag)
		got, err := d.GetFlags()
		t.ok(err, "getflags")
		equal(t, got&NodumpFlag, NodumpFlag, "flag")
	}},
	{"an immutable file is EPERM for every change", []Capability{FileFlags}, func(t *T) {
		f := t.rw("f")
		t.write(f, []byte("keep"))
		t.ok(f.Fsync(), "fsync: what is not written yet could not be written later")
		t.flagged(f, ImmutableFlag)
		_, err := t.Open("f", unix.O_RDWR, 0)
		t.fails(err, "open to write", unix.EPERM)
		_, err = t.Open("f", unix.O_WRONLY|unix.O_TRUNC, 0)
		t.fails(err, "open to truncate", unix.EPERM)
		t.fails(t.Truncate("f", 0), "truncate", unix.EPERM)
		t.fails(t.Unlink("f"), "unlink", unix.EPERM)
		t.fails(t.Rename("f", "g", 0), "rename", unix.EPERM)
		t.fails(t.Link("f", "g"), "link", unix.EPERM)
		t.fails(t.Chmod("f", 0o600), "chmod", unix.EPERM)
		t.fails(t.Chown("f", 1, 1), "chown", unix.EPERM)
		t.fails(t.Utimens("f", &[2]unix.Timespec{{Sec: 1}, {Sec: 2}}, 0), "utimens", unix.EPERM)
		if t.Lacks(XattrUser) == "" {
			t.fails(t.Setxattr("f", "user.a", []byte("v"), 0), "setxattr", unix.EPERM)
		}
		t.sameBytes(t.contents("f"), []byte("keep"), "contents")
	}},
	{"an append-only file takes appends only", []Capability{FileFlags}, func(t *T) {
		t.file("f", []byte("one"))
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		t.flagged(f, AppendFlag)
		_, err := t.Open("f", unix.O_WRONLY, 0)
		t.fails(err, "open to write", unix.EPERM)
		_, err = t.Open("f", unix.O_WRONLY|unix.O_APPEND|unix.O_TRUNC, 0)
		t.fails(err, "open to truncate", unix.EPERM)
		t.fails(t.Truncate("f", 1), "truncate", unix.EPERM)
		t.fails(t.Unlink("f"), "unlink", unix.EPERM)
		t.fails(t.Rename("f", "g", 0), "rename", unix.EPERM)
		a := t.open(t.FS, "f", unix.O_WRONLY|unix.O_APPEND, 0)
		t.write(a, []byte("two"))
		t.sameBytes(t.contents("f"), []byte("onetwo"), "contents")
	}},
	{"an immutable directory takes and gives no names", []Capability{FileFlags}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		t.flagged(t.opendir("d"), ImmutableFlag)
		_, err := t.Open("d/new", unix.O_CREAT|unix.O_WRONLY, 0o600)
		t.fails(err, "create", unix.EPERM, unix.EACCES)
		t.fails(t.Mkdir("d/new", 0o700), "mkdir", unix.EPERM, unix.EACCES)
		t.fails(t.Unlink("d/f"), "unlink", unix.EPERM)
		t.fails(t.Rename("d/f", "g", 0), "rename", unix.EPERM)
		t.ok(closed(t.Open("d/f", unix.O_RDWR, 0)), "open of a file in it")
		t.wantNames("d", "f")
	}},
	{"an append-only directory takes names and gives none", []Capability{FileFlags}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		t.flagged(t.opendir("d"), AppendFlag)
		t.file("d/new", nil)
		t.fails(t.Unlink("d/f"), "unlink", unix.EPERM)
		t.fails(t.Rename("d/f", "d/g", 0), "rename", unix.EPERM)
		t.wantNames("d", "f", "new")
	}},
	{"flags that protect are root's", []Capability{FileFlags, Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 1000, 0o666)
		f := t.open(t.user(1000), "f", unix.O_RDWR, 0)
		old, err := f.GetFlags()
		t.ok(err, "getflags")
		t.fails(f.SetFlags(old|ImmutableFlag), "setflags", unix.EPERM)
		t.fails(f.SetFlags(old|AppendFlag), "setflags", unix.EPERM)
		t.ok(f.SetFlags(old|NodumpFlag), "setflags of nodump")
	}},
	{"flags of a file of another are EPERM or EACCES", []Capability{FileFlags, Callers}, func(t *T) {
		t.file("f", nil)
		f := t.open(t.user(1000), "f", unix.O_RDONLY, 0)
		old, err := f.GetFlags()
		t.ok(err, "getflags")
		t.fails(f.SetFlags(old|NodumpFlag), "setflags", unix.EPERM, unix.EACCES)
	}},
	{"a project id is set and read", []Capability{ProjectID}, func(t *T) {
		f := t.rw("f")
		x, err := f.GetFsxattr()
		t.ok(err, "getfsxattr")
		x.Projid = 4242
		t.ok(f.SetFsxattr(x), "setfsxattr")
		got, err := f.GetFsxattr()
		t.ok(err, "getfsxattr")
		equal(t, got.Projid, 4242, "project id")
	}},
	{"extended flags agree with flags", []Capability{FileFlags}, func(t *T) {
		const xflagNodump = 0x80
		f := t.rw("f")
		x, err := f.GetFsxattr()
		if err != nil {
			t.Skipf("no FS_IOC_FSGETXATTR: %v", err)
		}
		equal(t, x.Xflags&xflagNodump, 0, "nodump before")
		t.flagged(f, NodumpFlag)
		x, err = f.GetFsxattr()
		t.ok(err, "getfsxattr")
		equal(t, x.Xflags&xflagNodump, xflagNodump, "nodump after")
	}},
}
