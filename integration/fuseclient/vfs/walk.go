package vfs

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40
	pathMax  = 4096
	nameMax  = 255
)

// walk resolves a path. The stack is the way from the root of the mount down. close gives back the references that the
// walk took; those of the view's base stay.
type walk struct {
	v     *view
	stack []node
	links int
	dead  bool // the view's root was removed
}

func (v *view) walk() *walk {
	w := &walk{v: v}
	w.stack, w.dead = v.base.start(v.t)
	return w
}

func (w *walk) top() *node { return &w.stack[len(w.stack)-1] }

// keep gives the last node with its reference, if the walk has one, to the caller.
func (w *walk) keep() node {
	n := *w.top()
	w.top().owned = false
	return n
}

func (w *walk) pop() {
	if len(w.stack) > 1 {
		w.v.t.forget(*w.top())
		w.stack = w.stack[:len(w.stack)-1]
	}
}

func (w *walk) close() {
	for i := len(w.stack) - 1; i >= 0; i-- {
		w.v.t.forget(w.stack[i])
		w.stack[i].owned = false
	}
}

// last is the final component of a path whose directory was resolved.
type last struct {
	name  string
	slash bool // slashes follow it
}

func (l last) special() bool { return l.name == "." || l.name == ".." }

func checkPath(path string) error {
	switch {
	case path == "":
		return unix.ENOENT
	case len(path) >= pathMax:
		return unix.ENAMETOOLONG
	case strings.IndexByte(path, 0) >= 0:
		return unix.EINVAL
	}
	return nil
}

// to resolves the whole path. A last link is followed if follow is set, or a slash behind it asks for it.
func (w *walk) to(path string, follow bool) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if err := w.refreshRoot(); err != nil {
		return err
	}
	_, err := w.run(path, follow, false)
	return err
}

// toParent resolves all but the last component.
func (w *walk) toParent(path string) (last, error) {
	if err := checkPath(path); err != nil {
		return last{}, err
	}
	if err := w.refreshRoot(); err != nil {
		return last{}, err
	}
	return w.run(path, false, true)
}

func (w *walk) refreshRoot() error {
	if w.dead {
		w.top().attr.Nlink = 0
		return nil
	}
	return w.v.refresh(w.top())
}

// run goes on from the top of the stack.
func (w *walk) run(rest string, follow, parent bool) (last, error) {
	if strings.HasPrefix(rest, "/") {
		w.toRoot()
	}
	for {
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			return last{name: "."}, nil
		}
		name := rest
		slash := false
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			name, rest, slash = rest[:i], strings.TrimLeft(rest[i:], "/"), true
		} else {
			rest = ""
		}
		final := rest == ""
		if !w.top().isDir() {
			return last{}, unix.ENOTDIR
		}
		if err := w.v.permission(w.top(), unix.X_OK); err != nil {
			return last{}, err
		}
		if final && parent {
			return last{name, slash}, nil
		}
		switch name {
		case ".":
			continue
		case "..":
			w.pop()
			if err := w.v.refresh(w.top()); err != nil {
				return last{}, err
			}
			w.dead = false
			continue
		}
		if err := w.step(name); err != nil {
			return last{}, err
		}
		if w.top().isLink() && (!final || follow || slash) {
			target, err := w.follow()
			if err != nil {
				return last{}, err
			}
			if slash {
				target += "/" + rest
			}
			if strings.HasPrefix(target, "/") {
				w.toRoot()
			}
			rest = target
			continue
		}
		if final && slash && !w.top().isDir() {
			return last{}, unix.ENOTDIR
		}
	}
}

// step looks up one name in the top directory and pushes what it finds. The caller has checked the permission.
func (w *walk) step(name string) error {
	mu := w.v.t.dir(w.top().id)
	mu.RLock()
	defer mu.RUnlock()
	return w.stepLocked(name)
}

func (w *walk) stepLocked(name string) error {
	n, err := w.v.lookup(w.top(), name)
	if err == nil {
		w.stack = append(w.stack, n)
	}
	return err
}

// lookup is called with the directory's lock.
func (v *view) lookup(dir *node, name string) (node, error) {
	if dir.attr.Nlink == 0 {
		return node{}, unix.ENOENT // IS_DEADDIR
	}
	if len(name) > nameMax {
		return node{}, unix.ENAMETOOLONG
	}
	e, err := v.t.c.Lookup(v.caller(), dir.id, name)
	if err == nil && e.NodeId == 0 {
		err = unix.ENOENT
	}
	return node{id: e.NodeId, attr: e.Attr, owned: err == nil}, err
}

// follow replaces the link on the top of the stack by its target, still to be walked.
func (w *walk) follow() (string, error) {
	if w.links++; w.links > maxLinks {
		return "", unix.ELOOP
	}
	target, err := w.v.t.c.Readlink(w.v.caller(), w.top().id)
	if err != nil {
		return "", err
	}
	w.pop()
	if target == "" {
		return "", unix.ENOENT
	}
	return target, nil
}

func (w *walk) toRoot() {
	for len(w.stack) > 1 {
		w.pop()
	}
	w.v.refresh(w.top())
}

// at resolves a path and calls do with what is there. A node that went stale meanwhile is looked for again, as by
// retry_estale.
func (v *view) at(path string, follow bool, do func(n *node) error) error {
	return retryStale(func() error {
		w := v.walk()
		defer w.close()
		if err := w.to(path, follow); err != nil {
			return err
		}
		return do(w.top())
	})
}

// in resolves a path's directory and calls do, under its lock, with it and the last component.
func (v *view) in(path string, do func(dir *node, l last) error) error {
	return retryStale(func() error {
		w := v.walk()
		defer w.close()
		l, err := w.toParent(path)
		if err != nil {
			return err
		}
		mu := v.t.dir(w.top().id)
		mu.Lock()
		defer mu.Unlock()
		return do(w.top(), l)
	})
}

// retryStale repeats more often than Linux, which does once: looking up without a cache takes longer, so more can happen
// behind its back.
func retryStale(do func() error) error {
	for i := 0; ; i++ {
		if err := do(); err != unix.ESTALE || i == 5 {
			return err
		}
	}
}

func (t *tree) dir(id uint64) *sync.RWMutex { return &t.dirs[id%uint64(len(t.dirs))] }

// lockTwo locks two directories, which may be one or share a lock.
func (t *tree) lockTwo(a, b uint64) (unlock func()) {
	i, j := a%uint64(len(t.dirs)), b%uint64(len(t.dirs))
	if i > j {
		i, j = j, i
	}
	t.dirs[i].Lock()
	if i == j {
		return t.dirs[i].Unlock
	}
	t.dirs[j].Lock()
	return func() {
		t.dirs[j].Unlock()
		t.dirs[i].Unlock()
	}
}
