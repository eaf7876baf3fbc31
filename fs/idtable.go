package fs

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

const (
	idPageBits = 10
	idPageLen  = 1 << idPageBits
)

// idTable hands out 64-bit identifiers for objects that a guest names in its
// requests, nodeids and file handles. An identifier is a slot number in its low
// half and the slot's generation in its high half, so that a stale one never
// names the slot's next owner. Look-ups take no lock. Identifiers start at 1 in
// an empty table and 0 is never handed out.
type idTable[T any] struct {
	pages atomic.Pointer[[]*idPage[T]]

	mu    sync.Mutex
	epoch uint32 // of a slot's first generation
	free  []uint32
	next  uint32
	count int
	most  int // the largest count since the table last shrank

	// shrunk is set when seven eighths of many objects have been removed.
	shrunk atomic.Bool
}

// many is what takes megabytes.
const many = 1 << 16

type idPage[T any] struct {
	slots [idPageLen]atomic.Pointer[idSlot[T]]
	gens  [idPageLen]uint32 // guarded by idTable.mu
}

type idSlot[T any] struct {
	id    uint64
	value T
}

// get returns the object named id, or nil.
func (t *idTable[T]) get(id uint64) *T {
	pages := t.pages.Load()
	slot := uint32(id)
	if pages == nil || int(slot>>idPageBits) >= len(*pages) {
		return nil
	}
	s := (*pages)[slot>>idPageBits].slots[slot%idPageLen].Load()
	if s == nil || s.id != id {
		return nil
	}
	return &s.value
}

// add puts v in the table. init, if not nil, sets up the stored value before
// anyone can find it.
func (t *idTable[T]) add(init func(id uint64, v *T)) (uint64, *T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var slot uint32
	if n := len(t.free); n > 0 {
		slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		t.next++
		slot = t.next
	}
	page := t.pageLocked(slot >> idPageBits)
	i := slot % idPageLen
	s := &idSlot[T]{id: uint64(t.epoch+page.gens[i])<<32 | uint64(slot)}
	init(s.id, &s.value)
	page.slots[i].Store(s)
	t.count++
	t.most = max(t.most, t.count)
	return s.id, &s.value
}

// diverge keeps the identifiers of new objects from being those that another
// process has handed out.
func (t *idTable[T]) diverge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch = rand.Uint32()
}

// remove takes id out of the table; it reports whether it was there.
func (t *idTable[T]) remove(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	pages := t.pages.Load()
	slot := uint32(id)
	if pages == nil || int(slot>>idPageBits) >= len(*pages) {
		return false
	}
	page := (*pages)[slot>>idPageBits]
	i := slot % idPageLen
	s := page.slots[i].Load()
	if s == nil || s.id != id {
		return false
	}
	page.slots[i].Store(nil)
	page.gens[i]++
	t.count--
	if t.most >= many && t.count < t.most/8 {
		t.most = t.count
		t.shrunk.Store(true)
	}
	t.free = append(t.free, slot)
	return true
}

// len returns the number of objects in the table.
func (t *idTable[T]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// each calls f for every object in the table at some moment of the call, until
// f returns false. It starts at slot from, wraps around, and returns the slot
// after the last one seen.
func (t *idTable[T]) each(from uint32, f func(id uint64, v *T) bool) (next uint32) {
	pages := t.pages.Load()
	if pages == nil {
		return 0
	}
	n := uint32(len(*pages)) << idPageBits
	for i := uint32(0); i < n; i++ {
		slot := (from + i) % n
		s := (*pages)[slot>>idPageBits].slots[slot%idPageLen].Load()
		if s != nil && !f(s.id, &s.value) {
			return (slot + 1) % n
		}
	}
	return from
}

// pageLocked returns page i and makes it if the table does not have it yet.
func (t *idTable[T]) pageLocked(i uint32) *idPage[T] {
	var pages []*idPage[T]
	if p := t.pages.Load(); p != nil {
		pages = *p
	}
	if int(i) < len(pages) {
		return pages[i]
	}
	grown := make([]*idPage[T], i+1)
	copy(grown, pages)
	for j := len(pages); j < len(grown); j++ {
		grown[j] = new(idPage[T])
	}
	t.pages.Store(&grown)
	return grown[i]
}
