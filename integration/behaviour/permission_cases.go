package behaviour

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// class is a caller as the mode bits of a file of user 1000, group 2000 see it.
type class struct {
	name  string
	cred  Cred
	shift uint
}

var classes = []class{
	{"the owner", Cred{UID: 1000, GID: 1000}, 6},
	{"the owner in the group", Cred{UID: 1000, GID: 2000}, 6},
	{"the group", Cred{UID: 1001, GID: 2000}, 3},
	{"a supplementary group", Cred{UID: 1001, GID: 1001, Groups: []uint32{7, 2000, 9}}, 3},
	{"others", Cred{UID: 1001, GID: 1001, Groups: []uint32{1000, 2001}}, 0},
}

func permissionCases() []testCase {
	cases := permissionSingles
	for _, c := range classes {
		for bits := range uint32(8) {
			// All bits of the other classes are the reverse, so that a mix-up shows.
			mode := (0o777 &^ (7 << c.shift)) & ((^bits & 7) * 0o111)
			mode |= bits << c.shift
			cases = append(cases,
				testCase{fmt.Sprintf("file mode %04o for %s", mode, c.name), []Capability{Callers}, func(t *T) {
					filePermission(t, t.As(c.cred), mode, bits)
				}},
				testCase{fmt.Sprintf("directory mode %04o for %s", mode, c.name), []Capability{Callers}, func(t *T) {
					dirPermission(t, t.As(c.cred), mode, bits)
				}})
		}
	}
	return cases
}

func (t *T) own(path string, uid, gid int, mode uint32) {
	t.Helper()
	t.ok(t.Chown(path, uid, gid), "chown")
	t.ok(t.Chmod(path, mode), "chmod")
}

// allowed checks that the call passes if may, and else fails with EACCES.
func (t *T) allowed(err error, may bool, what string) {
	t.Helper()
	if may {
		t.ok(err, "%s", what)
	} else {
		t.fails(err, what, unix.EACCES)
	}
}

func filePermission(t *T, fs FS, mode, bits uint32) {
	t.file("f", []byte("x"))
	t.own("f", 1000, 2000, mode)
	r, w, x := bits&4 != 0, bits&2 != 0, bits&1 != 0
	open := func(flags int) error { return closed(fs.Open("f", flags, 0)) }
	t.allowed(open(unix.O_RDONLY), r, "open to read")
	t.allowed(open(unix.O_WRONLY), w, "open to write")
	t.allowed(open(unix.O_RDWR), r && w, "open to read and write")
	t.allowed(open(unix.O_WRONLY|unix.O_CREAT), w, "create over it")
	t.allowed(fs.Access("f", unix.R_OK), r, "access R_OK")
	t.allowed(fs.Access("f", unix.W_OK), w, "access W_OK")
	t.allowed(fs.Access("f", unix.X_OK), x, "access X_OK")
	t.allowed(fs.Access("f", unix.R_OK|unix.W_OK|unix.X_OK), r && w && x, "access of all")
	t.ok(fs.Access("f", unix.F_OK), "access F_OK")
	_, err := fs.Stat("f")
	t.ok(err, "stat")
	t.allowed(fs.Truncate("f", 0), w, "truncate")
	t.allowed(open(unix.O_WRONLY|unix.O_TRUNC), w, "open to truncate")
	if t.Lacks(XattrUser) == "" {
		t.allowed(fs.Setxattr("f", "user.a", []byte("v"), 0), w, "setxattr")
		t.ok(t.Setxattr("f", "user.a", []byte("v"), 0), "setxattr by root")
		_, err = fs.Getxattr("f", "user.a", nil)
		t.allowed(err, r, "getxattr")
		t.allowed(fs.Removexattr("f", "user.a"), w, "removexattr")
	}
}

