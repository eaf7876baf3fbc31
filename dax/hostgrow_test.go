package dax

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blind makes a manager that does not notice what others do to files, as where fanotify
// is not to be had or is late, and a guest that sees f in the first range.
func blind(t *testing.T, f *testFile) (*Manager, *Op, *guest) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	show(t, m, op, f, 0, 0)
	m.watch.remove(f.state())
	return m, op, startGuest(t, m)
}

// grow has somebody else write b behind the end of f.
func grow(t *testing.T, f *testFile, b string) {
	t.Helper()
	h, err := os.OpenFile(f.Name(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.WriteString(b); err != nil {
		t.Fatal(err)
	}
}

func hostContent(t *testing.T, f *testFile) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostAppendIsNotOverwritten has the guest store to the last page of a file, and
// somebody else append to it. Neither is lost, whatever writes the page back.
func TestHostAppendIsNotOverwritten(t *testing.T) {
	appended := strings.Repeat("appended on the host", 300) // more than the rest of the page
	for _, c := range []struct {
		name string
		do   func(m *Manager, op *Op, f *testFile) error
	}{
		{"fsync", func(m *Manager, op *Op, f *testFile) error { return m.Sync(op, &f.Inode) }},
		{"reclaim", func(m *Manager, op *Op, f *testFile) error { m.Reclaim(0); return nil }},
		{"refresh", func(m *Manager, op *Op, f *testFile) error { m.refresh(op, f.state()); return nil }},
		{"catch up", func(m *Manager, op *Op, f *testFile) error {
			if !f.Behind(100 + uint64(len(appended))) {
				t.Error("the window knows of what was appended")
			}
			op.CatchUp(&f.Inode)
			if f.Behind(100 + uint64(len(appended))) {
				t.Error("the window does not show what was appended")
			}
			return nil
		}},
		{"unmap", func(m *Manager, op *Op, f *testFile) error {
			return m.RemoveMappings(op, []RemoveMapping{{0, RangeSize}})
		}},
		{"the guest's own append", func(m *Manager, op *Op, f *testFile) error {
			if err := op.BeginWrite(&f.Inode, 0, 5, true, nil); err != nil {
				return err
			}
			defer op.End()
			grow(t, f, "guest")
			return nil
		}},
		{"the guest's truncate to a larger size", func(m *Manager, op *Op, f *testFile) error {
			if err := op.BeginTruncate(&f.Inode, 9000); err != nil {
				return err
			}
			defer op.End()
			return unix.Truncate(f.Name(), 9000)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newTestFile(t, 100, 'a')
			m, op, g := blind(t, f)
			g.write(10, []byte("stored"))
			grow(t, f, appended)
			if err := c.do(m, op, f); err != nil {
				t.Fatal(err)
			}
			if err := m.Sync(op, &f.Inode); err != nil {
				t.Fatal(err)
			}
			want := append(bytes.Repeat([]byte{'a'}, 100), appended...)
			copy(want[10:], "stored")
			if got := hostContent(t, f); !bytes.HasPrefix(got, want) {
				t.Errorf("the file has %d bytes that begin with %q, want %q", len(got), got[:150], want[:150])
			}
		})
	}
}

// TestGuestStoresBehindTheOldEnd has the file made longer in each way that there is, and
// the guest store there: that reaches the file.
func TestGuestStoresBehindTheOldEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(op *Op, f *testFile) error
		do    func(f *testFile) error
	}{
		{"write", func(op *Op, f *testFile) error { return op.BeginWrite(&f.Inode, 8000, 1000, false, nil) },
			func(f *testFile) error { _, err := f.WriteAt(make([]byte, 1000), 8000); return err }},
		{"append", func(op *Op, f *testFile) error { return op.BeginWrite(&f.Inode, 0, 9000, true, nil) },
			func(f *testFile) error { _, err := f.WriteAt(make([]byte, 9000), 100); return err }},
		{"truncate", func(op *Op, f *testFile) error { return op.BeginTruncate(&f.Inode, 9000) },
			func(f *testFile) error { return f.Truncate(9000) }},
		{"fallocate", func(op *Op, f *testFile) error { return op.BeginFallocate(&f.Inode, 0, 0, 9000) },
			func(f *testFile) error { return unix.Fallocate(int(f.Fd()), 0, 0, 9000) }},
		{"copy", func(op *Op, f *testFile) error { return op.BeginCopy(&f.Inode, 0, &f.Inode, 8950, 50) },
			func(f *testFile) error {
				from, to := int64(0), int64(8950)
				_, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, 50, 0)
				return err
			}},
		{"on the host", func(op *Op, f *testFile) error { return nil },
			func(f *testFile) error { return f.Truncate(9000) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newTestFile(t, 100, 'a')
			m, op, g := blind(t, f)
			if got := g.read(0, 1); got[0] != 'a' {
				t.Fatalf("the guest reads %q", got)
			}
			if err := c.begin(op, f); err != nil {
				t.Fatal(err)
			}
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			op.End()
			if c.name == "on the host" {
				op.CatchUp(&f.Inode) // as when the guest is told of the size
			}
			g.write(200, []byte("first page"))
			g.write(8500, []byte("last page"))
			if err := m.Sync(op, &f.Inode); err != nil {
				t.Fatal(err)
			}
			got := hostContent(t, f)
			if len(got) < 9000 || string(got[200:210]) != "first page" || string(got[8500:8509]) != "last page" {
				t.Errorf("the file has %d bytes, %q and %q", len(got), got[200:210], got[8500:8509])
			}
		})
	}
}

// TestHostAppendBesideTheGuestsWrite has somebody else append while the guest's WRITE, which
// makes the file longer too, is under way: what is behind the pages that it took away from
// the window is not shown by that.
func TestHostAppendBesideTheGuestsWrite(t *testing.T) {
	f := newTestFile(t, 100, 'a')
	m, op, g := blind(t, f)
	if got := g.read(8192, 1); got[0] != 0 {
		t.Fatalf("behind the end there is %q", got)
	}
	if err := op.BeginWrite(&f.Inode, 100, 100, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{'g'}, 100), 100); err != nil {
		t.Fatal(err)
	}
	grow(t, f, strings.Repeat("h", 10000))
	op.End()
	if !f.Behind(10200) {
		t.Fatal("the window is taken to show what was appended")
	}
	op.CatchUp(&f.Inode)
	if f.Behind(10200) {
		t.Error("the window does not show what was appended")
	}
	if got := g.read(8192, 1); got[0] != 'h' {
		t.Errorf("the guest reads %q", got)
	}
	g.write(8193, []byte("stored"))
	if err := m.Sync(op, &f.Inode); err != nil {
		t.Fatal(err)
	}
	if got := hostContent(t, f); len(got) != 10200 || string(got[8192:8200]) != "hstoredh" || got[199] != 'g' {
		t.Errorf("the file has %d bytes, %q", len(got), got[8192:8200])
	}
}
