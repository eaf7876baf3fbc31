package behaviour

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// T is a case at work: the test, and as FS the case's own directory, seen by root with mask 0.
type T struct {
	*testing.T
	FS
	scale int
}

func newT(t *testing.T, fs FS, dir string, scale int) *T {
	t.Helper()
	if err := fs.Mkdir(dir, 0o777); err != nil {
		t.Fatalf("mkdir of the case's directory: %v", err)
	}
	sub, err := fs.Sub(dir)
	if err != nil {
		t.Fatalf("opening the case's directory: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(removeTree(sub), sub.Close(), fs.Rmdir(dir)); err != nil {
			t.Errorf("clearing the case's directory: %v", err)
		}
	})
	return &T{T: t, FS: sub, scale: scale}
}

// removeTree empties the directory that is the root of fs.
func removeTree(fs FS) error {
	d, err := fs.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer d.Close()
	ents, err := readAll(d, 64<<10)
	if err != nil {
		return fmt.Errorf("getdents: %w", err)
	}
	for _, e := range ents {
		if e.Name == "." || e.Name == ".." {
			continue
		}
		err := fs.Unlink(e.Name)
		if err == unix.EISDIR {
			sub, serr := fs.Sub(e.Name)
			if serr != nil {
				return fmt.Errorf("open %.40s: %w", e.Name, serr)
			}
			if err := errors.Join(removeTree(sub), sub.Close()); err != nil {
				return err
			}
			err = fs.Rmdir(e.Name)
		}
		if err != nil {
			return fmt.Errorf("remove %.40s: %w", e.Name, err)
		}
	}
	return nil
}

// readAll reads a directory from its position to the end.
func readAll(d File, bufSize int) (all []Dirent, err error) {
	for {
		ents, err := d.Getdents(bufSize)
		if err != nil || len(ents) == 0 {
			return all, err
		}
		all = append(all, ents...)
	}
}

// scaled is the count n, made smaller on slow trees but not below least.
func (t *T) scaled(n, least int) int { return max(n/t.scale, least) }

// user is the case's directory seen by an unprivileged caller whose group has the same number.
func (t *T) user(id uint32, groups ...uint32) FS {
	return t.As(Cred{UID: id, GID: id, Groups: groups})
}

func (t *T) ok(err error, what string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// fails checks that err is one of the errnos that are allowed.
func (t *T) fails(err error, what string, want ...unix.Errno) {
	t.Helper()
	if e, ok := err.(unix.Errno); !ok || !slices.Contains(want, e) {
		names := make([]string, len(want))
		for i, w := range want {
			names[i] = unix.ErrnoName(w)
		}
		t.Fatalf("%s: got %s, want %s", what, errName(err), strings.Join(names, " or "))
	}
}

func errName(err error) string {
	if e, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(e)
	}
	if err == nil {
		return "no error"
	}
	return fmt.Sprintf("%v (%T, not an errno)", err, err)
}

func equal[V comparable](t *T, got, want V, what string, args ...any) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", fmt.Sprintf(what, args...), got, want)
	}
}

// difference says where got and want part.
func difference(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	first, last := -1, -1
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			last = i
			if first < 0 {
				first = i
			}
		}
	}
	if first < 0 {
		return fmt.Errorf("%d bytes, want %d", len(got), len(want))
	}
	return fmt.Errorf("%d bytes, want %d; they differ from %d to %d: %.16x, want %.16x", len(got), len(want), first, last,
		got[first:min(len(got), first+16)], want[first:min(len(want), first+16)])
}

