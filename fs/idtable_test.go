package fs

import (
	"sync"
	"testing"
)

func TestIDTableNeverNamesTheNextOwner(t *testing.T) {
	var table idTable[int]
	seen := make(map[uint64]bool)
	for i := range 3 * idPageLen {
		id, v := table.add(func(_ uint64, v *int) { *v = i })
		if id == 0 || seen[id] {
			t.Fatalf("id %#x was handed out twice", id)
		}
		seen[id] = true
		if got := table.get(id); got != v || *got != i {
			t.Fatalf("get(%#x) = %v", id, got)
		}
		if i%2 == 0 {
			if !table.remove(id) || table.remove(id) {
				t.Fatal("remove does not tell whether the id was there")
			}
			if table.get(id) != nil {
				t.Fatal("a removed id is still found")
			}
		}
	}
	if n := table.len(); n != 3*idPageLen/2 {
		t.Fatalf("len() = %d", n)
	}
	for _, id := range []uint64{0, 1 << 63, ^uint64(0), 99 << idPageBits, 1<<32 | 77} {
		if seen[id] {
			continue
		}
		if table.get(id) != nil || table.remove(id) {
			t.Errorf("id %#x, never handed out, is found", id)
		}
	}
}

func TestIDTableIsSafeForConcurrentUse(t *testing.T) {
	var table idTable[uint64]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				id, _ := table.add(func(id uint64, v *uint64) { *v = id })
				if v := table.get(id); v == nil || *v != id {
					t.Errorf("get(%#x) = %v", id, v)
				}
				table.each(0, func(id uint64, v *uint64) bool { return *v == id })
				table.remove(id)
			}
		})
	}
	wg.Wait()
	if n := table.len(); n != 0 {
		t.Fatalf("len() = %d", n)
	}
}

func TestTableTellsThatItShrank(t *testing.T) {
	var table idTable[int]
	var ids []uint64
	for range 2 * many {
		id, _ := table.add(func(uint64, *int) {})
		ids = append(ids, id)
	}
	for i, id := range ids {
		table.remove(id)
		if want := i >= len(ids)*7/8; table.shrunk.Load() != want {
			t.Fatalf("after %d of %d: %v", i+1, len(ids), !want)
		}
	}
	table.shrunk.Store(false)
	for range 100 {
		id, _ := table.add(func(uint64, *int) {})
		table.remove(id)
	}
	if table.shrunk.Load() {
		t.Error("a small table is said to have shrunk")
	}
}
