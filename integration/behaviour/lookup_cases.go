package behaviour

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

var lookupCases = []testCase{
	{"a name of 255 bytes is a name for every call", nil, func(t *T) {
		n := strings.Repeat("n", 255)
		t.file(n, []byte("long"))
		t.sameBytes(t.contents(n), []byte("long"), "contents")
		m := strings.Repeat("m", 255)
		t.ok(t.Rename(n, m, 0), "rename")
		t.ok(t.Link(m, n), "link")
		t.ok(t.Unlink(m), "unlink")
		t.wantNames(".", n)
		t.ok(t.Unlink(n), "unlink")
		t.dir(n)
		t.file(n+"/"+m, nil)
		t.wantNames(n, m)
		t.symlink(m, m)
		t.wantNames(".", m, n)
	}},
	{"every byte but NUL and slash can be in a name", nil, func(t *T) {
		for c := 1; c < 256; c++ {
			if c == '/' {
				continue
			}
			n := "a" + string([]byte{byte(c)}) + "z"
			t.ok(closed(t.Open(n, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)), "create %q", n)
		}
		equal(t, len(t.names(".")), 254, "number of names")
		for _, n := range t.names(".") {
			t.ok(t.Unlink(n), "unlink %q", n)
		}
	}},
	{"names that look odd are names", nil, func(t *T) {
		odd := []string{"...", " ", "-", "..a", ".a", "a.", "~", "*", "\\", "\n", "\xff\xfe", "日本", "CON", "a:b", "#", "%00"}
		for _, n := range odd {
			t.file(n, []byte(n))
		}
		for _, n := range odd {
			t.sameBytes(t.contents(n), []byte(n), n)
		}
		equal(t, len(t.names(".")), len(odd), "number of names")
	}},
	{"names differ by case", nil, func(t *T) {
		t.file("a", []byte("lower"))
		t.file("A", []byte("upper"))
		t.sameBytes(t.contents("a"), []byte("lower"), "a")
		t.sameBytes(t.contents("A"), []byte("upper"), "A")
	}},
	{"names of different normal forms differ", nil, func(t *T) {
		t.file("\u00e9", nil)
		t.missing("e\u0301")
	}},
	{"a path of 4095 bytes is looked up", nil, func(t *T) {
		t.file("x", nil)
		p := strings.Repeat("./", 2047) + "x"
		equal(t, len(p), 4095, "length of the path")
		_, err := t.Lstat(p)
		t.ok(err, "lstat")
		t.ok(closed(t.Open(p, unix.O_RDONLY, 0)), "open")
		t.ok(t.Chmod(p, 0o600), "chmod")
		t.ok(t.Unlink(p), "unlink")
		t.ok(t.Mkdir(p, 0o777), "mkdir")
		t.ok(t.Rmdir(p), "rmdir")
	}},
	{"a tree deeper than a path can say is reached in steps", nil, func(t *T) {
		name := strings.Repeat("d", 250)
		at, err := t.Sub(".")
		t.ok(err, "sub")
		for i := range 20 {
			t.ok(at.Mkdir(name, 0o777), "mkdir %d", i)
			next, err := at.Sub(name)
			t.ok(err, "sub %d", i)
			t.ok(at.Close(), "close")
			at = next
		}
		t.ok(closed(at.Open("deep", unix.O_CREAT|unix.O_WRONLY, 0o600)), "create")
		_, err = at.Lstat("deep")
		t.ok(err, "lstat")
		t.ok(at.Close(), "close")
	}},
	{"dots and doubled slashes go nowhere", nil, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		want := t.stat("d/f").Ino
		for _, p := range []string{"./d/f", "d//f", "d/./f", "d/../d/f", "./././d/.//./f", "d/../././d/../d/f"} {
			equal(t, t.stat(p).Ino, want, "inode of %s", p)
		}
	}},
	{"dot and dot-dot are the directory and its parent", nil, func(t *T) {
		t.dir("d")
		t.dir("d/e")
		equal(t, t.stat("d/.").Ino, t.stat("d").Ino, "inode of d/.")
		equal(t, t.stat("d/e/..").Ino, t.stat("d").Ino, "inode of d/e/..")
		equal(t, t.stat("d/e/../..").Ino, t.stat(".").Ino, "inode of d/e/../..")
	}},
	{"dot-dot follows a directory that moved", nil, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.dir("a/sub")
		sub, err := t.Sub("a/sub")
		t.ok(err, "sub")
		defer sub.Close()
		t.ok(t.Rename("a/sub", "b/moved", 0), "rename")
		st, err := sub.Lstat("..")
		t.ok(err, "lstat ..")
		equal(t, st.Ino, t.stat("b").Ino, "inode of ..")
	}},
	{"dot-dot after a link is that of its target", nil, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.symlink("a/b", "l")
		equal(t, t.stat("l/..").Ino, t.stat("a").Ino, "inode of l/..")
	}},
	{"dot-dot of a file is ENOTDIR", nil, func(t *T) {
		t.file("f", nil)
		_, err := t.Lstat("f/..")
		t.fails(err, "lstat", unix.ENOTDIR)
		_, err = t.Lstat("f/.")
		t.fails(err, "lstat", unix.ENOTDIR)
	}},
	{"mkdir takes a trailing slash", nil, func(t *T) {
		t.ok(t.Mkdir("d/", 0o777), "mkdir d/")
		t.ok(t.Mkdir("e//", 0o777), "mkdir e//")
		t.wantNames(".", "d", "e")
	}},
	{"rmdir and rename take a directory with a trailing slash", nil, func(t *T) {
		t.dir("d")
		t.ok(t.Rename("d/", "e/", 0), "rename")
		t.wantNames(".", "e")
		t.ok(t.Rmdir("e/"), "rmdir")
		t.wantNames(".")
	}},
	{"a trailing slash follows a link to a directory", nil, func(t *T) {
		t.dir("d")
		t.symlink("d", "l")
		st, err := t.Lstat("l/")
		t.ok(err, "lstat")
		equal(t, st.Ino, t.stat("d").Ino, "inode of l/")
		t.fails(t.Unlink("l/"), "unlink", unix.ENOTDIR, unix.EISDIR)
		t.fails(t.Rmdir("l/"), "rmdir", unix.ENOTDIR)
	}},
	{"forty links in a path pass and forty-one are ELOOP", nil, func(t *T) {
		t.file("l0", []byte("end"))
		for i := 1; i <= 41; i++ {
			t.symlink(fmt.Sprintf("l%d", i-1), fmt.Sprintf("l%d", i))
		}
		t.sameBytes(t.contents("l40"), []byte("end"), "contents through 40 links")
		_, err := t.Stat("l41")
		t.fails(err, "stat through 41 links", unix.ELOOP)
		_, err = t.Lstat("l41")
		t.ok(err, "lstat of the last link")
	}},
	{"forty links in the middle of a path pass and forty-one are ELOOP", nil, func(t *T) {
		t.dir("d")
		t.symlink(".", "d/l")
		t.file("d/f", nil)
		_, err := t.Lstat("d/" + strings.Repeat("l/", 40) + "f")
		t.ok(err, "lstat through 40 links")
		_, err = t.Lstat("d/" + strings.Repeat("l/", 41) + "f")
		t.fails(err, "lstat through 41 links", unix.ELOOP)
	}},
	{"two links to each other are ELOOP", nil, func(t *T) {
		t.symlink("b", "a")
		t.symlink("a", "b")
		_, err := t.Open("a", unix.O_RDONLY, 0)
		t.fails(err, "open", unix.ELOOP)
		_, err = t.Open("a", unix.O_RDWR|unix.O_CREAT, 0o600)
		t.fails(err, "create", unix.ELOOP)
	}},
	{"a link is relative to its own directory", nil, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.file("a/f", []byte("right"))
		t.file("f", []byte("wrong"))
		t.symlink("../f", "a/b/l")
		t.sameBytes(t.contents("a/b/l"), []byte("right"), "contents")
		t.ok(t.Rename("a/b/l", "a/l2", 0), "rename")
		t.sameBytes(t.contents("a/l2"), []byte("wrong"), "contents after the link moved")
	}},
	{"the target of a link comes back as it was given", nil, func(t *T) {
		for i, target := range []string{"x", "none/../x//", "/absolute/path", "./.", strings.Repeat("t", 255), "\xff\n"} {
			n := fmt.Sprintf("l%d", i)
			t.symlink(target, n)
			got, err := t.Readlink(n)
			t.ok(err, "readlink")
			equal(t, got, target, "target")
			equal(t, int(t.stat(n).Size), len(target), "size of the link")
		}
	}},
	{"a target of 1023 bytes is kept and one of 4096 is ENAMETOOLONG", nil, func(t *T) {
		long := strings.Repeat("t", 1023)
		t.symlink(long, "l")
		got, err := t.Readlink("l")
		t.ok(err, "readlink")
		equal(t, got, long, "target")
		t.fails(t.Symlink(strings.Repeat("t", 4096), "m"), "symlink", unix.ENAMETOOLONG)
	}},
	{"a target of 4095 bytes is kept", []Capability{LongLinks}, func(t *T) {
		long := strings.Repeat("t/", 2047) + "t"
		t.symlink(long, "l")
		got, err := t.Readlink("l")
		t.ok(err, "readlink")
		equal(t, got, long, "target")
	}},
	{"an empty target is ENOENT", nil, func(t *T) {
		t.fails(t.Symlink("", "l"), "symlink", unix.ENOENT)
		t.missing("l")
	}},
	{"a link has mode 0777 whatever the mask", nil, func(t *T) {
		t.ok(t.Umask(0o077).Symlink("x", "l"), "symlink")
		equal(t, t.perm("l"), 0o777, "mode of the link")
		equal(t, t.stat("l").Mode&unix.S_IFMT, unix.S_IFLNK, "type of the link")
	}},
	{"a name that comes to be is seen after it was missed", nil, func(t *T) {
		for i := range 5 {
			n := fmt.Sprintf("n%d", i)
			t.missing(n)
			t.file(n, nil)
			t.stat(n)
			t.ok(t.Unlink(n), "unlink")
			t.missing(n)
			t.dir(n)
			equal(t, t.stat(n).Mode&unix.S_IFMT, unix.S_IFDIR, "type")
			t.ok(t.Rmdir(n), "rmdir")
			t.missing(n)
		}
	}},
	{"a name taken by another file is that file", nil, func(t *T) {
		t.file("a", []byte("old"))
		first := t.stat("a").Ino
		f := t.rw("a")
		t.ok(t.Unlink("a"), "unlink")
		t.file("a", []byte("newer"))
		equal(t, t.stat("a").Size, 5, "size of the new file")
		if t.stat("a").Ino == first {
			t.Fatal("two living files have one inode number")
		}
		t.size(f, 3)
	}},
	{"an inode number is the same by every way", nil, func(t *T) {
		t.file("f", nil)
		t.ok(t.Link("f", "g"), "link")
		t.symlink("f", "l")
		want := t.stat("f").Ino
		equal(t, t.stat("g").Ino, want, "of the other name")
		st, err := t.Stat("l")
		t.ok(err, "stat")
		equal(t, st.Ino, want, "through a link")
		equal(t, t.fstat(t.rw("f")).Ino, want, "of the open file")
		t.ok(t.Rename("f", "h", 0), "rename")
		equal(t, t.stat("h").Ino, want, "after rename")
	}},
	{"a removed directory has no names and takes none", nil, func(t *T) {
		t.dir("d")
		sub, err := t.Sub("d")
		t.ok(err, "sub")
		defer sub.Close()
		t.ok(t.Rmdir("d"), "rmdir")
		_, err = sub.Open("x", unix.O_CREAT|unix.O_WRONLY, 0o600)
		t.fails(err, "create", unix.ENOENT)
		t.fails(sub.Mkdir("x", 0o777), "mkdir", unix.ENOENT)
		t.fails(sub.Symlink("x", "x"), "symlink", unix.ENOENT)
		t.fails(sub.Mknod("x", unix.S_IFIFO|0o600, 0), "mknod", unix.ENOENT)
		_, err = sub.Lstat("x")
		t.fails(err, "lstat", unix.ENOENT)
	}},
	{"a removed directory that somebody is in has attributes and no links", nil, func(t *T) {
		t.dir("d")
		sub, err := t.Sub("d")
		t.ok(err, "sub")
		defer sub.Close()
		ino := t.stat("d").Ino
		t.ok(t.Rmdir("d"), "rmdir")
		st, err := sub.Stat(".")
		t.ok(err, "stat")
		equal(t, st.Ino, ino, "inode")
		equal(t, st.Nlink, 0, "link count")
		t.ok(sub.Chmod(".", 0o700), "chmod")
		st, err = sub.Stat(".")
		t.ok(err, "stat")
		equal(t, st.Mode&0o7777, 0o700, "mode")
	}},
	{"a directory kept open moves with its names", nil, func(t *T) {
		t.dir("d")
		sub, err := t.Sub("d")
		t.ok(err, "sub")
		defer sub.Close()
		t.ok(t.Rename("d", "e", 0), "rename")
		t.ok(closed(sub.Open("x", unix.O_CREAT|unix.O_WRONLY, 0o600)), "create")
		t.wantNames("e", "x")
	}},
	{"unlink of a link leaves its target", nil, func(t *T) {
		t.file("f", []byte("x"))
		t.symlink("f", "l")
		t.ok(t.Unlink("l"), "unlink")
		t.wantNames(".", "f")
	}},
}
