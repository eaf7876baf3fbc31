package guestmem

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

const page = 4096

// file is a file that regions are made of, and the test's own view of it.
type file struct {
	t   testing.TB
	fd  int
	ino uint64
}

// newFile makes a memfd of n bytes in which each page has its number in every byte.
func newFile(t testing.TB, n int) *file {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for i := range n / page {
		if _, err := unix.Pwrite(fd, bytes.Repeat([]byte{byte(i)}, page), int64(i*page)); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return &file{t, fd, st.Ino}
}

func (f *file) dup() int {
	f.t.Helper()
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return fd
}

// mappings returns how often the file is mapped, open how many descriptors of it
// there are besides the test's.
func (f *file) mappings() (n int) {
	f.t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if x := strings.Fields(line); len(x) > 5 && x[4] == strconv.FormatUint(f.ino, 10) && strings.Contains(x[5], "memfd:") {
			n++
		}
	}
	return n
}

func (f *file) open() (n int) {
	f.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, d := range fds {
		fd, _ := strconv.Atoi(d.Name())
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Ino == f.ino {
			n++
		}
	}
	return n - 1
}

func (f *file) check(m *Memory, when string, mappings, open int) {
	f.t.Helper()
	m.Settle()
	if n := f.mappings(); n != mappings {
		f.t.Errorf("%s: %d mappings, want %d", when, n, mappings)
	}
	if n := f.open(); n != open {
		f.t.Errorf("%s: %d descriptors, want %d", when, n, open)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRegionsAreChecked lists what is refused; no descriptor is left of it, and
// the memory is as before.
func TestRegionsAreChecked(t *testing.T) {
	const top = ^uint64(0)
	for _, x := range []struct {
		name  string
		specs []RegionSpec
		ok    bool
	}{
		{"none", nil, true},
		{"one", []RegionSpec{{0, 0, page, 0, 0, RAM}}, true},
		{"two that adjoin", []RegionSpec{{page, page, page, 0, 0, RAM}, {0, 0, page, 0, 0, RAM}}, true},
		{"two in another order in the front-end", []RegionSpec{{page, 0, page, 0, 0, RAM}, {0, page, page, 0, 0, RAM}}, true},
		{"up to the last address", []RegionSpec{{top - page + 1, top - page + 1, page, 0, 0, RAM}}, true},
		{"at an odd offset", []RegionSpec{{0, 0, 100, 5001, 0, RAM}}, true},
		{"a file to its end", []RegionSpec{{0, 0, 2 * page, 2 * page, 0, RAM}}, true},
		{"empty", []RegionSpec{{0, 0, 0, 0, 0, RAM}}, false},
		{"over the last guest address", []RegionSpec{{top - page + 2, 0, page, 0, 0, RAM}}, false},
		{"over the last user address", []RegionSpec{{0, top - page + 2, page, 0, 0, RAM}}, false},
		{"over the last offset", []RegionSpec{{0, 0, page, top, 0, RAM}}, false},
		{"past any file", []RegionSpec{{0, 0, page, 1 << 62, 0, Window}}, false},
		{"of all addresses", []RegionSpec{{0, 0, top, 0, 0, RAM}}, false},
		{"RAM longer than its file", []RegionSpec{{0, 0, 5 * page, 0, 0, RAM}}, false},
		{"RAM behind the end of its file", []RegionSpec{{0, 0, page, 4 * page, 0, RAM}}, false},
		{"overlap in the guest", []RegionSpec{{0, 0, 2 * page, 0, 0, RAM}, {page, 9 * page, page, 0, 0, RAM}}, false},
		{"overlap in the front-end", []RegionSpec{{0, 0, 2 * page, 0, 0, RAM}, {9 * page, page, page, 0, 0, RAM}}, false},
		{"the same twice", []RegionSpec{{0, 0, page, 0, 0, RAM}, {0, 0, page, 0, 0, RAM}}, false},
		{"a wrong one among good ones", []RegionSpec{{0, 0, page, 0, 0, RAM}, {page, page, 0, 0, 0, RAM}, {2 * page, 2 * page, page, 0, 0, RAM}}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFile(t, 4*page)
			var m Memory
			must(t, m.Add(RegionSpec{GuestAddr: 100 * page, UserAddr: 100 * page, Size: page, FD: f.dup()}))
			for i := range x.specs {
				x.specs[i].FD = f.dup()
			}
			err := m.Replace(x.specs)
			if (err == nil) != x.ok {
				t.Fatalf("error %v", err)
			}
			mappings := len(x.specs)
			if err != nil {
				mappings = 1
			}
			f.check(&m, "after Replace", mappings, 0)
			must(t, m.Replace(nil))
			f.check(&m, "at the end", 0, 0)
		})
	}
}

// TestAddAndRemove checks that Remove takes exactly the region it names.
func TestAddAndRemove(t *testing.T) {
	f := newFile(t, 4*page)
	var m Memory
	add := func(gpa, user uint64, kind Kind) error {
		return m.Add(RegionSpec{GuestAddr: gpa, UserAddr: user, Size: page, FD: f.dup(), Kind: kind})
	}
	must(t, add(0, 0x1000, RAM))
	must(t, add(0x1000, 0x2000, Window))
	if add(0x800, 0x9000, RAM) == nil || add(0x9000, 0x1800, RAM) == nil {
		t.Error("an overlap is accepted")
	}
	f.check(&m, "with two regions", 1, 1)
	for _, x := range [][3]uint64{{0, 0x1000, 0}, {0, 0x1000, 2 * page}, {0, 0x2000, page}, {0x1000, 0x1000, page}, {0x800, 0x1800, page}} {
		if err := m.Remove(x[0], x[1], x[2]); !errors.Is(err, ErrNotMapped) {
			t.Errorf("removing %x: %v", x, err)
		}
	}
	must(t, m.Remove(0x1000, 0x2000, page))
	f.check(&m, "without the window", 1, 0)
	must(t, m.Remove(0, 0x1000, page))
	f.check(&m, "with none", 0, 0)
	if n := m.Acquire().Len(); n != 0 {
		t.Errorf("%d regions are left", n)
	}
}

// TestReplaceKeepsMappings checks that a region that is sent again, by another
// descriptor of the same file, is not mapped anew, and that one of another file is.
func TestReplaceKeepsMappings(t *testing.T) {
	f, other := newFile(t, 4*page), newFile(t, 4*page)
	var m Memory
	specs := func(b *file) []RegionSpec {
		return []RegionSpec{
			{GuestAddr: 0, UserAddr: 0, Size: page, FD: f.dup()},
			{GuestAddr: page, UserAddr: page, Size: page, MmapOffset: page, FD: b.dup()},
		}
	}
	must(t, m.Replace(specs(f)))
	old := m.Acquire()
	must(t, m.Replace(specs(f)))
	f.check(&m, "with two tables of the same regions", 2, 0)
	must(t, m.Replace(specs(other)))
	f.check(&m, "with the old table held", 2, 0)
	old.Release()
	f.check(&m, "with the old table gone", 1, 0)
	other.check(&m, "with the new file", 1, 0)
	must(t, m.Replace(nil))
	f.check(&m, "at the end", 0, 0)
	other.check(&m, "at the end", 0, 0)
}

// TestHeldTableStays checks that a table shows what it did when it was acquired,
// and that memory goes with the last reference.
func TestHeldTableStays(t *testing.T) {
	f := newFile(t, 4*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: 4 * page, FD: f.dup()}))
	a, b := m.Acquire(), m.Acquire()
	if !m.Is(a) {
		t.Error("the table just acquired is not the current one")
	}
	must(t, m.Remove(0, 0, 4*page))
	if m.Is(a) {
		t.Error("a table that was replaced is the current one")
	}
	a.Hold()
	for range 3 {
		var got [1]byte
		if !a.Read(got[:], 3*page) || got[0] != 3 {
			t.Fatalf("read %v", got)
		}
		f.check(&m, "while it is held", 1, 0)
		a.Release()
	}
	_ = b
	f.check(&m, "at the end", 0, 0)
}

