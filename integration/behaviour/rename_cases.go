package behaviour

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

func (t *T) nlink(path string, want uint32) {
	t.Helper()
	equal(t, t.stat(path).Nlink, want, "link count of %s", path)
}

var renameCases = []testCase{
	{"a file is renamed with all that it is", nil, func(t *T) {
		t.file("a", []byte("data"))
		t.ok(t.Chmod("a", 0o641), "chmod")
		ino := t.stat("a").Ino
		t.ok(t.Rename("a", "b", 0), "rename")
		t.missing("a")
		t.sameBytes(t.contents("b"), []byte("data"), "contents")
		equal(t, t.stat("b").Ino, ino, "inode")
		equal(t, t.perm("b"), 0o641, "mode")
	}},
	{"every kind of file is renamed", nil, func(t *T) {
		t.dir("to")
		for _, p := range t.makeAll(t.FS, ".") {
			st := t.stat(p)
			t.ok(t.Rename(p, "to/"+p, 0), "rename of %s", p)
			t.missing(p)
			equal(t, t.stat("to/"+p).Ino, st.Ino, "inode")
			equal(t, t.stat("to/"+p).Mode, st.Mode, "mode")
		}
	}},
	{"a file is renamed over another, whose last name goes", nil, func(t *T) {
		t.file("a", []byte("new"))
		t.file("b", []byte("old"))
		old := t.rw("b")
		t.ok(t.Rename("a", "b", 0), "rename")
		t.wantNames(".", "b")
		t.sameBytes(t.contents("b"), []byte("new"), "contents")
		equal(t, t.fstat(old).Nlink, 0, "link count of the file renamed over")
		t.sameBytes(t.pread(old, 10, 0), []byte("old"), "contents of the file renamed over")
	}},
	{"a rename over one of two names leaves the other", nil, func(t *T) {
		t.file("a", []byte("new"))
		t.file("b", []byte("old"))
		t.ok(t.Link("b", "c"), "link")
		t.ok(t.Rename("a", "b", 0), "rename")
		t.nlink("c", 1)
		t.sameBytes(t.contents("c"), []byte("old"), "contents")
	}},
	{"a rename to itself does nothing", nil, func(t *T) {
		t.file("a", []byte("x"))
		t.dir("d")
		t.ok(t.Rename("a", "a", 0), "rename of a file")
		t.ok(t.Rename("d", "d", 0), "rename of a directory")
		t.ok(t.Rename("a", "d/../a", 0), "rename by another path")
		t.wantNames(".", "a", "d")
	}},
	{"a rename to another name of the same file does nothing", nil, func(t *T) {
		t.file("a", []byte("x"))
		t.ok(t.Link("a", "b"), "link")
		t.ok(t.Rename("a", "b", 0), "rename")
		t.wantNames(".", "a", "b")
		t.nlink("a", 2)
	}},
	{"a link is renamed, not its target", nil, func(t *T) {
		t.file("f", []byte("x"))
		t.symlink("f", "l")
		t.ok(t.Rename("l", "m", 0), "rename")
		got, err := t.Readlink("m")
		t.ok(err, "readlink")
		equal(t, got, "f", "target")
		t.file("g", []byte("y"))
		t.ok(t.Rename("g", "m", 0), "rename over a link")
		equal(t, t.stat("m").Mode&unix.S_IFMT, unix.S_IFREG, "type")
		t.sameBytes(t.contents("f"), []byte("x"), "contents of the old target")
	}},
	{"a directory moves with all below it", nil, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.file("a/b/f", []byte("x"))
		t.dir("to")
		f := t.rw("a/b/f")
		t.ok(t.Rename("a", "to/z", 0), "rename")
		t.sameBytes(t.contents("to/z/b/f"), []byte("x"), "contents")
		t.missing("a")
		t.write(f, []byte("y"))
		t.sameBytes(t.contents("to/z/b/f"), []byte("y"), "contents written by the old handle")
	}},
	{"a directory is renamed over an empty one", nil, func(t *T) {
		t.dir("a")
		t.file("a/f", nil)
		t.dir("b")
		t.ok(t.Rename("a", "b", 0), "rename")
		t.wantNames("b", "f")
		t.wantNames(".", "b")
	}},
	{"a directory over a full one is ENOTEMPTY or EEXIST", nil, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.file("b/f", nil)
		t.fails(t.Rename("a", "b", 0), "rename", unix.ENOTEMPTY, unix.EEXIST)
		t.wantNames(".", "a", "b")
	}},
	{"a directory over a file is ENOTDIR, a file over a directory EISDIR", nil, func(t *T) {
		t.dir("d")
		t.file("f", nil)
		t.fails(t.Rename("d", "f", 0), "rename of a directory", unix.ENOTDIR)
		t.fails(t.Rename("f", "d", 0), "rename of a file", unix.EISDIR)
		t.wantNames(".", "d", "f")
	}},
	{"a directory into itself is EINVAL", nil, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.dir("a/b/c")
		t.fails(t.Rename("a", "a/x", 0), "rename into itself", unix.EINVAL)
		t.fails(t.Rename("a", "a/b/x", 0), "rename below itself", unix.EINVAL)
		t.fails(t.Rename("a", "a/b/c", 0), "rename over one below itself", unix.EINVAL)
		t.wantNames("a", "b")
	}},
	{"a directory over one above it is ENOTEMPTY", nil, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.dir("a/b/c")
		t.fails(t.Rename("a/b/c", "a", 0), "rename", unix.ENOTEMPTY)
		t.fails(t.Rename("a/b/c", "a/b", 0), "rename", unix.ENOTEMPTY)
	}},
	{"link counts of parents follow a directory", []Capability{DirNlink}, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.dir("a/s")
		t.nlink("a", 3)
		t.ok(t.Rename("a/s", "b/s", 0), "rename")
		t.nlink("a", 2)
		t.nlink("b", 3)
		t.ok(t.Rename("b/s", "b/t", 0), "rename in the directory")
		t.nlink("b", 3)
		t.dir("a/u")
		t.ok(t.Rename("b/t", "a/u", 0), "rename over an empty directory")
		t.nlink("a", 3)
		t.nlink("b", 2)
	}},
	{"mkdir and rmdir move the link count of the parent", []Capability{DirNlink}, func(t *T) {
		t.dir("a")
		for i := range uint32(10) {
			t.nlink("a", 2+i)
			t.dir(fmt.Sprintf("a/d%d", i))
		}
		t.file("a/f", nil)
		t.nlink("a", 12)
		for i := range uint32(10) {
			t.ok(t.Rmdir(fmt.Sprintf("a/d%d", i)), "rmdir")
			t.nlink("a", 11-i)
		}
	}},
	{"the parent of a moved directory is the new one", nil, func(t *T) {
		t.dir("a")
		t.dir("b")
		t.dir("a/s")
		t.stat("a/s/..")
		t.ok(t.Rename("a/s", "b/s", 0), "rename")
		equal(t, t.stat("b/s/..").Ino, t.stat("b").Ino, "inode of ..")
		d := t.open(t.FS, "b/s", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		ents, err := readAll(d, 4096)
		t.ok(err, "getdents")
		for _, e := range ents {
			if e.Name == ".." {
				equal(t, e.Ino, t.stat("b").Ino, "inode of the entry ..")
			}
		}
	}},
	{"an unknown flag and a senseless pair are EINVAL", nil, func(t *T) {
		t.file("a", nil)
		t.file("b", nil)
		for _, flags := range []uint{1 << 10, unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT} {
			t.fails(t.Rename("a", "b", flags), fmt.Sprintf("flags %#x", flags), unix.EINVAL)
		}
		t.wantNames(".", "a", "b")
	}},
	{"NOREPLACE renames to a free name", []Capability{RenameNoreplace}, func(t *T) {
		t.file("a", []byte("x"))
		t.dir("d")
		t.ok(t.Rename("a", "b", unix.RENAME_NOREPLACE), "rename")
		t.ok(t.Rename("d", "e", unix.RENAME_NOREPLACE), "rename of a directory")
		t.wantNames(".", "b", "e")
	}},
	{"NOREPLACE over any name is EEXIST", []Capability{RenameNoreplace}, func(t *T) {
		t.file("a", []byte("x"))
		for _, p := range t.makeAll(t.FS, ".") {
			t.fails(t.Rename("a", p, unix.RENAME_NOREPLACE), "rename over "+p, unix.EEXIST)
		}
		t.fails(t.Rename("a", "a", unix.RENAME_NOREPLACE), "rename over itself", unix.EEXIST)
		t.fails(t.Rename("none", "a", unix.RENAME_NOREPLACE), "rename of nothing", unix.ENOENT)
	}},
	{"EXCHANGE swaps two files", []Capability{RenameExchange}, func(t *T) {
		t.file("a", []byte("A"))
		t.file("b", []byte("B"))
		ia, ib := t.stat("a").Ino, t.stat("b").Ino
		t.ok(t.Rename("a", "b", unix.RENAME_EXCHANGE), "rename")
		t.sameBytes(t.contents("a"), []byte("B"), "contents of a")
		t.sameBytes(t.contents("b"), []byte("A"), "contents of b")
		equal(t, t.stat("a").Ino, ib, "inode of a")
		equal(t, t.stat("b").Ino, ia, "inode of b")
		t.nlink("a", 1)
	}},
	{"EXCHANGE swaps a file and a full directory", []Capability{RenameExchange}, func(t *T) {
		t.dir("p")
		t.dir("q")
		t.file("p/f", []byte("F"))
		t.dir("q/d")
		t.file("q/d/in", nil)
		t.ok(t.Rename("p/f", "q/d", unix.RENAME_EXCHANGE), "rename")
		t.wantNames("p/f", "in")
		t.sameBytes(t.contents("q/d"), []byte("F"), "contents")
		equal(t, t.stat("p/f/..").Ino, t.stat("p").Ino, "parent of the directory")
		if t.Lacks(DirNlink) == "" {
			t.nlink("p", 3)
			t.nlink("q", 2)
		}
	}},
	{"EXCHANGE swaps a link and its target", []Capability{RenameExchange}, func(t *T) {
		t.file("f", []byte("x"))
		t.symlink("f", "l")
		t.ok(t.Rename("f", "l", unix.RENAME_EXCHANGE), "rename")
		equal(t, t.stat("f").Mode&unix.S_IFMT, unix.S_IFLNK, "type of f")
		equal(t, t.stat("l").Mode&unix.S_IFMT, unix.S_IFREG, "type of l")
		_, err := t.Stat("f")
		t.fails(err, "stat of the link to itself", unix.ELOOP)
	}},
	{"EXCHANGE with a missing name is ENOENT, with one above or below EINVAL", []Capability{RenameExchange}, func(t *T) {
		t.dir("a")
		t.dir("a/b")
		t.fails(t.Rename("a", "none", unix.RENAME_EXCHANGE), "with nothing", unix.ENOENT)
		t.fails(t.Rename("none", "a", unix.RENAME_EXCHANGE), "of nothing", unix.ENOENT)
		t.fails(t.Rename("a", "a/b", unix.RENAME_EXCHANGE), "with one below", unix.EINVAL)
		t.fails(t.Rename("a/b", "a", unix.RENAME_EXCHANGE), "with one above", unix.EINVAL)
	}},
	{"WHITEOUT leaves what is the caller's", []Capability{RenameWhiteout, Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1, 2000, 0o770)
		fs := t.user(1000, 2000)
		t.ok(closed(fs.Open("d/a", unix.O_CREAT|unix.O_WRONLY, 0o600)), "create")
		t.ok(fs.Rename("d/a", "d/b", unix.RENAME_WHITEOUT), "rename")
		t.owned("d/a", 1000, 1000)
		t.owned("d/b", 1000, 1000)
	}},
	{"WHITEOUT leaves a character device 0,0", []Capability{RenameWhiteout, Callers}, func(t *T) {
		t.file("a", []byte("x"))
		t.ok(t.Rename("a", "b", unix.RENAME_WHITEOUT), "rename")
		st := t.stat("a")
		equal(t, st.Mode&unix.S_IFMT, unix.S_IFCHR, "type")
		equal(t, unix.Mkdev(st.Rdev_major, st.Rdev_minor), 0, "device")
		t.sameBytes(t.contents("b"), []byte("x"), "contents")
	}},
	{"WHITEOUT renames over a file, a directory and a whiteout", []Capability{RenameWhiteout, Callers}, func(t *T) {
		t.file("a", []byte("x"))
		t.file("b", []byte("y"))
		t.ok(t.Rename("a", "b", unix.RENAME_WHITEOUT), "over a file")
		t.ok(t.Rename("b", "a", unix.RENAME_WHITEOUT), "over a whiteout")
		t.sameBytes(t.contents("a"), []byte("x"), "contents")
		equal(t, t.stat("b").Mode&unix.S_IFMT, unix.S_IFCHR, "type")
		t.dir("d")
		t.ok(t.Rename("d", "e", unix.RENAME_WHITEOUT|unix.RENAME_NOREPLACE), "of a directory, NOREPLACE")
		equal(t, t.stat("d").Mode&unix.S_IFMT, unix.S_IFCHR, "type")
	}},
	{"an open file is written by its handle after rename", nil, func(t *T) {
		f := t.rw("a")
		t.write(f, []byte("one"))
		t.dir("d")
		t.ok(t.Rename("a", "d/b", 0), "rename")
		t.file("a", []byte("other"))
		t.write(f, []byte("two"))
		t.ok(f.Ftruncate(4), "ftruncate")
		t.ok(f.Fchmod(0o600), "fchmod")
		t.sameBytes(t.contents("d/b"), []byte("onet"), "contents")
		t.sameBytes(t.contents("a"), []byte("other"), "contents of the new file")
		equal(t, t.perm("d/b"), 0o600, "mode")
	}},
	{"an open directory is read after rename", nil, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		d := t.open(t.FS, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.ok(t.Rename("d", "e", 0), "rename")
		ents, err := readAll(d, 4096)
		t.ok(err, "getdents")
		equal(t, len(ents), 3, "number of entries")
	}},
	{"a chain of renames ends at the last name", nil, func(t *T) {
		t.file("n0", []byte("x"))
		ino := t.stat("n0").Ino
		for i := range 200 {
			t.ok(t.Rename(fmt.Sprintf("n%d", i), fmt.Sprintf("n%d", i+1), 0), "rename %d", i)
		}
		t.wantNames(".", "n200")
		equal(t, t.stat("n200").Ino, ino, "inode")
	}},
	{"a name renamed over always exists for others", nil, func(t *T) {
		t.file("f", []byte("v"))
		stop := make(chan struct{})
		var readers sync.WaitGroup
		errs := make(chan error, 4)
		for range 3 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := closed(t.FS.Open("f", unix.O_RDONLY, 0)); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		for range t.scaled(500, 50) {
			t.file("new", []byte("v"))
			t.ok(t.Rename("new", "f", 0), "rename")
		}
		close(stop)
		readers.Wait()
		select {
		case err := <-errs:
			t.Fatalf("open of a name that always exists: %v", err)
		default:
		}
	}},
	{"EXCHANGE back and forth never loses a name for others", []Capability{RenameExchange}, func(t *T) {
		t.file("a", nil)
		t.dir("b")
		stop := make(chan struct{})
		var readers sync.WaitGroup
		errs := make(chan error, 4)
		for _, n := range []string{"a", "b"} {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := t.FS.Lstat(n); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		for range t.scaled(500, 50) {
			t.ok(t.Rename("a", "b", unix.RENAME_EXCHANGE), "rename")
		}
		close(stop)
		readers.Wait()
		select {
		case err := <-errs:
			t.Fatalf("lstat of a name that always exists: %v", err)
		default:
		}
	}},
	{"of many renames to one name with NOREPLACE one wins", []Capability{RenameNoreplace}, func(t *T) {
		for round := range t.scaled(50, 5) {
			const racers = 6
			for i := range racers {
				t.file(fmt.Sprintf("src%d", i), nil)
			}
			errs := make(chan error, racers)
			for i := range racers {
				go func() { errs <- t.FS.Rename(fmt.Sprintf("src%d", i), "dst", unix.RENAME_NOREPLACE) }()
			}
			won := 0
			for range racers {
				if err := <-errs; err == nil {
					won++
				} else {
					t.fails(err, "rename", unix.EEXIST)
				}
			}
			equal(t, won, 1, "winners in round %d", round)
			for _, n := range t.names(".") {
				t.ok(t.Unlink(n), "unlink")
			}
		}
	}},
	{"directories moved across each other make no loop", nil, func(t *T) {
		t.dir("a")
		t.dir("b")
		for range t.scaled(100, 20) {
			errs := make(chan error, 2)
			go func() { errs <- t.FS.Rename("a", "b/a", 0) }()
			go func() { errs <- t.FS.Rename("b", "a/b", 0) }()
			e1, e2 := <-errs, <-errs
			if (e1 == nil) == (e2 == nil) {
				t.Fatalf("of two renames into each other one must pass: %v, %v", e1, e2)
			}
			if len(t.names(".")) != 1 {
				t.Fatalf("names %q", t.names("."))
			}
			if t.names(".")[0] == "b" {
				t.ok(t.Rename("b/a", "a", 0), "rename back")
			} else {
				t.ok(t.Rename("a/b", "b", 0), "rename back")
			}
		}
	}},
}