func (t *T) sameBytes(got, want []byte, what string) {
	t.Helper()
	if err := difference(got, want); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// open opens by fs, which may be another view of the case's directory, and closes when the case ends.
func (t *T) open(fs FS, path string, flags int, mode uint32) File {
	t.Helper()
	f, err := fs.Open(path, flags, mode)
	if err != nil {
		t.Fatalf("open %.80s: %v", path, err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// rw opens a file for reading and writing, new if need be.
func (t *T) rw(path string) File {
	t.Helper()
	return t.open(t.FS, path, unix.O_RDWR|unix.O_CREAT, 0o666)
}

// file makes a file with the given contents and closes it.
func (t *T) file(path string, data []byte) {
	t.Helper()
	f, err := t.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o666)
	if err != nil {
		t.Fatalf("create %.80s: %v", path, err)
	}
	t.write(f, data)
	t.ok(f.Close(), "close %.80s", path)
}

func (t *T) dir(path string) {
	t.Helper()
	t.ok(t.Mkdir(path, 0o777), "mkdir %.80s", path)
}

func (t *T) symlink(target, path string) {
	t.Helper()
	t.ok(t.Symlink(target, path), "symlink %.80s", path)
}

func (t *T) write(f File, data []byte) {
	t.Helper()
	for len(data) > 0 {
		n, err := f.Write(data)
		if err != nil || n == 0 {
			t.Fatalf("write: %d, %v", n, err)
		}
		data = data[n:]
	}
}

func (t *T) pwrite(f File, data []byte, off int64) {
	t.Helper()
	for len(data) > 0 {
		n, err := f.Pwrite(data, off)
		if err != nil || n == 0 {
			t.Fatalf("pwrite at %d: %d, %v", off, n, err)
		}
		data, off = data[n:], off+int64(n)
	}
}

// pread reads n bytes at off, or fewer if the file ends.
func (t *T) pread(f File, n int, off int64) []byte {
	t.Helper()
	p := make([]byte, n)
	got := 0
	for got < n {
		m, err := f.Pread(p[got:], off+int64(got))
		if err != nil {
			t.Fatalf("pread of %d at %d: %v", n-got, off+int64(got), err)
		}
		if m == 0 {
			break
		}
		got += m
	}
	return p[:got]
}

// contents is the whole file, read by a new open.
func (t *T) contents(path string) []byte {
	t.Helper()
	f, err := t.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatalf("open %.80s: %v", path, err)
	}
	defer f.Close()
	st, err := f.Fstat()
	t.ok(err, "fstat")
	return t.pread(f, int(st.Size)+1, 0)
}

func (t *T) stat(path string) unix.Statx_t {
	t.Helper()
	st, err := t.Lstat(path)
	t.ok(err, "lstat %.80s", path)
	return st
}

func (t *T) fstat(f File) unix.Statx_t {
	t.Helper()
	st, err := f.Fstat()
	t.ok(err, "fstat")
	return st
}

// perm is the permission bits, with the set-id and sticky bits.
func (t *T) perm(path string) uint32 {
	t.Helper()
	return uint32(t.stat(path).Mode) & 0o7777
}

func (t *T) size(f File, want int64) {
	t.Helper()
	equal(t, int64(t.fstat(f).Size), want, "size")
}

// missing checks that there is nothing of that name.
func (t *T) missing(path string) {
	t.Helper()
	_, err := t.Lstat(path)
	t.fails(err, "lstat "+path, unix.ENOENT)
}

// names is the sorted entries of a directory, without "." and "..".
func (t *T) names(path string) []string {
	t.Helper()
	d, err := t.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	t.ok(err, "open directory %.80s", path)
	defer d.Close()
	ents, err := readAll(d, 32<<10)
	t.ok(err, "getdents")
	names := []string{}
	for _, e := range ents {
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (t *T) wantNames(path string, want ...string) {
	t.Helper()
	if got := t.names(path); !slices.Equal(got, want) {
		t.Fatalf("entries of %s: got %q, want %q", path, got, want)
	}
}

// pattern is n bytes that differ from those of other seeds, and within themselves everywhere.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x>>24) | 1 // never the zero of a hole
	}
	return p
}

// nanos is a timestamp as one number.
func nanos(ts unix.StatxTimestamp) int64 { return ts.Sec*1e9 + int64(ts.Nsec) }

// tick returns when the clock that the tree stamps its files with has moved on.
func (t *T) tick() { t.Helper(); t.tickIn(".") }

// tickIn changes the times of no directory but dir.
func (t *T) tickIn(dir string) {
	t.Helper()
	name := dir + "/.tick"
	t.file(name, nil)
	start := nanos(t.stat(name).Ctime)
	for deadline := time.Now().Add(20 * time.Second); ; {
		time.Sleep(2 * time.Millisecond)
		t.ok(t.Unlink(name), "unlink")
		t.file(name, nil)
		now := nanos(t.stat(name).Ctime)
		if now > start {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tree's clock stands still at %d", now)
		}
	}
	t.ok(t.Unlink(name), "unlink")
}

func makedev(major, minor uint32) uint64 { return unix.Mkdev(major, minor) }
