package guestmem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrNotMapped is an address, or a part of a range, that no region has.
var ErrNotMapped = errors.New("address is not in guest memory")

// ErrShort says that buffers end before the last byte that was to be copied.
var ErrShort = errors.New("the buffers are too short")

// Memory is the memory of one guest. The zero value is empty and ready for use.
// It must not be copied.
type Memory struct {
	current atomic.Pointer[Table]
	log     atomic.Pointer[DirtyLog]

	mu sync.Mutex // for changes; reading takes none

	reapMu   sync.Mutex
	reap     []*Region // to be closed
	reaping  bool      // a goroutine does so
	reapIdle *sync.Cond
}

// Table is a snapshot of the regions. It does not change.
type Table struct {
	mem  *Memory
	refs atomic.Int64
	// regions are sorted by guest address, users by user address; both have
	// the same elements.
	regions []*Region
	users   []*Region
}

var emptyTable = new(Table)

// Replace makes specs the regions of the memory (SET_MEM_TABLE). A region that
// was there before keeps its mapping. On an error nothing has changed. The
// descriptors in specs are closed or kept in any case.
func (m *Memory) Replace(specs []RegionSpec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.table().regions
	var regions, fresh []*Region
	var err error
	for i := range specs {
		spec := &specs[i]
		if err != nil {
			unix.Close(spec.FD)
			continue
		}
		if k := slices.IndexFunc(have, func(r *Region) bool { return r.same(spec) }); k >= 0 {
			unix.Close(spec.FD)
			regions = append(regions, have[k])
			continue
		}
		var r *Region
		if r, err = newRegion(*spec); err == nil {
			regions = append(regions, r)
			fresh = append(fresh, r)
		}
	}
	if err == nil {
		err = m.publish(regions)
	}
	if err != nil {
		m.discard(fresh)
	}
	return err
}

// Add adds a region (ADD_MEM_REG).
func (m *Memory) Add(spec RegionSpec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := newRegion(spec)
	if err != nil {
		return err
	}
	if err := m.publish(append(slices.Clone(m.table().regions), r)); err != nil {
		m.discard([]*Region{r})
		return err
	}
	return nil
}

// Remove removes the region that has exactly these addresses (REM_MEM_REG).
// Requests that use it go on.
func (m *Memory) Remove(guestAddr, userAddr, size uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.table().regions
	i := slices.IndexFunc(have, func(r *Region) bool {
		return r.spec.GuestAddr == guestAddr && r.spec.UserAddr == userAddr && r.spec.Size == size
	})
	if i < 0 {
		return fmt.Errorf("there is no region of %#x bytes at guest address %#x, user address %#x: %w", size, guestAddr, userAddr, ErrNotMapped)
	}
	return m.publish(slices.Delete(slices.Clone(have), i, i+1))
}

// Acquire returns the current table with a reference, which Release gives back.
func (m *Memory) Acquire() *Table {
	for {
		t := m.current.Load()
		if t == nil {
			return emptyTable
		}
		for n := t.refs.Load(); n > 0; n = t.refs.Load() {
			if t.refs.CompareAndSwap(n, n+1) {
				return t
			}
		}
		// It was replaced and released in between.
	}
}

// Is reports whether t, on which the caller need not hold a reference, is what
// Acquire would return.
func (m *Memory) Is(t *Table) bool {
	c := m.current.Load()
	return c == t || c == nil && t == emptyTable
}

// Settle waits until the regions that nobody uses any more are unmapped and
// their descriptors closed. What is still in use is not waited for.
func (m *Memory) Settle() {
	m.reapMu.Lock()
	defer m.reapMu.Unlock()
	for m.reaping {
		m.reapIdle.Wait()
	}
}

// table returns the current table to the holder of mu.
func (m *Memory) table() *Table {
	if t := m.current.Load(); t != nil {
		return t
	}
	return emptyTable
}

// publish makes regions the current table. mu is held.
func (m *Memory) publish(regions []*Region) error {
	t := &Table{mem: m, regions: regions, users: slices.Clone(regions)}
	slices.SortFunc(t.regions, func(a, b *Region) int { return cmp.Compare(a.spec.GuestAddr, b.spec.GuestAddr) })
	slices.SortFunc(t.users, func(a, b *Region) int { return cmp.Compare(a.spec.UserAddr, b.spec.UserAddr) })
	for i := 1; i < len(regions); i++ {
		if a, b := t.regions[i-1], t.regions[i]; a.guestEnd() >= b.spec.GuestAddr {
			return fmt.Errorf("%v overlaps the %v in the guest; report this as a bug of the front-end", &b.spec, &a.spec)
		}
		if a, b := t.users[i-1], t.users[i]; a.spec.UserAddr+(a.spec.Size-1) >= b.spec.UserAddr {
			return fmt.Errorf("%v overlaps the %v in the front-end; report this as a bug of the front-end", &b.spec, &a.spec)
		}
	}
	for _, r := range regions {
		r.refs.Add(1)
	}
	t.refs.Store(1)
	if old := m.current.Swap(t); old != nil {
		old.Release()
	}
	return nil
}

