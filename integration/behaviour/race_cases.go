package behaviour

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// storm runs n workers at once and fails with the first error of any. A storm that has not ended after two
// minutes hangs, which is the failure that these cases look for above all.
func (t *T) storm(n int, work func(worker int) error) {
	t.Helper()
	errs := make(chan error, n)
	for w := range n {
		go func() { errs <- work(w) }()
	}
	deadline := time.After(2 * time.Minute)
	var first error
	for range n {
		select {
		case err := <-errs:
			if first == nil {
				first = err
			}
		case <-deadline:
			t.Fatal("hangs: two minutes are over")
		}
	}
	t.ok(first, "storm")
}

// either lets errors pass that a race with other workers explains.
func either(err error, allowed ...unix.Errno) error {
	if e, ok := err.(unix.Errno); ok && slices.Contains(allowed, e) {
		return nil
	}
	return err
}

// onlyOne runs a call that many make at once in rounds: one must win, and the others fail with the errno.
func (t *T) onlyOne(rounds int, want unix.Errno, call func() error, undo func() error) {
	t.Helper()
	for round := range rounds {
		var mu sync.Mutex
		won := 0
		t.storm(6, func(int) error {
			err := call()
			if err == nil {
				mu.Lock()
				won++
				mu.Unlock()
				return nil
			}
			return either(err, want)
		})
		equal(t, won, 1, "winners of round %d", round)
		if undo != nil {
			t.ok(undo(), "undo")
		}
	}
}

