package behaviour

import (
	"fmt"

	"golang.org/x/sys/unix"
)

var linkCases = []testCase{
	{"two names are one file", nil, func(t *T) {
		t.file("a", []byte("one"))
		t.ok(t.Link("a", "b"), "link")
		t.nlink("a", 2)
		t.nlink("b", 2)
		equal(t, t.stat("b").Ino, t.stat("a").Ino, "inode")
		t.file("b", []byte("longer"))
		t.sameBytes(t.contents("a"), []byte("longer"), "contents by the other name")
		t.ok(t.Chmod("a", 0o600), "chmod")
		equal(t, t.perm("b"), 0o600, "mode by the other name")
		t.ok(t.Truncate("b", 2), "truncate")
		equal(t, t.stat("a").Size, 2, "size by the other name")
	}},
	{"link counts go up and down", nil, func(t *T) {
		t.file("n0", nil)
		const n = 50
		for i := range uint32(n) {
			t.nlink("n0", i+1)
			t.ok(t.Link(fmt.Sprintf("n%d", i), fmt.Sprintf("n%d", i+1)), "link")
		}
		for i := range uint32(n) {
			t.ok(t.Unlink(fmt.Sprintf("n%d", i)), "unlink")
			t.nlink(fmt.Sprintf("n%d", n), n-i)
		}
	}},
	{"a link works across directories", nil, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.file("a/f", []byte("x"))
		t.ok(t.Link("a/f", "b/g"), "link")
		t.ok(t.Unlink("a/f"), "unlink")
		t.ok(t.Rmdir("a"), "rmdir")
		t.sameBytes(t.contents("b/g"), []byte("x"), "contents")
	}},
	{"every kind but a directory takes a second name", nil, func(t *T) {
		for _, p := range t.makeAll(t.FS, ".") {
			if p == "./dir" {
				t.fails(t.Link(p, p+"2"), "link of a directory", unix.EPERM)
				continue
			}
			t.ok(t.Link(p, p+"2"), "link of %s", p)
			t.nlink(p, 2)
			equal(t, t.stat(p+"2").Mode, t.stat(p).Mode, "mode")
		}
	}},
	{"a link to a symbolic link is to the link itself", nil, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		t.ok(t.Link("l", "m"), "link")
		equal(t, t.stat("m").Mode&unix.S_IFMT, unix.S_IFLNK, "type")
		t.nlink("l", 2)
		t.nlink("f", 1)
	}},
	{"a link to a link that dangles", nil, func(t *T) {
		t.symlink("none", "l")
		t.ok(t.Link("l", "m"), "link")
		got, err := t.Readlink("m")
		t.ok(err, "readlink")
		equal(t, got, "none", "target")
	}},
	{"a link over a name is EEXIST", nil, func(t *T) {
		t.file("a", nil)
		for _, p := range t.makeAll(t.FS, ".") {
			t.fails(t.Link("a", p), "link over "+p, unix.EEXIST)
		}
		t.fails(t.Link("a", "a"), "link over itself", unix.EEXIST)
		t.nlink("a", 1)
	}},
	{"a handle sees the link count", nil, func(t *T) {
		f := t.rw("a")
		t.ok(t.Link("a", "b"), "link")
		equal(t, t.fstat(f).Nlink, 2, "link count")
		t.ok(t.Unlink("a"), "unlink")
		equal(t, t.fstat(f).Nlink, 1, "link count")
		t.ok(t.Rename("b", "c", 0), "rename")
		equal(t, t.fstat(f).Nlink, 1, "link count")
	}},
	{"a file linked, written by one name and unlinked lives by the other", nil, func(t *T) {
		for i := range byte(10) {
			t.file("a", pattern(5000, i))
			t.ok(t.Link("a", "b"), "link")
			t.ok(t.Unlink("a"), "unlink")
			t.sameBytes(t.contents("b"), pattern(5000, i), "contents")
			t.ok(t.Unlink("b"), "unlink")
		}
	}},
	{"a user may not link a file of another that cannot be written", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Chmod("f", 0o600), "chmod")
		// Only where fs.protected_hardlinks is set, which is the kernel's doing; else it passes.
		if err := t.user(1000).Link("f", "g"); err != nil {
			t.fails(err, "link", unix.EPERM)
		}
		t.ok(t.Chmod("f", 0o666), "chmod")
		t.ok(t.user(1000).Link("f", "h"), "link of a file that can be written")
		t.owned("h", 0, 0)
	}},
	{"extended attributes and times are those of the file", []Capability{XattrUser}, func(t *T) {
		t.file("a", nil)
		t.ok(t.Link("a", "b"), "link")
		t.ok(t.Setxattr("a", "user.x", []byte("v"), 0), "setxattr")
		n, err := t.Getxattr("b", "user.x", make([]byte, 10))
		t.ok(err, "getxattr by the other name")
		equal(t, n, 1, "size of the value")
		t.ok(t.Utimens("b", &[2]unix.Timespec{{Sec: 5}, {Sec: 6}}, 0), "utimens")
		equal(t, t.stat("a").Mtime.Sec, 6, "mtime by the other name")
	}},
}

