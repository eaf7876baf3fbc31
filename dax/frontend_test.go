package dax

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// fakeFrontend keeps the rules of QEMU's SHMEM messages: no overlap, exact
// unmap, nothing past the end of a file.
type fakeFrontend struct {
	mu   sync.Mutex
	maps map[uint64]uint64 // offset to length
	most int
	fail error
}

func newFakeFrontend() *fakeFrontend { return &fakeFrontend{maps: make(map[uint64]uint64)} }

func (f *fakeFrontend) Map(_ context.Context, off, n uint64, fd int, fdOff uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if uint64(st.Size) < fdOff+n {
		return fmt.Errorf("backing store size %#x is too small", st.Size)
	}
	for o, l := range f.maps {
		if off < o+l && o < off+n {
			return errors.New("overlap")
		}
	}
	f.maps[off] = n
	f.most = max(f.most, len(f.maps))
	return nil
}

func (f *fakeFrontend) Unmap(_ context.Context, off, n uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if l, ok := f.maps[off]; !ok || l != n {
		return errors.New("shared memory mapping not found")
	}
	delete(f.maps, off)
	return nil
}