var raceCases = []testCase{
	{"of many exclusive creates of a name one wins", nil, func(t *T) {
		t.onlyOne(t.scaled(100, 10), unix.EEXIST, func() error {
			return closed(t.Open("f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600))
		}, func() error { return t.Unlink("f") })
	}},
	{"of many mkdirs of a name one wins", nil, func(t *T) {
		t.onlyOne(t.scaled(100, 10), unix.EEXIST, func() error { return t.Mkdir("d", 0o700) }, func() error { return t.Rmdir("d") })
	}},
	{"of many symlinks of a name one wins", nil, func(t *T) {
		t.onlyOne(t.scaled(50, 10), unix.EEXIST, func() error { return t.Symlink("x", "l") }, func() error { return t.Unlink("l") })
	}},
	{"of many links to a name one wins", nil, func(t *T) {
		t.file("f", nil)
		t.onlyOne(t.scaled(50, 10), unix.EEXIST, func() error { return t.Link("f", "g") }, func() error { return t.Unlink("g") })
		t.nlink("f", 1)
	}},
	{"of many unlinks of a name one wins", nil, func(t *T) {
		t.file("f", nil)
		t.onlyOne(t.scaled(50, 10), unix.ENOENT, func() error { return t.Unlink("f") }, func() error {
			return closed(t.Open("f", unix.O_CREAT|unix.O_WRONLY, 0o600))
		})
	}},
	{"of many rmdirs of a name one wins", nil, func(t *T) {
		t.dir("d")
		t.onlyOne(t.scaled(50, 10), unix.ENOENT, func() error { return t.Rmdir("d") }, func() error { return t.Mkdir("d", 0o700) })
	}},
	{"of many renames of a name one wins", nil, func(t *T) {
		t.file("f", nil)
		t.onlyOne(t.scaled(50, 10), unix.ENOENT, func() error { return t.Rename("f", "g", 0) }, func() error { return t.Rename("g", "f", 0) })
	}},
	{"creates that do not exclude all open one file", nil, func(t *T) {
		for range t.scaled(30, 5) {
			var mu sync.Mutex
			inos := map[uint64]bool{}
			t.storm(6, func(int) error {
				f, err := t.Open("f", unix.O_CREAT|unix.O_RDWR, 0o600)
				if err != nil {
					return err
				}
				st, err := f.Fstat()
				mu.Lock()
				inos[st.Ino] = true
				mu.Unlock()
				return errors.Join(err, f.Close())
			})
			equal(t, len(inos), 1, "files")
			t.ok(t.Unlink("f"), "unlink")
		}
	}},
	{"a storm of creates and unlinks of few names leaves what the last call left", nil, func(t *T) {
		t.storm(6, func(w int) error {
			for i := range t.scaled(200, 30) {
				n := fmt.Sprintf("n%d", (i*7+w)%4)
				var err error
				switch (i + w) % 4 {
				case 0, 1:
					err = closed(t.Open(n, unix.O_CREAT|unix.O_RDWR, 0o600))
				case 2:
					err = t.Unlink(n)
				case 3:
					_, err = t.Lstat(n)
				}
				if err := either(err, unix.ENOENT); err != nil {
					return fmt.Errorf("%s in step %d: %w", n, i, err)
				}
			}
			return nil
		})
		for _, n := range t.names(".") {
			t.stat(n)
			t.ok(t.Unlink(n), "unlink")
		}
		t.wantNames(".")
	}},
	{"a storm of mkdirs and rmdirs leaves the parent's link count right", []Capability{DirNlink}, func(t *T) {
		t.dir("p")
		t.storm(6, func(w int) error {
			for i := range t.scaled(150, 30) {
				n := fmt.Sprintf("p/d%d", (i*5+w)%5)
				err := t.Mkdir(n, 0o700)
				if (i+w)%2 == 0 {
					err = t.Rmdir(n)
				}
				if err := either(err, unix.ENOENT, unix.EEXIST); err != nil {
					return err
				}
			}
			return nil
		})
		t.nlink("p", 2+uint32(len(t.names("p"))))
	}},
	{"a storm of links and unlinks leaves the link count right", nil, func(t *T) {
		t.file("f", nil)
		t.storm(6, func(w int) error {
			for i := range t.scaled(150, 30) {
				n := fmt.Sprintf("l%d", (i*5+w)%6)
				err := t.Link("f", n)
				if (i+w)%2 == 0 {
					err = t.Unlink(n)
				}
				if err := either(err, unix.ENOENT, unix.EEXIST); err != nil {
					return err
				}
			}
			return nil
		})
		t.nlink("f", uint32(len(t.names("."))))
	}},
	{"a storm of renames neither loses nor doubles a file", []Capability{RenameNoreplace}, func(t *T) {
		const files = 8
		for i := range files {
			t.file(fmt.Sprintf("n%d", i), []byte{byte('a' + i)})
		}
		t.storm(6, func(w int) error {
			for i := range t.scaled(200, 30) {
				from, to := (i*7+w)%16, (i*11+w*3)%16
				err := t.Rename(fmt.Sprintf("n%d", from), fmt.Sprintf("n%d", to), unix.RENAME_NOREPLACE)
				if err := either(err, unix.ENOENT, unix.EEXIST); err != nil {
					return err
				}
			}
			return nil
		})
		seen := map[string]bool{}
		for _, n := range t.names(".") {
			seen[string(t.contents(n))] = true
			t.nlink(n, 1)
		}
		equal(t, len(seen), files, "files")
		equal(t, len(t.names(".")), files, "names")
	}},
	{"a storm of renames across directories keeps all files and counts", nil, func(t *T) {
		for _, d := range []string{"a", "b", "c"} {
			t.dir(d)
		}
		const dirs = 6
		for i := range dirs {
			t.dir(fmt.Sprintf("a/d%d", i))
			t.file(fmt.Sprintf("a/d%d/f", i), []byte{byte('a' + i)})
		}
		t.storm(5, func(w int) error {
			for i := range t.scaled(150, 30) {
				d := fmt.Sprintf("/d%d", (i*5+w)%dirs)
				from, to := "abc"[(i+w)%3], "abc"[(i*2+w+1)%3]
				if err := either(t.Rename(string(from)+d, string(to)+d, 0), unix.ENOENT); err != nil {
					return err
				}
			}
			return nil
		})
		total := 0
		for _, d := range []string{"a", "b", "c"} {
			names := t.names(d)
			total += len(names)
			if t.Lacks(DirNlink) == "" {
				t.nlink(d, 2+uint32(len(names)))
			}
			for _, n := range names {
				equal(t, t.stat(d+"/"+n+"/..").Ino, t.stat(d).Ino, "parent of %s/%s", d, n)
				t.contents(d + "/" + n + "/f")
			}
		}
		equal(t, total, dirs, "directories")
	}},
	{"appends by many are whole and none is lost", nil, func(t *T) {
		const writers, size = 6, 173
		records := t.scaled(200, 30)
		t.file("f", nil)
		t.storm(writers, func(w int) error {
			f, err := t.Open("f", unix.O_WRONLY|unix.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			for range records {
				if n, err := f.Write(bytes.Repeat([]byte{byte('a' + w)}, size)); err != nil || n != size {
					return fmt.Errorf("%d bytes: %w", n, err)
				}
			}
			return nil
		})
		data := t.contents("f")
		equal(t, len(data), writers*records*size, "size")
		count := map[byte]int{}
		for rec := range slices.Chunk(data, size) {
			t.sameBytes(rec, bytes.Repeat(rec[:1], size), "record")
			count[rec[0]]++
		}
		for w, n := range count {
			equal(t, n, records, "records of %c", w)
		}
	}},
	{"writers of their own pages do not disturb each other", nil, func(t *T) { writersOfOwnRanges(t, 1<<20) }},
	{"writers of their own ranges do not disturb each other", []Capability{SharedPages}, func(t *T) { writersOfOwnRanges(t, 5000) }},
	{"readers of a file that is cut and grown see its bytes or zeroes", nil, func(t *T) {
		const size = 40000
		want := pattern(size, 1)
		t.file("f", want)
		stop := make(chan struct{})
		go func() {
			time.Sleep(time.Duration(t.scaled(300, 300)) * time.Millisecond)
			close(stop)
		}()
		t.storm(5, func(w int) error {
			f, err := t.FS.Open("f", unix.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			p := make([]byte, size)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return nil
				default:
				}
				if w == 0 {
					if err := f.Ftruncate(int64(i*997) % size); err != nil {
						return err
					}
					if _, err := f.Pwrite(want, 0); err != nil {
						return err
					}
					continue
				}
				n, err := f.Pread(p, 0)
				if err != nil {
					return err
				}
				for j, b := range p[:n] {
					if b != want[j] && b != 0 {
						return fmt.Errorf("byte %d is %#x, never written there", j, b)
					}
				}
			}
		})
	}},
	{"opens with O_TRUNC of one file at once do not hang", nil, func(t *T) {
		t.file("f", pattern(100000, 1))
		t.storm(6, func(w int) error {
			for range t.scaled(60, 15) {
				flags := unix.O_RDWR
				if w%2 == 0 {
					flags |= unix.O_TRUNC
				}
				f, err := t.Open("f", flags, 0)
				if err != nil {
					return err
				}
				if _, err := f.Pwrite(pattern(30000, byte(w)), int64(w)*10000); err != nil {
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{"copies in a ring of files at once do not hang", []Capability{CopyRange}, func(t *T) {
		const files = 3
		for i := range files {
			t.file(fmt.Sprintf("f%d", i), pattern(100000, byte(i)))
		}
		t.storm(2*files, func(w int) error {
			src, err := t.Open(fmt.Sprintf("f%d", w%files), unix.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer src.Close()
			dst, err := t.Open(fmt.Sprintf("f%d", (w+1)%files), unix.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer dst.Close()
			if w >= files { // half of them go round the other way
				src, dst = dst, src
			}
			for range t.scaled(60, 15) {
				soff, doff := int64(w)*1000, int64(w)*2000
				if _, err := src.CopyTo(dst, &soff, &doff, 50000); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{"holes, writes and syncs at once far apart keep to their ranges", []Capability{PunchHole}, func(t *T) { holesInOwnRanges(t, 1<<20) }},
	{"holes, writes and syncs at once side by side keep to their ranges", []Capability{PunchHole, SharedPages}, func(t *T) { holesInOwnRanges(t, 3*block) }},
	{"entries that stay come once while others storm", nil, func(t *T) {
		t.dir("d")
		n := t.scaled(300, 60)
		t.fill("d", n)
		t.storm(5, func(w int) error {
			for i := range t.scaled(60, 15) {
				if w < 3 {
					name := fmt.Sprintf("d/x%d-%d", w, i%20)
					if err := closed(t.Open(name, unix.O_CREAT|unix.O_WRONLY, 0o600)); err != nil {
						return err
					}
					if err := t.Rename(name, name+"r", 0); err != nil {
						return err
					}
					if err := t.Unlink(name + "r"); err != nil {
						return err
					}
					continue
				}
				d, err := t.Open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
				if err != nil {
					return err
				}
				ents, err := readAll(d, 2048)
				if err != nil {
					return err
				}
				d.Close()
				seen := map[string]int{}
				for _, e := range ents {
					seen[e.Name]++
				}
				for k := range n {
					if c := seen[fmt.Sprintf("f%06d", k)]; c != 1 {
						return fmt.Errorf("entry %d, which stays, came %d times", k, c)
					}
				}
			}
			return nil
		})
	}},
	{"trees are made and removed by many at once", nil, func(t *T) {
		t.storm(4, func(w int) error {
			for range t.scaled(15, 4) {
				root := fmt.Sprintf("tree%d", w)
				if err := t.Mkdir(root, 0o700); err != nil {
					return err
				}
				for i := range 5 {
					d := fmt.Sprintf("%s/d%d", root, i)
					if err := t.Mkdir(d, 0o700); err != nil {
						return err
					}
					for j := range 4 {
						if err := closed(t.Open(fmt.Sprintf("%s/f%d", d, j), unix.O_CREAT|unix.O_WRONLY, 0o600)); err != nil {
							return err
						}
					}
				}
				sub, err := t.FS.Sub(root)
				if err != nil {
					return err
				}
				if err := removeTree(sub); err != nil {
					return err
				}
				if err := sub.Close(); err != nil {
					return err
				}
				if err := t.Rmdir(root); err != nil {
					return err
				}
			}
			return nil
		})
		t.wantNames(".")
	}},
	{"modes, owners and times changed at once are each somebody's", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.storm(6, func(w int) error {
			for range t.scaled(60, 15) {
				mode := uint32(0o600 + w)
				if err := t.Chmod("f", mode); err != nil {
					return err
				}
				if err := t.Chown("f", 100+w, 200+w); err != nil {
					return err
				}
				ts := unix.Timespec{Sec: int64(1000 + w)}
				if err := t.Utimens("f", &[2]unix.Timespec{ts, ts}, 0); err != nil {
					return err
				}
				st, err := t.Lstat("f")
				if err != nil {
					return err
				}
				if st.Uid-100 > 5 || st.Gid != st.Uid+100 || st.Mode&0o777 < 0o600 || st.Mode&0o777 > 0o605 {
					return fmt.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
				}
			}
			return nil
		})
	}},
	{"many handles opened and closed at once", nil, func(t *T) {
		t.file("f", pattern(10000, 1))
		t.storm(8, func(w int) error {
			p := make([]byte, 100)
			for i := range t.scaled(150, 30) {
				f, err := t.Open("f", unix.O_RDONLY, 0)
				if err != nil {
					return err
				}
				off := (i * 37) % 9900
				if _, err := f.Pread(p, int64(off)); err != nil {
					return err
				}
				if !bytes.Equal(p, pattern(10000, 1)[off:off+100]) {
					return fmt.Errorf("wrong bytes at %d", off)
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{"files unlinked while others read them are read to the end", nil, func(t *T) {
		t.storm(6, func(w int) error {
			for i := range t.scaled(60, 15) {
				n := fmt.Sprintf("f%d", i%3)
				f, err := t.Open(n, unix.O_CREAT|unix.O_RDWR, 0o600)
				if err != nil {
					return err
				}
				if _, err := f.Pwrite(pattern(5000, 9), 0); err != nil {
					return err
				}
				if err := either(t.Unlink(n), unix.ENOENT); err != nil {
					return err
				}
				p := make([]byte, 6000)
				got, err := f.Pread(p, 0)
				if err != nil {
					return err
				}
				if !bytes.Equal(p[:got], pattern(5000, 9)) {
					return fmt.Errorf("%d bytes of the unlinked file, or others than were written", got)
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}},
}

// writersOfOwnRanges has each of them write 5000 bytes of a file again and again, and read them back. The ranges begin
// stride bytes apart.
func writersOfOwnRanges(t *T, stride int64) {
	const writers, size = 6, 5000
	t.file("f", nil)
	t.storm(writers, func(w int) error {
		f, err := t.Open("f", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		p := make([]byte, size)
		for i := range t.scaled(100, 20) {
			if _, err := f.Pwrite(pattern(size, byte(w*31+i)), int64(w)*stride); err != nil {
				return err
			}
			if _, err := f.Pread(p, int64(w)*stride); err != nil {
				return err
			}
			if err := difference(p, pattern(size, byte(w*31+i))); err != nil {
				return fmt.Errorf("worker %d, step %d: %w", w, i, err)
			}
		}
		return nil
	})
	t.size(t.rw("f"), (writers-1)*stride+size)
}

// holesInOwnRanges has each of them write 3 blocks of a file again and again, punch a hole, and read them back. The ranges
// begin stride bytes apart.
func holesInOwnRanges(t *T, stride int) {
	const workers, size = 4, 3 * block
	t.file("f", make([]byte, workers*stride))
	t.storm(workers, func(w int) error {
		f, err := t.Open("f", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		base := int64(w * stride)
		p := make([]byte, size)
		for i := range t.scaled(40, 10) {
			want := pattern(size, byte(i*7+w))
			if _, err := f.Pwrite(want, base); err != nil {
				return err
			}
			hole := 1000 + i*500
			if err := f.Fallocate(punch, base+int64(hole), 50000); err != nil {
				return err
			}
			if i%5 == 0 {
				if err := f.Fsync(); err != nil {
					return err
				}
			}
			if _, err := f.Pread(p, base); err != nil {
				return err
			}
			if err := difference(p, zeroed(want, hole, 50000)); err != nil {
				return fmt.Errorf("worker %d, step %d: %w", w, i, err)
			}
		}
		return nil
	})
}