// TestSpan checks which user addresses a ring may have.
func TestSpan(t *testing.T) {
	f := newFile(t, 8*page)
	var m Memory
	must(t, m.Replace([]RegionSpec{
		{GuestAddr: 0x1000, UserAddr: 0x10000, Size: 2 * page, FD: f.dup()},
		{GuestAddr: 0x9000, UserAddr: 0x12000, Size: page, MmapOffset: 4, FD: f.dup(), Kind: File},
		{GuestAddr: 0xa000, UserAddr: 0x20000, Size: page, FD: f.dup(), Kind: Window},
	}))
	table := m.Acquire()
	for _, x := range []struct {
		addr, n, align uint64
		ok             bool
	}{
		{0x10000, 2 * page, 4096, true},
		{0x10010, 16, 16, true},
		{0x11fff, 1, 1, true},
		{0x10008, 16, 16, false},
		{0x10001, 2, 2, false},
		{0xffff, 1, 1, false},
		{0x11fff, 2, 1, false}, // over two regions
		{0x12000, 16, 4, true},
		{0x12000, 16, 16, false}, // by its place in the file
		{0x12fff, 1, 1, true},
		{0x13000, 1, 1, false},
		{0x20000, 16, 16, false}, // a window
		{0, 1, 1, false},
		{^uint64(0), 1, 1, false},
		{0x10000, ^uint64(0), 1, false},
		{0x10010, ^uint64(0) - 8, 16, false},
	} {
		if _, err := table.Span(x.addr, x.n, x.align); (err == nil) != x.ok {
			t.Errorf("%#x bytes at %#x, aligned to %d: %v", x.n, x.addr, x.align, err)
		}
	}
	if gpa, err := table.GuestAddr(0x12010, 16); err != nil || gpa != 0x9010 {
		t.Errorf("guest address %#x, %v", gpa, err)
	}
	table.Release()
	must(t, m.Replace(nil))
	m.Settle()
}