// unlinked opens a new file with some data and removes its name.
func (t *T) unlinked(data []byte) File {
	t.Helper()
	f := t.rw("gone")
	t.write(f, data)
	t.ok(t.Unlink("gone"), "unlink")
	return f
}

var unlinkedCases = []testCase{
	{"an unlinked open file is read and written", nil, func(t *T) {
		f := t.unlinked(pattern(10000, 1))
		t.wantNames(".")
		t.sameBytes(t.pread(f, 20000, 0), pattern(10000, 1), "contents")
		t.pwrite(f, pattern(10000, 2), 5000)
		t.sameBytes(t.pread(f, 20000, 5000), pattern(10000, 2), "contents")
		t.ok(f.Fsync(), "fsync")
	}},
	{"an unlinked open file has no links and keeps its inode", nil, func(t *T) {
		f := t.rw("gone")
		ino := t.fstat(f).Ino
		equal(t, t.fstat(f).Nlink, 1, "link count before")
		t.ok(t.Unlink("gone"), "unlink")
		equal(t, t.fstat(f).Nlink, 0, "link count after")
		equal(t, t.fstat(f).Ino, ino, "inode")
	}},
	{"an unlinked open file is truncated and grown", nil, func(t *T) {
		f := t.unlinked(pattern(10000, 1))
		t.ok(f.Ftruncate(10), "ftruncate")
		t.size(f, 10)
		t.ok(f.Ftruncate(5000), "ftruncate")
		t.sameBytes(t.pread(f, 5001, 0), append(pattern(10000, 1)[:10], make([]byte, 4990)...), "contents")
	}},
	{"mode, owner and times of an unlinked open file change", []Capability{Callers}, func(t *T) {
		f := t.unlinked(nil)
		t.ok(f.Fchmod(0o741), "fchmod")
		t.ok(f.Fchown(12, 34), "fchown")
		t.ok(f.Futimens(&[2]unix.Timespec{{Sec: 5}, {Sec: 6}}), "futimens")
		st := t.fstat(f)
		equal(t, st.Mode&0o7777, 0o741, "mode")
		equal(t, st.Uid, 12, "uid")
		equal(t, st.Gid, 34, "gid")
		equal(t, st.Mtime.Sec, 6, "mtime")
	}},
	{"times of a file that was replaced while open are stored", nil, func(t *T) {
		f := t.rw("f")
		t.write(f, pattern(10000, 1))
		t.file("other", nil)
		t.ok(t.Rename("other", "f", 0), "rename")
		t.pwrite(f, pattern(10000, 2), 5000)
		t.ok(f.Futimens(&[2]unix.Timespec{{Sec: 5}, {Sec: 6}}), "futimens")
		t.ok(f.Fsync(), "fsync")
		st := t.fstat(f)
		equal(t, st.Nlink, 0, "link count")
		equal(t, st.Mtime.Sec, 6, "mtime")
		equal(t, st.Size, 15000, "size")
		t.ok(f.Close(), "close")
	}},
	{"extended attributes of an unlinked open file", []Capability{XattrUser}, func(t *T) {
		f := t.unlinked(nil)
		t.ok(f.Fsetxattr("user.a", []byte("value"), 0), "fsetxattr")
		p := make([]byte, 100)
		n, err := f.Fgetxattr("user.a", p)
		t.ok(err, "fgetxattr")
		equal(t, string(p[:n]), "value", "value")
		n, err = f.Flistxattr(p)
		t.ok(err, "flistxattr")
		equal(t, string(p[:n]), "user.a\x00", "list")
		t.ok(f.Fremovexattr("user.a"), "fremovexattr")
	}},
	{"blocks of an unlinked open file are taken and given back", []Capability{Fallocate, PunchHole}, func(t *T) {
		f := t.unlinked(nil)
		t.ok(f.Fallocate(0, 0, 1<<20), "fallocate")
		t.pwrite(f, pattern(200000, 1), 0)
		t.ok(f.Fallocate(punch, 0, 131072), "punch")
		t.sameBytes(t.pread(f, 200000, 0), zeroed(pattern(200000, 1), 0, 131072), "contents")
	}},
	{"two handles of an unlinked file share it", nil, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(t.Unlink("f"), "unlink")
		t.pwrite(a, []byte("shared"), 0)
		t.sameBytes(t.pread(b, 10, 0), []byte("shared"), "contents")
		t.ok(a.Close(), "close")
		t.pwrite(b, []byte("S"), 0)
		t.sameBytes(t.pread(b, 10, 0), []byte("Shared"), "contents after the first close")
	}},
	{"a new file of the same name is another", nil, func(t *T) {
		f := t.unlinked([]byte("old"))
		t.file("gone", []byte("newer"))
		t.sameBytes(t.pread(f, 10, 0), []byte("old"), "contents of the old file")
		t.sameBytes(t.contents("gone"), []byte("newer"), "contents of the new file")
		t.write(f, []byte("er"))
		t.sameBytes(t.contents("gone"), []byte("newer"), "contents of the new file")
		if t.fstat(f).Ino == t.stat("gone").Ino {
			t.Fatal("both have one inode number")
		}
	}},
	{"a file unlinked in a removed directory works on", nil, func(t *T) {
		t.dir("d")
		f := t.rw("d/f")
		t.ok(t.Unlink("d/f"), "unlink")
		t.ok(t.Rmdir("d"), "rmdir")
		t.write(f, []byte("data"))
		t.sameBytes(t.pread(f, 10, 0), []byte("data"), "contents")
	}},
	{"a copy into and out of an unlinked file", []Capability{CopyRange}, func(t *T) {
		f := t.unlinked(pattern(1000, 1))
		equal(t, t.copyRange(f, t.rw("b"), 0, 0, 1000), 1000, "bytes copied")
		t.sameBytes(t.contents("b"), pattern(1000, 1), "contents")
		equal(t, t.copyRange(t.rw("b"), f, 0, 1000, 1000), 1000, "bytes copied back")
		t.size(f, 2000)
	}},
	{"data and holes of an unlinked file", nil, func(t *T) {
		f := t.unlinked(pattern(1000, 1))
		t.ok(f.Fsync(), "fsync")
		t.seek(f, 0, unix.SEEK_DATA, 0)
		t.seek(f, 0, unix.SEEK_HOLE, 1000)
	}},
	{"an unlinked file's permission is that of its handle", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("data"))
		t.ok(t.Chmod("f", 0o644), "chmod")
		f := t.open(t.user(1000), "f", unix.O_RDONLY, 0)
		t.ok(t.Unlink("f"), "unlink")
		t.sameBytes(t.pread(f, 10, 0), []byte("data"), "contents")
		_, err := f.Pwrite([]byte("x"), 0)
		t.fails(err, "pwrite", unix.EBADF)
		t.fails(f.As(Cred{UID: 1000}).Fchmod(0o777), "fchmod", unix.EPERM)
	}},
	{"a removed open directory reads as empty and has no links", nil, func(t *T) {
		t.dir("d")
		d := t.open(t.FS, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.ok(t.Rmdir("d"), "rmdir")
		ents, err := readAll(d, 4096)
		if err != nil {
			t.fails(err, "getdents", unix.ENOENT)
		}
		for _, e := range ents {
			if e.Name != "." && e.Name != ".." {
				t.Errorf("entry %q", e.Name)
			}
		}
		if n := t.fstat(d).Nlink; n != 0 {
			t.Fatalf("link count is %d", n)
		}
		t.ok(d.Fchmod(0o700), "fchmod")
	}},
	{"many unlinked files at once keep apart", nil, func(t *T) {
		var open []File
		for i := range t.scaled(200, 50) {
			f := t.rw("same")
			t.write(f, pattern(100+i, byte(i)))
			t.ok(t.Unlink("same"), "unlink")
			open = append(open, f)
		}
		for i, f := range open {
			t.sameBytes(t.pread(f, 1000, 0), pattern(100+i, byte(i)), fmt.Sprintf("file %d", i))
		}
	}},
}