// Hold adds a reference to a table that the caller holds already.
func (t *Table) Hold() {
	if t != emptyTable {
		t.refs.Add(1)
	}
}

// Release gives back a reference. The caller must not use t, nor buffers in it,
// any more.
func (t *Table) Release() {
	if t == emptyTable || t.refs.Add(-1) > 0 {
		return
	}
	var gone []*Region
	for _, r := range t.regions {
		if r.refs.Add(-1) == 0 {
			gone = append(gone, r)
		}
	}
	t.mem.discard(gone)
}

// discard closes regions, later.
func (m *Memory) discard(regions []*Region) {
	if len(regions) == 0 {
		return
	}
	m.reapMu.Lock()
	defer m.reapMu.Unlock()
	if m.reapIdle == nil {
		m.reapIdle = sync.NewCond(&m.reapMu)
	}
	m.reap = append(m.reap, regions...)
	if !m.reaping {
		m.reaping = true
		go m.reaper()
	}
}

// reaper closes what waits for it and ends.
func (m *Memory) reaper() {
	m.reapMu.Lock()
	defer m.reapMu.Unlock()
	for len(m.reap) > 0 {
		batch := m.reap
		m.reap = nil
		m.reapMu.Unlock()
		for _, r := range batch {
			r.close()
		}
		m.reapMu.Lock()
	}
	m.reaping = false
	m.reapIdle.Broadcast()
}

// Len returns the number of regions.
func (t *Table) Len() int { return len(t.regions) }

// find returns the index of the region that has guest address gpa, or -1.
func (t *Table) find(gpa uint64) int {
	lo, hi := 0, len(t.regions)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if t.regions[mid].spec.GuestAddr <= gpa {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || gpa-t.regions[lo-1].spec.GuestAddr >= t.regions[lo-1].spec.Size {
		return -1
	}
	return lo - 1
}

// findUser returns the region that has all of n bytes at user address addr.
func (t *Table) findUser(addr, n uint64) (r *Region, off uint64, err error) {
	i, found := slices.BinarySearchFunc(t.users, addr, func(r *Region, a uint64) int { return cmp.Compare(r.spec.UserAddr, a) })
	if !found {
		i--
	}
	if i < 0 || addr-t.users[i].spec.UserAddr >= t.users[i].spec.Size {
		return nil, 0, fmt.Errorf("user address %#x: %w", addr, ErrNotMapped)
	}
	r = t.users[i]
	off = addr - r.spec.UserAddr
	if n > r.spec.Size-off {
		return nil, 0, fmt.Errorf("%#x bytes at user address %#x go past the end of their region: %w", n, addr, ErrNotMapped)
	}
	return r, off, nil
}

// Span returns the n bytes at user address addr, which must lie in one mapped
// region and be aligned to align, a power of two. The span is valid as long as
// the table is held.
func (t *Table) Span(addr, n, align uint64) (Span, error) {
	r, off, err := t.findUser(addr, n)
	switch {
	case err != nil:
		return Span{}, err
	case r.spec.Kind == Window:
		return Span{}, fmt.Errorf("user address %#x lies in a device's shared memory", addr)
	case (r.host+uintptr(off))&uintptr(align-1) != 0:
		return Span{}, fmt.Errorf("user address %#x is not mapped at a multiple of %d", addr, align)
	}
	return Span{r.host + uintptr(off), uintptr(n)}, nil
}

// GuestAddr returns the guest address of user address addr, if n bytes from
// there lie in one region.
func (t *Table) GuestAddr(addr, n uint64) (uint64, error) {
	r, off, err := t.findUser(addr, n)
	if err != nil {
		return 0, err
	}
	return r.spec.GuestAddr + off, nil
}

// Read copies len(dst) bytes at guest address gpa to dst, and reports whether all
// of them are there.
func (t *Table) Read(dst []byte, gpa uint64) bool {
	for len(dst) > 0 {
		i := t.find(gpa)
		if i < 0 {
			return false
		}
		r := t.regions[i]
		off := gpa - r.spec.GuestAddr
		n := min(uint64(len(dst)), r.spec.Size-off)
		if r.read(dst[:n], off) != nil {
			return false
		}
		dst, gpa = dst[n:], gpa+n
		if gpa == 0 && len(dst) > 0 {
			return false
		}
	}
	return true
}