func dirPermission(t *T, fs FS, mode, bits uint32) {
	t.dir("d")
	t.file("d/f", nil)
	t.ok(t.Chmod("d/f", 0o666), "chmod")
	t.dir("d/sub")
	t.own("d", 1000, 2000, mode)
	r, w, x := bits&4 != 0, bits&2 != 0, bits&1 != 0
	t.allowed(closed(fs.Open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)), r, "open of the directory")
	_, err := fs.Lstat("d/f")
	t.allowed(err, x, "lstat in it")
	t.allowed(closed(fs.Open("d/f", unix.O_RDWR, 0)), x, "open in it")
	t.allowed(fs.Access("d/f", unix.R_OK), x, "access in it")
	_, err = fs.Lstat("d/none")
	if x {
		t.fails(err, "lstat of a missing name in it", unix.ENOENT)
	} else {
		t.fails(err, "lstat of a missing name in it", unix.EACCES)
	}
	wx := w && x
	t.allowed(closed(fs.Open("d/new", unix.O_CREAT|unix.O_WRONLY, 0o600)), wx, "create in it")
	t.allowed(fs.Mkdir("d/newdir", 0o700), wx, "mkdir in it")
	t.allowed(fs.Symlink("x", "d/newlink"), wx, "symlink in it")
	t.allowed(fs.Mknod("d/newfifo", unix.S_IFIFO|0o600, 0), wx, "mkfifo in it")
	t.allowed(fs.Rename("d/f", "d/g", 0), wx, "rename in it")
	if wx {
		t.ok(t.Rename("d/g", "d/f", 0), "rename back")
	}
	t.allowed(fs.Unlink("d/f"), wx, "unlink in it")
	t.allowed(fs.Rmdir("d/sub"), wx, "rmdir in it")
}

