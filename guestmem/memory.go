package guestmem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrNotMapped says that an address, or part of a range, is in no region.
var ErrNotMapped = errors.New("address is not in guest memory")

// Memory is the guest's memory as it is now. Its zero value has no region. One
// goroutine at a time changes it; any number read it.
type Memory struct {
	mu  sync.Mutex // held over one change
	cur atomic.Pointer[Table]
	log atomic.Pointer[DirtyLog]
}

// Table is a snapshot of the guest's memory. Its regions stay mapped until
// Release, whatever is removed from the Memory meanwhile.
type Table struct {
	regions []*Region // by guest address
	byUser  []*Region // by front-end address
	refs    atomic.Int64
	log     *DirtyLog
}

var empty = func() *Table {
	t := new(Table)
	t.refs.Store(1)
	return t
}()

// Acquire returns the current table with one more reference.
func (m *Memory) Acquire() *Table {
	for {
		t := m.cur.Load()
		if t == nil {
			t = empty
		}
		n := t.refs.Load()
		if n > 0 && t.refs.CompareAndSwap(n, n+1) {
			return t
		}
	}
}

// Is reports whether t is the current table.
func (m *Memory) Is(t *Table) bool {
	cur := m.cur.Load()
	return cur == t || cur == nil && t == empty
}

// Hold adds a reference to a table that the caller holds already.
func (t *Table) Hold() { t.refs.Add(1) }

// Release gives one reference back. Regions that are in no table any more are
// unmapped with the last.
func (t *Table) Release() {
	if t.refs.Add(-1) > 0 || t == empty {
		return
	}
	for _, r := range t.regions {
		r.drop()
	}
}

// publish makes regions the current table.
func (m *Memory) publish(regions []*Region, log *DirtyLog) {
	t := &Table{regions: regions, log: log}
	slices.SortFunc(t.regions, func(a, b *Region) int { return cmp.Compare(a.spec.GuestAddr, b.spec.GuestAddr) })
	t.byUser = slices.Clone(regions)
	slices.SortFunc(t.byUser, func(a, b *Region) int { return cmp.Compare(a.spec.UserAddr, b.spec.UserAddr) })
	for _, r := range regions {
		r.refs.Add(1)
	}
	t.refs.Store(1)
	old := m.cur.Swap(t)
	if old != nil {
		old.Release()
	}
}

func (m *Memory) regions() []*Region {
	if t := m.cur.Load(); t != nil {
		return t.regions
	}
	return nil
}

// checkOverlap refuses regions that share a guest or a front-end address.
func checkOverlap(regions []*Region) error {
	for i, a := range regions {
		for _, b := range regions[:i] {
			if overlap(a.spec.GuestAddr, b.spec.GuestAddr, a.spec.Size, b.spec.Size) {
				return fmt.Errorf("memory regions overlap at guest address %#x", max(a.spec.GuestAddr, b.spec.GuestAddr))
			}
			if overlap(a.spec.UserAddr, b.spec.UserAddr, a.spec.Size, b.spec.Size) {
				return fmt.Errorf("memory regions overlap at user address %#x", max(a.spec.UserAddr, b.spec.UserAddr))
			}
		}
	}
	return nil
}

func overlap(a, b, alen, blen uint64) bool { return a < b+blen && b < a+alen }

// Replace makes specs the whole memory (SET_MEM_TABLE). On an error the memory
// is as before.
func (m *Memory) Replace(specs []RegionSpec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	regions := make([]*Region, 0, len(specs))
	var err error
	for _, s := range specs {
		var r *Region
		if r, err = newRegion(s); err != nil {
			break
		}
		regions = append(regions, r)
	}
	if err == nil {
		err = checkOverlap(regions)
	}
	if err != nil {
		for _, s := range specs[min(len(regions)+1, len(specs)):] {
			closeFD(s.FD)
		}
		for _, r := range regions {
			r.drop()
		}
		return err
	}
	m.publish(regions, m.log.Load())
	return nil
}

// Add adds one region (ADD_MEM_REG).
func (m *Memory) Add(spec RegionSpec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := newRegion(spec)
	if err != nil {
		return err
	}
	regions := append(slices.Clone(m.regions()), r)
	if err := checkOverlap(regions); err != nil {
		r.drop()
		return err
	}
	m.publish(regions, m.log.Load())
	return nil
}

// Remove takes the region with exactly these bounds out (REM_MEM_REG). It does
// not wait for requests that still use the region.
func (m *Memory) Remove(guestAddr, userAddr, size uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	regions := m.regions()
	i := slices.IndexFunc(regions, func(r *Region) bool {
		return r.spec.GuestAddr == guestAddr && r.spec.UserAddr == userAddr && r.spec.Size == size
	})
	if i < 0 {
		return fmt.Errorf("there is no memory region at guest address %#x, user address %#x, of %#x bytes", guestAddr, userAddr, size)
	}
	m.publish(slices.Delete(slices.Clone(regions), i, i+1), m.log.Load())
	return nil
}

// SetLog has every later write of the device to guest memory recorded in log;
// nil ends that.
func (m *Memory) SetLog(log *DirtyLog) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log.Store(log)
	m.publish(slices.Clone(m.regions()), log)
}

// Len returns the number of regions.
func (t *Table) Len() int { return len(t.regions) }

// find returns the region that holds guest address gpa, or nil.
func (t *Table) find(gpa uint64) *Region {
	lo, hi := 0, len(t.regions)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if t.regions[mid].spec.GuestAddr <= gpa {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return nil
	}
	r := t.regions[lo-1]
	if gpa-r.spec.GuestAddr >= r.spec.Size {
		return nil
	}
	return r
}

// GuestAddr returns the guest address of front-end address user, if size bytes
// from there lie in one region.
func (t *Table) GuestAddr(user, size uint64) (uint64, error) {
	r, off, err := t.findUser(user, size)
	if err != nil {
		return 0, err
	}
	return r.spec.GuestAddr + off, nil
}

func (t *Table) findUser(user, size uint64) (*Region, uint64, error) {
	i, found := slices.BinarySearchFunc(t.byUser, user, func(r *Region, u uint64) int { return cmp.Compare(r.spec.UserAddr, u) })
	if !found {
		i--
	}
	if i < 0 {
		return nil, 0, ErrNotMapped
	}
	r := t.byUser[i]
	off := user - r.spec.UserAddr
	if off >= r.spec.Size || size > r.spec.Size-off {
		return nil, 0, ErrNotMapped
	}
	return r, off, nil
}

// Read copies len(dst) bytes from guest address gpa, if all of them are there.
func (t *Table) Read(dst []byte, gpa uint64) bool {
	if gpa+uint64(len(dst)) < gpa {
		return false
	}
	for len(dst) > 0 {
		r := t.find(gpa)
		if r == nil {
			return false
		}
		off := gpa - r.spec.GuestAddr
		n := min(uint64(len(dst)), r.spec.Size-off)
		if r.load(dst[:n], off) != nil {
			return false
		}
		dst = dst[n:]
		gpa += n
	}
	return true
}

// MarkDirty logs a write of n bytes at guest address gpa that was made by other
// means than this package's.
func (t *Table) MarkDirty(gpa, n uint64) { t.log.mark(gpa, n) }
