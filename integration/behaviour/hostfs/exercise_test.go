package hostfs_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

// faulty is a tree with a fault in the calls of its files.
type faulty struct {
	behaviour.FS
	spoil func(f behaviour.File) behaviour.File
}

func (x faulty) Open(path string, flags int, mode uint32) (behaviour.File, error) {
	f, err := x.FS.Open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	return x.spoil(f), nil
}

// noHoles says that it punched, and did not.
type noHoles struct{ behaviour.File }

func (x noHoles) Fallocate(mode uint32, off, n int64) error {
	if mode&unix.FALLOC_FL_PUNCH_HOLE != 0 {
		return nil
	}
	return x.File.Fallocate(mode, off, n)
}

func (x noHoles) CopyTo(dst behaviour.File, s, d *int64, n int) (int, error) {
	return x.File.CopyTo(dst.(noHoles).File, s, d, n)
}

// dirtyTail leaves a byte behind the end when it makes the file shorter.
type dirtyTail struct{ behaviour.File }

func (x dirtyTail) Ftruncate(size int64) error {
	st, err := x.File.Fstat()
	if err != nil || int64(st.Size) <= size {
		return x.File.Ftruncate(size)
	}
	if err := x.File.Ftruncate(size + 1); err != nil {
		return err
	}
	_, err = x.File.Pwrite([]byte{1}, size)
	return err
}

func (x dirtyTail) CopyTo(dst behaviour.File, s, d *int64, n int) (int, error) {
	return x.File.CopyTo(dst.(dirtyTail).File, s, d, n)
}

// offByOne writes large buffers one byte short in the middle.
type offByOne struct{ behaviour.File }

func (x offByOne) Pwrite(p []byte, off int64) (int, error) {
	if len(p) > 65536 {
		q := append([]byte{}, p...)
		q[len(q)/2] ^= 2
		return x.File.Pwrite(q, off)
	}
	return x.File.Pwrite(p, off)
}

func (x offByOne) CopyTo(dst behaviour.File, s, d *int64, n int) (int, error) {
	return x.File.CopyTo(dst.(offByOne).File, s, d, n)
}

func TestExerciseFindsFaults(t *testing.T) {
	fs := tree(t)
	for name, spoil := range map[string]func(behaviour.File) behaviour.File{
		"holes that are not punched":        func(f behaviour.File) behaviour.File { return noHoles{f} },
		"a byte left behind by truncate":    func(f behaviour.File) behaviour.File { return dirtyTail{f} },
		"a wrong byte in every large write": func(f behaviour.File) behaviour.File { return offByOne{f} },
	} {
		t.Run(name, func(t *testing.T) {
			err := behaviour.Exercise{Seed: 1, Ops: 500, MaxSize: 300 << 10, Handles: 2}.Run(faulty{fs, spoil}, "faulty")
			if err == nil {
				t.Fatal("not found")
			}
			t.Log(strings.SplitN(err.Error(), "\n", 2)[0])
			if err := fs.Unlink("faulty"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