var permissionSingles = []testCase{
	{"root reads and writes files that nobody may", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("x"))
		t.own("f", 1000, 1000, 0)
		t.open(t.FS, "f", unix.O_RDWR, 0)
		t.ok(t.Access("f", unix.R_OK|unix.W_OK), "access")
	}},
	{"root executes only what somebody may", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		for mode, may := range map[uint32]bool{0: false, 0o666: false, 0o100: true, 0o010: true, 0o001: true} {
			t.own("f", 1000, 1000, mode)
			t.allowed(t.Access("f", unix.X_OK), may, fmt.Sprintf("access of mode %o", mode))
		}
	}},
	{"root passes directories that nobody may", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1000, 1000, 0)
		t.file("d/f", nil)
		t.wantNames("d", "f")
		t.ok(t.Unlink("d/f"), "unlink")
	}},
	{"every directory on the way must be searchable", []Capability{Callers}, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.dir("a/b/c")
		t.file("a/b/c/f", nil)
		fs := t.user(1000)
		for _, d := range []string{"a", "a/b", "a/b/c"} {
			t.ok(t.Chmod(d, 0o776), "chmod")
			_, err := fs.Lstat("a/b/c/f")
			t.fails(err, "lstat below "+d, unix.EACCES)
			t.ok(t.Chmod(d, 0o777), "chmod")
		}
		_, err := fs.Lstat("a/b/c/f")
		t.ok(err, "lstat")
	}},
	{"a change of mode holds for the next lookup at once", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		fs := t.user(1000)
		for range 5 {
			_, err := fs.Lstat("d/f")
			t.ok(err, "lstat")
			t.ok(t.Chmod("d", 0o700), "chmod")
			_, err = fs.Lstat("d/f")
			t.fails(err, "lstat", unix.EACCES)
			t.ok(t.Chmod("d", 0o777), "chmod")
		}
	}},
	{"a descriptor outlives the permission that it was opened with", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("data"))
		t.own("f", 1000, 1000, 0o600)
		f := t.open(t.user(1000), "f", unix.O_RDWR, 0)
		t.own("f", 0, 0, 0)
		t.sameBytes(t.pread(f, 10, 0), []byte("data"), "contents")
		t.pwrite(f, []byte("more"), 4)
		t.size(f, 8)
	}},
	{"the owner without permission is not helped by that of others", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o077)
		_, err := t.user(1000, 2000).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "open by the owner", unix.EACCES)
		t.own("f", 1000, 2000, 0o707)
		_, err = t.user(1001, 2000).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "open by the group", unix.EACCES)
	}},
	{"chmod is for the owner", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o666)
		f := t.open(t.FS, "f", unix.O_RDWR, 0)
		t.fails(t.user(1001, 2000).Chmod("f", 0o777), "chmod by the group", unix.EPERM)
		t.fails(f.As(Cred{UID: 1001, GID: 2000}).Fchmod(0o777), "fchmod by the group", unix.EPERM)
		t.ok(t.user(1000).Chmod("f", 0o600), "chmod by the owner")
		t.ok(f.As(Cred{UID: 1000, GID: 1000}).Fchmod(0o640), "fchmod by the owner")
		equal(t, t.perm("f"), 0o640, "mode")
	}},
	{"chmod keeps all twelve bits and no more", nil, func(t *T) {
		t.file("f", nil)
		t.dir("d")
		for _, mode := range []uint32{0, 0o7777, 0o1000, 0o2000, 0o4000, 0o6750, 0o0124, 0o1777} {
			t.ok(t.Chmod("f", mode|unix.S_IFDIR), "chmod")
			equal(t, uint32(t.stat("f").Mode), mode|unix.S_IFREG, "mode of the file")
			t.ok(t.Chmod("d", mode), "chmod")
			equal(t, uint32(t.stat("d").Mode), mode|unix.S_IFDIR, "mode of the directory")
		}
	}},
	{"chmod follows links", nil, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		t.ok(t.Chmod("l", 0o600), "chmod")
		equal(t, t.perm("f"), 0o600, "mode of the target")
		equal(t, t.perm("l"), 0o777, "mode of the link")
	}},
	{"chmod by an owner outside the group drops setgid", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o755)
		t.ok(t.user(1000).Chmod("f", 0o2755), "chmod")
		equal(t, t.perm("f"), 0o755, "mode set by one outside")
		t.ok(t.user(1000, 2000).Chmod("f", 0o2755), "chmod")
		equal(t, t.perm("f"), 0o2755, "mode set by a member")
		t.ok(t.user(1000).Chmod("f", 0o4755), "chmod")
		equal(t, t.perm("f"), 0o4755, "setuid set by one outside")
	}},
	{"chmod of a directory by an owner outside the group drops setgid", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1000, 2000, 0o755)
		t.ok(t.user(1000).Chmod("d", 0o2755), "chmod")
		equal(t, t.perm("d"), 0o755, "mode")
	}},
	{"in a sticky directory only the owners remove", []Capability{Callers}, func(t *T) {
		for _, c := range []struct {
			who      FS
			name     string
			dir, own int
			may      bool
		}{
			{t.user(1000), "another", 1, 2, false},
			{t.user(1000), "the file's owner", 1, 1000, true},
			{t.user(1000), "the directory's owner", 1000, 1, true},
			{t.FS, "root", 1, 2, true},
			{t.user(1000, 5), "the group", 1, 2, false},
		} {
			t.dir("d")
			t.file("d/f", nil)
			t.file("d/g", nil)
			t.dir("d/s")
			for _, n := range []string{"d/f", "d/g", "d/s"} {
				t.own(n, c.own, 5, 0o777)
			}
			t.own("d", c.dir, 5, 0o1777)
			done := func(err error, what string) {
				t.Helper()
				if c.may {
					t.ok(err, "%s by %s", what, c.name)
				} else {
					t.fails(err, what+" by "+c.name, unix.EPERM)
				}
			}
			done(c.who.Rename("d/g", "d/h", 0), "rename")
			if c.may {
				t.ok(t.Rename("d/h", "d/g", 0), "rename back")
			}
			done(c.who.Rename("d/g", "d/f", 0), "rename over")
			done(c.who.Rmdir("d/s"), "rmdir")
			if !c.may {
				done(c.who.Unlink("d/g"), "unlink")
				done(c.who.Unlink("d/f"), "unlink")
				t.ok(t.Unlink("d/g"), "unlink")
				t.ok(t.Rmdir("d/s"), "rmdir")
				t.ok(t.Unlink("d/f"), "unlink")
			} else {
				done(c.who.Unlink("d/f"), "unlink")
			}
			t.ok(t.Rmdir("d"), "rmdir")
		}
	}},
	{"in a sticky directory a file of another is not renamed over", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.ok(t.Chmod("d", 0o1777), "chmod")
		t.file("d/theirs", nil)
		t.file("d/mine", nil)
		t.own("d/theirs", 1001, 1001, 0o666)
		t.own("d/mine", 1000, 1000, 0o666)
		t.fails(t.user(1000).Rename("d/mine", "d/theirs", 0), "rename", unix.EPERM)
		t.fails(t.user(1000).Rename("d/theirs", "d/x", 0), "rename", unix.EPERM)
		t.wantNames("d", "mine", "theirs")
	}},
	{"a directory of another moves only within its parent", []Capability{Callers}, func(t *T) {
		t.dir("a")
		t.dir("a/d")
		t.dir("b")
		t.own("a/d", 1001, 1001, 0o755)
		fs := t.user(1000)
		t.ok(fs.Rename("a/d", "a/e", 0), "rename in the same directory")
		t.fails(fs.Rename("a/e", "b/e", 0), "rename to another directory", unix.EACCES)
	}},
	{"utimens to now is for those who may write, to a time for the owner", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		old := &[2]unix.Timespec{{Sec: 1000}, {Sec: 2000}}
		now := &[2]unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		half := &[2]unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}
		none := &[2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		t.own("f", 1000, 1000, 0o444)
		t.ok(t.user(1000).Utimens("f", old, 0), "to a time by the owner")
		t.ok(t.user(1000).Utimens("f", now, 0), "to now by the owner")
		t.ok(t.user(1000).Utimens("f", half, 0), "one to now by the owner")
		t.fails(t.user(1001).Utimens("f", nil, 0), "to now by a reader", unix.EACCES)
		t.fails(t.user(1001).Utimens("f", now, 0), "to now by a reader", unix.EACCES)
		t.fails(t.user(1001).Utimens("f", old, 0), "to a time by a reader", unix.EPERM)
		t.own("f", 1000, 1000, 0o666)
		t.ok(t.user(1001).Utimens("f", nil, 0), "to now by a writer")
		t.ok(t.user(1001).Utimens("f", now, 0), "to now by a writer")
		t.fails(t.user(1001).Utimens("f", old, 0), "to a time by a writer", unix.EPERM)
		t.fails(t.user(1001).Utimens("f", half, 0), "one to now by a writer", unix.EPERM)
		t.ok(t.user(1001).Utimens("f", none, 0), "nothing by a writer")
	}},
	{"truncate needs write access, ftruncate a writable descriptor", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("data"))
		t.own("f", 1000, 1000, 0o444)
		t.fails(t.user(1000).Truncate("f", 1), "truncate", unix.EACCES)
		t.ok(t.Chmod("f", 0o200), "chmod")
		f := t.open(t.user(1000), "f", unix.O_WRONLY, 0)
		t.ok(t.Chmod("f", 0), "chmod")
		t.ok(f.Ftruncate(2), "ftruncate")
		t.size(f, 2)
	}},
	{"link needs no access to the file itself by root", nil, func(t *T) {
		t.file("f", nil)
		t.ok(t.Chmod("f", 0), "chmod")
		t.ok(t.Link("f", "g"), "link")
	}},
	{"readlink needs no permission on the link", []Capability{Callers}, func(t *T) {
		t.symlink("x", "l")
		got, err := t.user(1000).Readlink("l")
		t.ok(err, "readlink")
		equal(t, got, "x", "target")
	}},
	{"rename needs write permission on both directories", []Capability{Callers}, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.file("a/f", nil)
		fs := t.user(1000)
		t.ok(t.Chmod("b", 0o755), "chmod")
		t.fails(fs.Rename("a/f", "b/f", 0), "rename into a closed directory", unix.EACCES)
		t.ok(t.Chmod("b", 0o777), "chmod")
		t.ok(t.Chmod("a", 0o755), "chmod")
		t.fails(fs.Rename("a/f", "b/f", 0), "rename out of a closed directory", unix.EACCES)
		t.ok(t.Chmod("a", 0o777), "chmod")
		t.ok(fs.Rename("a/f", "b/f", 0), "rename")
	}},
	{"mknod of a device is for root", []Capability{Callers, DeviceNodes}, func(t *T) {
		fs := t.user(1000)
		t.fails(fs.Mknod("c", unix.S_IFCHR|0o666, makedev(1, 3)), "mknod", unix.EPERM)
		t.fails(fs.Mknod("b", unix.S_IFBLK|0o666, makedev(7, 0)), "mknod", unix.EPERM)
		t.ok(fs.Mknod("p", unix.S_IFIFO|0o666, 0), "mkfifo")
		t.ok(fs.Mknod("s", unix.S_IFSOCK|0o666, 0), "mknod of a socket")
		t.ok(fs.Mknod("f", unix.S_IFREG|0o666, 0), "mknod of a file")
	}},
}
