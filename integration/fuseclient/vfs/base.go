package vfs

import "slices"

// base is where a view begins: its root directory and the way down to it. It stands for the dentries that a directory
// descriptor pins, so it follows when directories are moved and removed through this kernel.
type base struct {
	way  []node // protected by tree.basesMu
	dead bool   // the root of the view was removed
}

func (t *tree) addBase(way []node) *base {
	b := &base{way: way}
	t.basesMu.Lock()
	defer t.basesMu.Unlock()
	t.bases[b] = true
	return b
}

func (t *tree) removeBase(b *base) {
	t.basesMu.Lock()
	way := b.way
	b.way = nil
	delete(t.bases, b)
	t.basesMu.Unlock()
	for _, n := range way {
		t.forget(n)
	}
}

// start is a copy of the way, without its references.
func (b *base) start(t *tree) (way []node, dead bool) {
	t.basesMu.Lock()
	defer t.basesMu.Unlock()
	way = append(make([]node, 0, len(b.way)+8), b.way...)
	for i := range way {
		way[i].owned = false
	}
	return way, b.dead
}

// removed tells that a directory has no name any more.
func (t *tree) removed(id uint64) {
	t.basesMu.Lock()
	defer t.basesMu.Unlock()
	for b := range t.bases {
		if n := len(b.way); n > 0 && b.way[n-1].id == id {
			b.dead = true
		}
	}
}

// moved tells that a directory lies at the end of newPath now, seen from v.
func (v *view) moved(id uint64, newPath string) {
	t := v.t
	t.basesMu.Lock()
	var affected []*base
	for b := range t.bases {
		if slices.ContainsFunc(b.way, func(n node) bool { return n.id == id }) {
			affected = append(affected, b)
		}
	}
	t.basesMu.Unlock()
	for _, b := range affected {
		w := v.walk()
		if _, err := w.toParent(newPath); err != nil {
			w.close()
			continue
		}
		t.basesMu.Lock()
		i := slices.IndexFunc(b.way, func(n node) bool { return n.id == id })
		var old []node
		if i >= 0 {
			old = b.way[:i]
			b.way = append(w.stack, b.way[i:]...)
		} else {
			old = w.stack
		}
		t.basesMu.Unlock()
		for _, n := range old {
			t.forget(n)
		}
	}
}
