package behaviour

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fill makes n empty files named by their number in dir.
func (t *T) fill(dir string, n int) {
	t.Helper()
	for i := range n {
		t.ok(t.Mknod(fmt.Sprintf("%s/f%06d", dir, i), unix.S_IFREG|0o644, 0), "mknod %d", i)
	}
}

// countNames checks that no entry came twice, and returns how often each came.
func (t *T) countNames(ents []Dirent) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range ents {
		if seen[e.Name] {
			t.Fatalf("entry %q came twice", e.Name)
		}
		seen[e.Name] = true
	}
	return seen
}

func (t *T) opendir(path string) File {
	t.Helper()
	return t.open(t.FS, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func (t *T) getdents(d File, size int) []Dirent {
	t.Helper()
	ents, err := d.Getdents(size)
	t.ok(err, "getdents")
	return ents
}

func (t *T) readAll(d File, size int) []Dirent {
	t.Helper()
	ents, err := readAll(d, size)
	t.ok(err, "getdents")
	return ents
}

var readdirCases = []testCase{
	{"an empty directory has dot and dot-dot", nil, func(t *T) {
		t.dir("d")
		seen := t.countNames(t.readAll(t.opendir("d"), 4096))
		if len(seen) != 2 || !seen["."] || !seen[".."] {
			t.Fatalf("entries %v", seen)
		}
	}},
	{"dot and dot-dot have the inodes of the directory and its parent", nil, func(t *T) {
		t.dir("d")
		for _, e := range t.readAll(t.opendir("d"), 4096) {
			want := t.stat("d").Ino
			if e.Name == ".." {
				want = t.stat(".").Ino
			}
			equal(t, e.Ino, want, "inode of %s", e.Name)
			if e.Type != unix.DT_UNKNOWN {
				equal(t, e.Type, unix.DT_DIR, "type of %s", e.Name)
			}
		}
	}},
	{"entries tell inode and type", nil, func(t *T) {
		t.dir("d")
		t.makeAll(t.FS, "d")
		types := map[string]uint8{"file": unix.DT_REG, "dir": unix.DT_DIR, "link": unix.DT_LNK, "fifo": unix.DT_FIFO,
			"node": unix.DT_REG, "sock": unix.DT_SOCK}
		for _, e := range t.readAll(t.opendir("d"), 4096) {
			if e.Name == "." || e.Name == ".." {
				continue
			}
			equal(t, e.Ino, t.stat("d/"+e.Name).Ino, "inode of %s", e.Name)
			if e.Type != unix.DT_UNKNOWN {
				equal(t, e.Type, types[e.Name], "type of %s", e.Name)
			}
		}
	}},
	{"every entry comes once whatever the buffer", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(1000, 200)
		t.fill("d", n)
		for _, size := range []int{64, 100, 512, 1000, 4096, 4097, 32768, 1 << 20} {
			d := t.opendir("d")
			seen := t.countNames(t.readAll(d, size))
			equal(t, len(seen), n+2, "entries with a buffer of %d", size)
			t.ok(d.Close(), "close")
		}
	}},
	{"a directory of thousands of entries is read whole", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(12000, 1500)
		t.fill("d", n)
		seen := t.countNames(t.readAll(t.opendir("d"), 32768))
		equal(t, len(seen), n+2, "entries")
		for i := range n {
			if !seen[fmt.Sprintf("f%06d", i)] {
				t.Fatalf("entry %d is missing", i)
			}
		}
	}},
	{"long names are read whole by small buffers", nil, func(t *T) {
		t.dir("d")
		var want []string
		for i := range 40 {
			n := fmt.Sprintf("%03d", i) + strings.Repeat("x", 255-3-i)
			t.file("d/"+n, nil)
			want = append(want, n)
		}
		d := t.opendir("d")
		var got []string
		for _, e := range t.readAll(d, 300) {
			if e.Name != "." && e.Name != ".." {
				got = append(got, e.Name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("got %d names, want %d", len(got), len(want))
		}
	}},
	{"a buffer too small for an entry is EINVAL", nil, func(t *T) {
		d := t.opendir(".")
		_, err := d.Getdents(8)
		t.fails(err, "getdents", unix.EINVAL)
		equal(t, len(t.readAll(d, 4096)) >= 2, true, "entries are read after the failure")
	}},
	{"rewind reads all again, with what has come to be", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 20)
		d := t.opendir("d")
		equal(t, len(t.readAll(d, 4096)), 22, "entries")
		equal(t, len(t.getdents(d, 4096)), 0, "entries at the end")
		t.fill("d", 0)
		t.file("d/new", nil)
		t.ok(t.Unlink("d/f000003"), "unlink")
		t.seek(d, 0, unix.SEEK_SET, 0)
		seen := t.countNames(t.readAll(d, 4096))
		equal(t, len(seen), 22, "entries after rewind")
		if !seen["new"] || seen["f000003"] {
			t.Fatal("the rewound directory is as it was before the changes")
		}
	}},
	{"seeking to an entry's offset goes on after it", nil, func(t *T) {
		t.dir("d")
		t.fill("d", t.scaled(300, 60))
		d := t.opendir("d")
		all := t.readAll(d, 1024)
		for _, i := range []int{0, 1, 2, 7, len(all) / 2, len(all) - 2, len(all) - 1} {
			_, err := d.Lseek(all[i].Off, unix.SEEK_SET)
			t.ok(err, "lseek to the offset of entry %d", i)
			rest := t.readAll(d, 2048)
			equal(t, len(rest), len(all)-i-1, "entries after entry %d", i)
			for j, e := range rest {
				equal(t, e.Name, all[i+1+j].Name, "entry %d after entry %d", j, i)
			}
		}
	}},
	{"the position of a directory is that of the last entry read", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 50)
		d := t.opendir("d")
		for {
			ents := t.getdents(d, 256)
			if len(ents) == 0 {
				break
			}
			pos, err := d.Lseek(0, unix.SEEK_CUR)
			t.ok(err, "lseek")
			equal(t, pos, ents[len(ents)-1].Off, "position")
		}
	}},
	{"two handles of a directory read it apart", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 100)
		a, b := t.opendir("d"), t.opendir("d")
		t.getdents(a, 512)
		equal(t, len(t.readAll(b, 4096)), 102, "entries by the second handle")
		t.readAll(a, 512)
		equal(t, len(t.getdents(a, 512)), 0, "entries at the end of the first")
	}},
	{"entries that stay come once while others are removed", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(2000, 300)
		t.fill("d", n)
		d := t.opendir("d")
		var all []Dirent
		for i := 0; ; i++ {
			ents := t.getdents(d, 1024)
			if len(ents) == 0 {
				break
			}
			all = append(all, ents...)
			for j := range 7 { // odd numbers go
				if k := (i*7+j)*2 + 1; k < n {
					t.ok(t.Unlink(fmt.Sprintf("d/f%06d", k)), "unlink")
				}
			}
		}
		seen := t.countNames(all)
		for k := 0; k < n; k += 2 {
			if !seen[fmt.Sprintf("f%06d", k)] {
				t.Fatalf("entry %d, which stayed, did not come", k)
			}
		}
	}},
	{"entries that stay come once while others are made", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(1000, 200)
		t.fill("d", n)
		d := t.opendir("d")
		var all []Dirent
		for i := 0; ; i++ {
			ents := t.getdents(d, 1024)
			if len(ents) == 0 || i > 100*n {
				break
			}
			all = append(all, ents...)
			if i < 200 {
				t.file(fmt.Sprintf("d/new%d", i), nil)
			}
		}
		seen := t.countNames(all)
		for k := range n {
			if !seen[fmt.Sprintf("f%06d", k)] {
				t.Fatalf("entry %d, which stayed, did not come", k)
			}
		}
	}},
	{"removal of every entry as it comes empties the directory", nil, func(t *T) {
		t.dir("d")
		t.fill("d", t.scaled(1500, 300))
		d := t.opendir("d")
		for {
			ents := t.getdents(d, 1024)
			if len(ents) == 0 {
				break
			}
			for _, e := range ents {
				if e.Name != "." && e.Name != ".." {
					t.ok(t.Unlink("d/"+e.Name), "unlink of %s", e.Name)
				}
			}
		}
		t.ok(t.Rmdir("d"), "rmdir")
	}},
	{"removal and making while a directory is read leave it right", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 300)
		d := t.opendir("d")
		t.getdents(d, 512)
		for i := range 300 {
			t.ok(t.Unlink(fmt.Sprintf("d/f%06d", i)), "unlink")
		}
		for i := range 50 {
			t.file(fmt.Sprintf("d/g%d", i), nil)
		}
		t.countNames(t.readAll(d, 512))
		equal(t, len(t.names("d")), 50, "entries by a new handle")
	}},
	{"an unlinked name is not read and a made one is, by a new handle", nil, func(t *T) {
		t.dir("d")
		for i := range 30 {
			t.file(fmt.Sprintf("d/n%02d", i), nil)
			equal(t, len(t.names("d")), 1, "entries")
			t.ok(t.Unlink(fmt.Sprintf("d/n%02d", i)), "unlink")
			equal(t, len(t.names("d")), 0, "entries")
		}
	}},
	{"a renamed name is read under the new one", nil, func(t *T) {
		t.dir("d")
		t.file("d/a", nil)
		for i := range 20 {
			t.wantNames("d", fmt.Sprintf("a%s", strings.Repeat("x", i)))
			t.ok(t.Rename("d/a"+strings.Repeat("x", i), "d/a"+strings.Repeat("x", i+1), 0), "rename")
		}
	}},
	{"names looked up after they were read are what the entries said", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(500, 100)
		for i := range n {
			if i%2 == 0 {
				t.file(fmt.Sprintf("d/%d", i), make([]byte, i))
			} else {
				t.dir(fmt.Sprintf("d/%d", i))
			}
		}
		for _, e := range t.readAll(t.opendir("d"), 4096) {
			if e.Name == "." || e.Name == ".." {
				continue
			}
			st := t.stat("d/" + e.Name)
			equal(t, st.Ino, e.Ino, "inode of %s", e.Name)
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				equal(t, fmt.Sprint(st.Size), e.Name, "size")
			}
		}
	}},
	{"sizes are right when stated after the directory was read and the files grew", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 20)
		t.names("d")
		for i := range 20 {
			n := fmt.Sprintf("d/f%06d", i)
			t.file(n, make([]byte, 1000+i))
			t.names("d")
			equal(t, int(t.stat(n).Size), 1000+i, "size")
		}
	}},
	{"a directory of sub-directories is read with them", []Capability{DirNlink}, func(t *T) {
		t.dir("d")
		for i := range 100 {
			t.dir(fmt.Sprintf("d/s%d", i))
		}
		equal(t, len(t.names("d")), 100, "entries")
		t.nlink("d", 102)
	}},
	{"a directory that may be searched but not read is EACCES for open", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		t.ok(t.Chmod("d", 0o711), "chmod")
		_, err := t.user(1000).Open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.fails(err, "open", unix.EACCES)
		_, err = t.user(1000).Lstat("d/f")
		t.ok(err, "lstat")
	}},
	{"an open directory is read after its permission went", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		d := t.open(t.user(1000), "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.ok(t.Chmod("d", 0), "chmod")
		equal(t, len(t.readAll(d, 4096)), 3, "entries")
	}},
	{"a seek to a strange place does no harm", nil, func(t *T) {
		t.dir("d")
		t.fill("d", 20)
		d := t.opendir("d")
		for _, off := range []int64{1, 3, 12345, 1 << 31, 1 << 40, 1<<63 - 1} {
			if _, err := d.Lseek(off, unix.SEEK_SET); err != nil {
				t.fails(err, "lseek", unix.EINVAL, unix.EOVERFLOW)
				continue
			}
			if ents, err := readAll(d, 4096); err == nil && len(ents) > 22 {
				t.Fatalf("%d entries from offset %d", len(ents), off)
			}
		}
		t.seek(d, 0, unix.SEEK_SET, 0)
		equal(t, len(t.readAll(d, 4096)), 22, "entries after rewind")
	}},
}
