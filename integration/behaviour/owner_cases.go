package behaviour

import (
	"golang.org/x/sys/unix"
)

// owned checks the ids of one name.
func (t *T) owned(path string, uid, gid uint32) {
	t.Helper()
	st := t.stat(path)
	if st.Uid != uid || st.Gid != gid {
		t.Fatalf("%s belongs to %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// makeAll makes one of each kind below dir.
func (t *T) makeAll(fs FS, dir string) (paths []string) {
	t.Helper()
	t.ok(closed(fs.Open(dir+"/file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o666)), "create")
	t.ok(fs.Mkdir(dir+"/dir", 0o777), "mkdir")
	t.ok(fs.Symlink("x", dir+"/link"), "symlink")
	t.ok(fs.Mknod(dir+"/fifo", unix.S_IFIFO|0o666, 0), "mkfifo")
	t.ok(fs.Mknod(dir+"/node", unix.S_IFREG|0o666, 0), "mknod")
	t.ok(fs.Mknod(dir+"/sock", unix.S_IFSOCK|0o666, 0), "mknod of a socket")
	for _, n := range []string{"/file", "/dir", "/link", "/fifo", "/node", "/sock"} {
		paths = append(paths, dir+n)
	}
	return paths
}

var ownerCases = []testCase{
	{"what root makes is root's", []Capability{Callers}, func(t *T) {
		for _, p := range t.makeAll(t.FS, ".") {
			t.owned(p, 0, 0)
		}
	}},
	{"what a user makes is the user's and of the user's group", []Capability{Callers}, func(t *T) {
		for _, p := range t.makeAll(t.As(Cred{UID: 1234, GID: 5678, Groups: []uint32{9}}), ".") {
			t.owned(p, 1234, 5678)
		}
	}},
	{"large ids are kept", []Capability{Callers}, func(t *T) {
		const big = 1<<32 - 5
		for _, p := range t.makeAll(t.As(Cred{UID: big, GID: big - 1}), ".") {
			t.owned(p, big, big-1)
		}
		t.file("f", nil)
		t.ok(t.Chown("f", 70000, 3000000000), "chown")
		t.owned("f", 70000, 3000000000)
	}},
	{"root in a group makes files of that group", []Capability{Callers}, func(t *T) {
		for _, p := range t.makeAll(t.As(Cred{UID: 0, GID: 77}), ".") {
			t.owned(p, 0, 77)
		}
	}},
	{"a setgid directory gives its group", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o2777)
		for _, p := range t.makeAll(t.user(1000), "d") {
			t.owned(p, 1000, 2000)
		}
		equal(t, t.perm("d/dir"), 0o2777, "mode of the new directory")
		equal(t, t.perm("d/file"), 0o666, "mode of the new file")
	}},
	{"a setgid directory gives its group to members and to root", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o2777)
		t.dir("d/a")
		t.dir("d/b")
		for _, p := range t.makeAll(t.user(1000, 2000), "d/a") {
			t.owned(p, 1000, 2000)
		}
		for _, p := range t.makeAll(t.FS, "d/b") {
			t.owned(p, 0, 2000)
		}
	}},
	{"setgid goes down through made directories", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o2777)
		fs := t.user(1000)
		t.ok(fs.Mkdir("d/a", 0o700), "mkdir")
		t.ok(fs.Mkdir("d/a/b", 0o700), "mkdir")
		equal(t, t.perm("d/a/b"), 0o2700, "mode")
		t.owned("d/a/b", 1000, 2000)
	}},
	{"a file made setgid in a setgid directory by one outside the group is not", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o2777)
		t.open(t.user(1000), "d/f", unix.O_CREAT|unix.O_WRONLY, 0o2775)
		equal(t, t.perm("d/f"), 0o775, "mode by one outside")
		t.open(t.user(1000, 2000), "d/g", unix.O_CREAT|unix.O_WRONLY, 0o2775)
		equal(t, t.perm("d/g"), 0o2775, "mode by a member")
		t.open(t.FS, "d/h", unix.O_CREAT|unix.O_WRONLY, 0o2775)
		equal(t, t.perm("d/h"), 0o2775, "mode by root")
	}},
	{"a group that only the supplementary list has opens the directory to make files", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o770)
		fs := t.user(1000, 3, 2000)
		for _, p := range t.makeAll(fs, "d") {
			t.owned(p, 1000, 1000)
		}
		t.fails(t.user(1000, 3).Mkdir("d/x", 0o777), "mkdir by one outside", unix.EACCES)
	}},
	{"renamed files keep their group in a setgid directory", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o2777)
		t.ok(closed(t.user(1000).Open("f", unix.O_CREAT|unix.O_WRONLY, 0o600)), "create")
		t.ok(t.Rename("f", "d/f", 0), "rename")
		t.owned("d/f", 1000, 1000)
	}},
	{"chown sets one id, both or none", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		for _, s := range []struct {
			uid, gid int
			u, g     uint32
		}{{5, 6, 5, 6}, {7, -1, 7, 6}, {-1, 8, 7, 8}, {-1, -1, 7, 8}, {0, 0, 0, 0}} {
			t.ok(t.Chown("f", s.uid, s.gid), "chown")
			t.owned("f", s.u, s.g)
		}
	}},
	{"fchown does as chown", []Capability{Callers}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Fchown(5, -1), "fchown")
		t.ok(f.Fchown(-1, 6), "fchown")
		t.owned("f", 5, 6)
	}},
	{"chown follows a link and lchown does not", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		t.ok(t.Chown("l", 5, 6), "chown")
		t.owned("f", 5, 6)
		t.owned("l", 0, 0)
		t.ok(t.Lchown("l", 7, 8), "lchown")
		t.owned("f", 5, 6)
		t.owned("l", 7, 8)
	}},
	{"chown works on every kind of file", []Capability{Callers}, func(t *T) {
		for _, p := range t.makeAll(t.FS, ".") {
			t.ok(t.Lchown(p, 42, 43), "lchown")
			t.owned(p, 42, 43)
		}
	}},
	{"a user gives no file away", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 1000, 0o666)
		fs := t.user(1000, 2000)
		t.fails(fs.Chown("f", 1001, -1), "chown to another", unix.EPERM)
		t.fails(fs.Chown("f", 1001, 2000), "chown to another", unix.EPERM)
		t.ok(fs.Chown("f", 1000, -1), "chown to oneself")
		t.owned("f", 1000, 1000)
	}},
	{"a user takes no file", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Chmod("f", 0o777), "chmod")
		t.fails(t.user(1000).Chown("f", 1000, -1), "chown", unix.EPERM)
		t.fails(t.user(1000).Chown("f", -1, 1000), "chown", unix.EPERM)
		t.owned("f", 0, 0)
	}},
	{"a user changes the group to one of the user's", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 1000, 0o666)
		fs := t.user(1000, 2000)
		t.ok(fs.Chown("f", -1, 2000), "chown")
		t.owned("f", 1000, 2000)
		t.fails(fs.Chown("f", -1, 3000), "chown to a strange group", unix.EPERM)
		t.ok(fs.Chown("f", -1, 1000), "chown back")
		f := t.open(fs, "f", unix.O_RDONLY, 0)
		t.ok(f.Fchown(-1, 2000), "fchown by a reading descriptor")
		t.owned("f", 1000, 2000)
	}},
	{"chown of nothing by another than the owner passes", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.user(1000).Chown("f", -1, -1), "chown")
	}},
	{"a user's files in a directory of another are the user's", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2, 0o777)
		for _, p := range t.makeAll(t.user(1000), "d") {
			t.owned(p, 1000, 1000)
		}
	}},
	{"many callers at once each get their own files", []Capability{Callers}, func(t *T) {
		const callers, files = 8, 20
		errs := make(chan error, callers)
		for c := range uint32(callers) {
			fs := t.user(1000 + c)
			go func() {
				for range files {
					name := uniqueName(c)
					if err := closed(fs.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		for range callers {
			t.ok(<-errs, "create")
		}
		for _, n := range t.names(".") {
			t.owned(n, ownerOfName(t, n), ownerOfName(t, n))
		}
		equal(t, len(t.names(".")), callers*files, "number of files")
	}},
}
