package behaviour

import (
	"golang.org/x/sys/unix"
)

var specialCases = []testCase{
	{"mknod makes fifos and sockets with the mode asked for", nil, func(t *T) {
		for name, kind := range map[string]uint32{"p": unix.S_IFIFO, "s": unix.S_IFSOCK, "f": unix.S_IFREG} {
			t.ok(t.Mknod(name, kind|0o640, 0), "mknod")
			st := t.stat(name)
			equal(t, uint32(st.Mode), kind|0o640, "mode of %s", name)
			equal(t, st.Nlink, 1, "link count")
			equal(t, st.Size, 0, "size")
		}
	}},
	{"mknod without a type makes a file", nil, func(t *T) {
		t.ok(t.Mknod("f", 0o600, 0), "mknod")
		equal(t, uint32(t.stat("f").Mode), unix.S_IFREG|0o600, "mode")
	}},
	{"mknod of a directory or a link is EPERM or EINVAL", nil, func(t *T) {
		t.fails(t.Mknod("d", unix.S_IFDIR|0o700, 0), "mknod of a directory", unix.EPERM)
		t.fails(t.Mknod("l", unix.S_IFLNK|0o700, 0), "mknod of a link", unix.EINVAL)
		t.wantNames(".")
	}},
	{"devices keep their numbers", []Capability{DeviceNodes}, func(t *T) {
		for i, d := range [][2]uint32{{1, 3}, {0, 0}, {255, 255}, {259, 70000}, {511, 1<<18 - 1}} {
			for kind, letter := range map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"} {
				name := letter + string(rune('0'+i))
				t.ok(t.Mknod(name, kind|0o600, makedev(d[0], d[1])), "mknod")
				st := t.stat(name)
				equal(t, uint32(st.Mode), kind|0o600, "mode")
				equal(t, [2]uint32{st.Rdev_major, st.Rdev_minor}, d, "device number of %s", name)
			}
		}
	}},
	{"a made file is not opened by mknod and holds data", nil, func(t *T) {
		t.ok(t.Mknod("f", unix.S_IFREG|0o600, 0), "mknod")
		f := t.rw("f")
		t.write(f, []byte("data"))
		t.sameBytes(t.contents("f"), []byte("data"), "contents")
	}},
	{"statfs makes sense", nil, func(t *T) {
		st, err := t.Statfs(".")
		t.ok(err, "statfs")
		if st.Bsize <= 0 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Ffree > st.Files {
			t.Fatalf("%+v", st)
		}
		if st.Namelen != 255 {
			t.Fatalf("names may have %d bytes", st.Namelen)
		}
	}},
	{"statfs is the same by every path", nil, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		t.symlink("d", "l")
		a, err := t.Statfs(".")
		t.ok(err, "statfs")
		for _, p := range []string{"d", "d/f", "l"} {
			b, err := t.Statfs(p)
			t.ok(err, "statfs of %s", p)
			if a.Type != b.Type || a.Blocks != b.Blocks || a.Bsize != b.Bsize || a.Namelen != b.Namelen {
				t.Fatalf("of the directory %+v, of %s %+v", a, p, b)
			}
		}
	}},
	{"all files of the tree are on one device", nil, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		a, b, c := t.stat("."), t.stat("d"), t.stat("d/f")
		equal(t, [2]uint32{b.Dev_major, b.Dev_minor}, [2]uint32{a.Dev_major, a.Dev_minor}, "device of the directory")
		equal(t, [2]uint32{c.Dev_major, c.Dev_minor}, [2]uint32{a.Dev_major, a.Dev_minor}, "device of the file")
	}},
	{"stat answers all the basic fields", nil, func(t *T) {
		t.file("f", pattern(5000, 1))
		st := t.stat("f")
		equal(t, st.Mask&unix.STATX_BASIC_STATS, unix.STATX_BASIC_STATS, "mask of fields")
		equal(t, st.Size, 5000, "size")
		if st.Blksize < 512 || st.Ino == 0 {
			t.Fatalf("block size %d, inode %d", st.Blksize, st.Ino)
		}
	}},
	{"syncfs passes", nil, func(t *T) {
		t.file("f", pattern(100000, 1))
		t.ok(t.Syncfs(), "syncfs")
	}},
	{"access of a file that does not exist, for what is there and what is not", nil, func(t *T) {
		t.file("f", nil)
		t.ok(t.Access("f", unix.F_OK), "access")
		t.fails(t.Access("none", unix.F_OK), "access", unix.ENOENT)
		t.fails(t.Access("f", 0x40), "access with a strange mode", unix.EINVAL)
		t.dir("d")
		t.ok(t.Access("d", unix.R_OK|unix.W_OK|unix.X_OK), "access of a directory")
	}},
}