// TestSpanWords checks the accessors, at the places that share a word with others.
func TestSpanWords(t *testing.T) {
	mapped, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(t, err)
	defer unix.Munmap(mapped)
	b := mapped[:32]
	s := SpanOf(b)
	for i := range b {
		b[i] = byte(i)
	}
	for off, want := range map[uintptr]uint16{0: 0x0100, 2: 0x0302, 28: 0x1d1c, 30: 0x1f1e} {
		if got := s.Load16(off); got != want {
			t.Errorf("16 bits at %d: %#x, want %#x", off, got, want)
		}
	}
	if got := s.Load32(4); got != 0x07060504 {
		t.Errorf("32 bits: %#x", got)
	}
	if got := s.Load64(24); got != 0x1f1e1d1c1b1a1918 {
		t.Errorf("64 bits: %#x", got)
	}
	s.Put16(2, 0xaaaa)
	s.Put32(4, 0xbbbbbbbb)
	s.Store32(8, 0xcccccccc)
	s.Put64(16, 0xdddddddddddddddd)
	s.Store64(24, 0xeeeeeeeeeeeeeeee)
	want := append([]byte{0, 1, 0xaa, 0xaa, 0xbb, 0xbb, 0xbb, 0xbb, 0xcc, 0xcc, 0xcc, 0xcc, 12, 13, 14, 15},
		append(bytes.Repeat([]byte{0xdd}, 8), bytes.Repeat([]byte{0xee}, 8)...)...)
	if !bytes.Equal(b, want) {
		t.Errorf("memory is %x, want %x", b, want)
	}
	for _, off := range []uintptr{31, 32, ^uintptr(0)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("16 bits at %d are no panic", off)
				}
			}()
			s.Load16(off)
		}()
	}
}

// TestReleasedIsNotAcquired checks that a table or log that has been given up
// between being found and being acquired is left alone.
func TestReleasedIsNotAcquired(t *testing.T) {
	f := newFile(t, page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: page, FD: f.dup()}))
	log, _, _ := newLog(t, 0, page)
	m.SetLog(log)
	table := m.current.Load()
	table.refs.Add(-1) // as if replaced by one that is not seen yet
	log.refs.Add(-2)
	tables, logs := make(chan *Table), make(chan *DirtyLog)
	go func() { tables <- m.Acquire() }()
	go func() { logs <- m.acquireLog() }()
	for range 10 {
		runtime.Gosched()
	}
	var next Memory
	must(t, next.Add(RegionSpec{Size: page, FD: f.dup()}))
	m.current.Store(next.current.Load())
	m.log.Store(nil)
	if got := <-tables; got == table {
		t.Error("a released table was acquired")
	} else {
		got.Release()
	}
	if <-logs == log {
		t.Error("a released log was acquired")
	}
	table.refs.Add(2)
	table.Release()
	table.Release()
	log.refs.Add(1)
	must(t, log.Close())
	must(t, next.Replace(nil))
	next.Settle()
	f.check(&m, "at the end", 0, 0)
}

// TestTablesUnderChange has many users acquire, read and release while the table
// changes. A mapping that goes too early is a fault.
func TestTablesUnderChange(t *testing.T) {
	f := newFile(t, 4*page)
	var m Memory
	var stop atomic.Bool
	var wg sync.WaitGroup
	must(t, m.Add(RegionSpec{Size: 4 * page, FD: f.dup()}))
	for range 3 {
		wg.Go(func() {
			var b Buffers
			var got [2 * page]byte
			for !stop.Load() {
				table := m.Acquire()
				b.Reset(table)
				if err := b.Append(page, 2*page); err == nil {
					if _, err := b.CopyOut(got[:]); err != nil || got[0] != 1 || got[page] != 2 {
						t.Errorf("read %d, %d, %v", got[0], got[page], err)
					}
				}
				table.Release()
				runtime.Gosched()
			}
		})
	}
	for range 500 {
		must(t, m.Remove(0, 0, 4*page))
		must(t, m.Add(RegionSpec{Size: 4 * page, FD: f.dup()}))
	}
	stop.Store(true)
	wg.Wait()
	must(t, m.Replace(nil))
	f.check(&m, "at the end", 0, 0)
}
