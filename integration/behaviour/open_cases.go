package behaviour

import (
	"fmt"

	"golang.org/x/sys/unix"
)

var openCases = []testCase{
	{"create makes an empty regular file with the mode less the mask", nil, func(t *T) {
		for _, mask := range []uint32{0, 0o022, 0o077, 0o777} {
			n := fmt.Sprintf("f%o", mask)
			f := t.open(t.Umask(mask), n, unix.O_CREAT|unix.O_RDWR, 0o777)
			equal(t, t.perm(n), 0o777&^mask, "mode with mask %o", mask)
			st := t.fstat(f)
			equal(t, st.Mode&unix.S_IFMT, unix.S_IFREG, "type")
			equal(t, st.Size, 0, "size")
			equal(t, st.Nlink, 1, "link count")
		}
	}},
	{"mkdir, mknod and mkfifo apply the mask", nil, func(t *T) {
		fs := t.Umask(0o027)
		t.ok(fs.Mkdir("d", 0o777), "mkdir")
		t.ok(fs.Mknod("p", unix.S_IFIFO|0o666, 0), "mknod")
		equal(t, t.perm("d"), 0o750, "mode of the directory")
		equal(t, t.perm("p"), 0o640, "mode of the fifo")
	}},
	{"create of a file that may not be written gives a writable descriptor", []Capability{Callers}, func(t *T) {
		f := t.open(t.user(1000), "f", unix.O_CREAT|unix.O_RDWR, 0)
		t.write(f, []byte("data"))
		equal(t, t.perm("f"), 0, "mode")
		_, err := t.user(1000).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "second open", unix.EACCES)
	}},
	{"create with O_EXCL makes a file", nil, func(t *T) {
		t.open(t.FS, "f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o640)
		equal(t, t.perm("f"), 0o640, "mode")
	}},
	{"create with O_EXCL does not follow a link", nil, func(t *T) {
		t.file("f", []byte("keep"))
		t.symlink("f", "l")
		t.symlink("none", "dangling")
		for _, n := range []string{"l", "dangling"} {
			_, err := t.Open(n, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_TRUNC, 0o600)
			t.fails(err, "open of "+n, unix.EEXIST)
		}
		t.missing("none")
		t.sameBytes(t.contents("f"), []byte("keep"), "contents")
	}},
	{"create follows a dangling link", nil, func(t *T) {
		t.dir("d")
		t.symlink("d/new", "l")
		t.open(t.FS, "l", unix.O_CREAT|unix.O_WRONLY, 0o600)
		t.wantNames("d", "new")
	}},
	{"create of an existing file changes neither mode nor contents", nil, func(t *T) {
		t.file("f", []byte("keep"))
		t.ok(t.Chmod("f", 0o604), "chmod")
		t.open(t.FS, "f", unix.O_CREAT|unix.O_RDWR, 0o777)
		equal(t, t.perm("f"), 0o604, "mode")
		t.sameBytes(t.contents("f"), []byte("keep"), "contents")
	}},
	{"create with sticky and set-id bits keeps them", nil, func(t *T) {
		t.open(t.FS, "f", unix.O_CREAT|unix.O_RDWR, 0o7755)
		equal(t, t.perm("f"), 0o7755, "mode")
	}},
	{"O_TRUNC empties a file for O_WRONLY and O_RDWR", nil, func(t *T) {
		for _, mode := range []int{unix.O_WRONLY, unix.O_RDWR} {
			t.file("f", pattern(10000, 1))
			f := t.open(t.FS, "f", mode|unix.O_TRUNC, 0)
			t.size(f, 0)
			equal(t, len(t.contents("f")), 0, "length of the contents")
		}
	}},
	{"O_TRUNC is seen by a file already open", nil, func(t *T) {
		t.file("f", pattern(10000, 1))
		f := t.rw("f")
		t.pread(f, 100, 0)
		t.open(t.FS, "f", unix.O_WRONLY|unix.O_TRUNC, 0)
		t.size(f, 0)
		equal(t, len(t.pread(f, 100, 0)), 0, "bytes read")
		t.pwrite(f, []byte("z"), 5000)
		want := make([]byte, 5001)
		want[5000] = 'z'
		t.sameBytes(t.contents("f"), want, "contents")
	}},
	{"O_TRUNC with O_CREAT of an existing file keeps its inode", nil, func(t *T) {
		t.file("f", []byte("old"))
		ino := t.stat("f").Ino
		t.open(t.FS, "f", unix.O_WRONLY|unix.O_TRUNC|unix.O_CREAT, 0o600)
		equal(t, t.stat("f").Ino, ino, "inode")
		equal(t, t.stat("f").Size, 0, "size")
	}},
	{"O_TRUNC through a link empties its target", nil, func(t *T) {
		t.file("f", []byte("old"))
		t.symlink("f", "l")
		t.open(t.FS, "l", unix.O_WRONLY|unix.O_TRUNC, 0)
		equal(t, t.stat("f").Size, 0, "size")
		equal(t, t.stat("l").Mode&unix.S_IFMT, unix.S_IFLNK, "type of the link")
	}},
	{"O_APPEND writes at the end wherever the position is", nil, func(t *T) {
		t.file("f", []byte("one"))
		f := t.open(t.FS, "f", unix.O_RDWR|unix.O_APPEND, 0)
		t.write(f, []byte("two"))
		_, err := f.Lseek(0, unix.SEEK_SET)
		t.ok(err, "lseek")
		t.write(f, []byte("three"))
		t.sameBytes(t.contents("f"), []byte("onetwothree"), "contents")
		pos, err := f.Lseek(0, unix.SEEK_CUR)
		t.ok(err, "lseek")
		equal(t, pos, 11, "position")
	}},
	{"pwrite with O_APPEND appends too", nil, func(t *T) {
		t.file("f", []byte("one"))
		f := t.open(t.FS, "f", unix.O_RDWR|unix.O_APPEND, 0)
		t.pwrite(f, []byte("two"), 0)
		t.sameBytes(t.contents("f"), []byte("onetwo"), "contents")
	}},
	{"O_APPEND appends after what another handle wrote and cut", nil, func(t *T) {
		a := t.open(t.FS, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o600)
		b := t.open(t.FS, "f", unix.O_WRONLY|unix.O_APPEND, 0)
		t.write(a, []byte("1"))
		t.write(b, []byte("22"))
		t.write(a, []byte("333"))
		t.ok(t.Truncate("f", 2), "truncate")
		t.write(b, []byte("44"))
		t.write(a, []byte("5"))
		t.sameBytes(t.contents("f"), []byte("12445"), "contents")
	}},
	{"a file opened to read cannot be written", nil, func(t *T) {
		t.file("f", []byte("keep"))
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		_, err := f.Write([]byte("x"))
		t.fails(err, "write", unix.EBADF)
		_, err = f.Pwrite([]byte("x"), 0)
		t.fails(err, "pwrite", unix.EBADF)
		t.fails(f.Ftruncate(0), "ftruncate", unix.EINVAL)
		t.sameBytes(t.contents("f"), []byte("keep"), "contents")
	}},
	{"a file opened to write cannot be read", nil, func(t *T) {
		t.file("f", []byte("keep"))
		f := t.open(t.FS, "f", unix.O_WRONLY, 0)
		_, err := f.Read(make([]byte, 1))
		t.fails(err, "read", unix.EBADF)
		_, err = f.Pread(make([]byte, 1), 0)
		t.fails(err, "pread", unix.EBADF)
	}},
	{"O_NOFOLLOW of a link is ELOOP, of a file nothing", nil, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		_, err := t.Open("l", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		t.fails(err, "open", unix.ELOOP)
		_, err = t.Open("l", unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CREAT, 0o600)
		t.fails(err, "create", unix.ELOOP)
		t.open(t.FS, "f", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	}},
	{"O_NOFOLLOW follows links on the way", nil, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		t.symlink("d", "l")
		t.open(t.FS, "l/f", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	}},
	{"O_DIRECTORY opens directories only", nil, func(t *T) {
		t.file("f", nil)
		t.dir("d")
		t.symlink("d", "l")
		t.open(t.FS, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.open(t.FS, "l", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		_, err := t.Open("f", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.fails(err, "open of a file", unix.ENOTDIR)
		_, err = t.Open("l", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		t.fails(err, "open of a link", unix.ENOTDIR)
	}},
	{"a directory opened to read is EISDIR for read and EBADF for write", nil, func(t *T) {
		t.dir("d")
		d := t.open(t.FS, "d", unix.O_RDONLY, 0)
		_, err := d.Read(make([]byte, 10))
		t.fails(err, "read", unix.EISDIR)
		_, err = d.Pread(make([]byte, 10), 0)
		t.fails(err, "pread", unix.EISDIR)
		_, err = d.Write([]byte("x"))
		t.fails(err, "write", unix.EBADF)
		t.fails(d.Ftruncate(0), "ftruncate", unix.EINVAL)
		t.ok(d.Fsync(), "fsync")
		t.ok(d.Fdatasync(), "fdatasync")
	}},
	{"a file is ENOTDIR for getdents", nil, func(t *T) {
		_, err := t.rw("f").Getdents(4096)
		t.fails(err, "getdents", unix.ENOTDIR)
	}},
	{"O_SYNC and O_DSYNC write", nil, func(t *T) {
		for _, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
			f := t.open(t.FS, "f", unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC|flag, 0o600)
			t.write(f, pattern(70000, 3))
			t.sameBytes(t.contents("f"), pattern(70000, 3), "contents")
		}
	}},
	{"O_NOATIME is for the owner", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.open(t.FS, "f", unix.O_RDONLY|unix.O_NOATIME, 0)
		_, err := t.user(1000).Open("f", unix.O_RDONLY|unix.O_NOATIME, 0)
		t.fails(err, "open by another", unix.EPERM)
	}},
	{"O_DIRECT reads what was written", []Capability{DirectIO}, func(t *T) {
		t.file("f", pattern(64<<10, 9))
		f := t.open(t.FS, "f", unix.O_RDWR|unix.O_DIRECT, 0)
		buf := alignedBuffer(64 << 10)
		n, err := f.Pread(buf, 0)
		t.ok(err, "pread")
		t.sameBytes(buf[:n], pattern(64<<10, 9), "read past the cache")
		copy(buf, pattern(8192, 10))
		_, err = f.Pwrite(buf[:8192], 16384)
		t.ok(err, "pwrite")
		t.sameBytes(t.contents("f")[16384:16384+8192], pattern(8192, 10), "written past the cache")
	}},
	{"O_DIRECT sees dirty pages of a buffered writer and the reverse", []Capability{DirectIO}, func(t *T) {
		b := t.rw("f")
		d := t.open(t.FS, "f", unix.O_RDWR|unix.O_DIRECT, 0)
		buf := alignedBuffer(4096)
		for i := range byte(20) {
			t.pwrite(b, pattern(4096, i), 4096)
			n, err := d.Pread(buf, 4096)
			t.ok(err, "direct pread")
			t.sameBytes(buf[:n], pattern(4096, i), "direct read of buffered data")
			copy(buf, pattern(4096, i+100))
			_, err = d.Pwrite(buf, 4096)
			t.ok(err, "direct pwrite")
			t.sameBytes(t.pread(b, 4096, 4096), pattern(4096, i+100), "buffered read of direct data")
		}
	}},
	{"O_DIRECT past the end of the file reads nothing and extends on write", []Capability{DirectIO}, func(t *T) {
		f := t.open(t.FS, "f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o600)
		buf := alignedBuffer(8192)
		n, err := f.Pread(buf, 4096)
		t.ok(err, "pread")
		equal(t, n, 0, "bytes read")
		_, err = f.Pwrite(buf, 8192)
		t.ok(err, "pwrite")
		t.size(f, 16384)
		t.ok(f.Ftruncate(10000), "ftruncate")
		n, err = f.Pread(buf, 8192)
		t.ok(err, "pread")
		equal(t, n, 10000-8192, "bytes read at the end")
	}},
	{"O_TMPFILE makes a file without a name", []Capability{Tmpfile}, func(t *T) {
		f := t.open(t.Umask(0o022), ".", unix.O_TMPFILE|unix.O_RDWR, 0o666)
		st := t.fstat(f)
		equal(t, st.Nlink, 0, "link count")
		equal(t, uint32(st.Mode), unix.S_IFREG|0o644, "mode")
		t.write(f, pattern(5000, 1))
		t.sameBytes(t.pread(f, 6000, 0), pattern(5000, 1), "contents")
		t.wantNames(".")
	}},
	{"O_TMPFILE can be given a name", []Capability{Tmpfile}, func(t *T) {
		f := t.open(t.FS, ".", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		t.write(f, []byte("data"))
		t.ok(t.Linkfd(f, "named"), "linkat")
		equal(t, t.fstat(f).Nlink, 1, "link count")
		t.sameBytes(t.contents("named"), []byte("data"), "contents")
		equal(t, t.perm("named"), 0o640, "mode")
		t.fails(t.Linkfd(f, "named"), "linkat over a name", unix.EEXIST)
		t.ok(t.Linkfd(f, "second"), "second linkat")
		equal(t, t.fstat(f).Nlink, 2, "link count")
	}},
	{"O_TMPFILE with O_EXCL can never be given a name", []Capability{Tmpfile}, func(t *T) {
		f := t.open(t.FS, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
		t.fails(t.Linkfd(f, "named"), "linkat", unix.ENOENT)
	}},
	{"O_TMPFILE needs write access and a directory", []Capability{Tmpfile}, func(t *T) {
		t.file("f", nil)
		_, err := t.Open("f", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		t.fails(err, "in a file", unix.ENOTDIR)
		_, err = t.Open("none", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		t.fails(err, "in nothing", unix.ENOENT)
		_, err = t.Open(".", unix.O_TMPFILE|unix.O_RDONLY, 0o600)
		t.fails(err, "to read", unix.EINVAL)
	}},
	{"O_TMPFILE belongs to the caller and needs a writable directory", []Capability{Tmpfile, Callers}, func(t *T) {
		st := t.fstat(t.open(t.user(1000), ".", unix.O_TMPFILE|unix.O_RDWR, 0o600))
		equal(t, st.Uid, 1000, "uid")
		equal(t, st.Gid, 1000, "gid")
		t.ok(t.Mkdir("d", 0o755), "mkdir")
		_, err := t.user(1000).Open("d", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		t.fails(err, "in a directory of another", unix.EACCES)
	}},
	{"an open file can be given another name", []Capability{LinkOpen}, func(t *T) {
		f := t.rw("f")
		t.ok(t.Linkfd(f, "g"), "linkat")
		equal(t, t.stat("g").Ino, t.fstat(f).Ino, "inode")
		equal(t, t.fstat(f).Nlink, 2, "link count")
	}},
	{"an unlinked open file can be given no name", []Capability{LinkOpen}, func(t *T) {
		f := t.rw("f")
		t.ok(t.Unlink("f"), "unlink")
		t.fails(t.Linkfd(f, "g"), "linkat", unix.ENOENT)
	}},
	{"two opens have two positions, one open one", nil, func(t *T) {
		t.file("f", []byte("abcdef"))
		a, b := t.rw("f"), t.rw("f")
		p := make([]byte, 2)
		for _, step := range []struct {
			f    File
			want string
		}{{a, "ab"}, {a, "cd"}, {b, "ab"}, {a, "ef"}, {b, "cd"}} {
			_, err := step.f.Read(p)
			t.ok(err, "read")
			equal(t, string(p), step.want, "bytes read")
		}
	}},
	{"a file can be open many times at once", nil, func(t *T) {
		t.file("f", []byte("x"))
		var open []File
		for range t.scaled(1000, 100) {
			f, err := t.Open("f", unix.O_RDWR, 0)
			t.ok(err, "open %d", len(open))
			open = append(open, f)
		}
		for i, f := range open {
			t.pwrite(f, []byte{byte(i)}, int64(i))
		}
		for _, f := range open {
			t.size(f, int64(len(open)))
			t.ok(f.Close(), "close")
		}
	}},
	{"open of a fifo without a writer is ENXIO for O_WRONLY|O_NONBLOCK", []Capability{SpecialOpen}, func(t *T) {
		t.ok(t.Mknod("p", unix.S_IFIFO|0o600, 0), "mknod")
		_, err := t.Open("p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		t.fails(err, "open", unix.ENXIO)
	}},
	{"a fifo passes data", []Capability{SpecialOpen}, func(t *T) {
		t.ok(t.Mknod("p", unix.S_IFIFO|0o600, 0), "mknod")
		r := t.open(t.FS, "p", unix.O_RDONLY|unix.O_NONBLOCK, 0)
		w := t.open(t.FS, "p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		t.write(w, []byte("through"))
		p := make([]byte, 100)
		n, err := r.Read(p)
		t.ok(err, "read")
		equal(t, string(p[:n]), "through", "bytes read")
		equal(t, t.stat("p").Size, 0, "size of the fifo")
	}},
	{"open of a socket is ENXIO", []Capability{SpecialOpen}, func(t *T) {
		t.ok(t.Mknod("s", unix.S_IFSOCK|0o600, 0), "mknod")
		_, err := t.Open("s", unix.O_RDWR, 0)
		t.fails(err, "open", unix.ENXIO)
	}},
	{"O_DIRECTORY with O_CREAT of a missing name makes no directory", nil, func(t *T) {
		_, err := t.Open("d", unix.O_RDONLY|unix.O_CREAT|unix.O_DIRECTORY, 0o700)
		if err == nil {
			t.Fatal("open succeeded")
		}
		if st, err := t.Lstat("d"); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			t.Fatal("a directory was made")
		}
	}},
	{"O_RDONLY|O_CREAT reads nothing from the new file", nil, func(t *T) {
		f := t.open(t.FS, "f", unix.O_RDONLY|unix.O_CREAT, 0o600)
		n, err := f.Read(make([]byte, 10))
		t.ok(err, "read")
		equal(t, n, 0, "bytes read")
	}},
}
