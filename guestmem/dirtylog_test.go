package guestmem

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// newLog makes a log of size bytes and a function that returns and clears the
// pages in it.
func newLog(t testing.TB, off, size int) (*DirtyLog, *file, func() []int) {
	t.Helper()
	f := newFile(t, (off+size+page-1)/page*page)
	must(t, unix.Ftruncate(f.fd, int64(off+size)))
	_, err := unix.Pwrite(f.fd, make([]byte, off+size), 0)
	must(t, err)
	l, err := NewDirtyLog(f.dup(), uint64(off), uint64(size))
	must(t, err)
	return l, f, func() (pages []int) {
		b := make([]byte, size)
		_, err := unix.Pread(f.fd, b, int64(off))
		must(t, err)
		for i := range size * 8 {
			if b[i/8]>>(i%8)&1 != 0 {
				pages = append(pages, i)
			}
		}
		_, err = unix.Pwrite(f.fd, make([]byte, size), int64(off))
		must(t, err)
		return pages
	}
}

// TestWritesAreLogged checks each way to write, in each kind of memory.
func TestWritesAreLogged(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		log, _, dirty := newLog(t, 8, kindPages/8)
		m.SetLog(log)
		must(t, log.Close())
		table := m.Acquire()
		defer table.Release()
		host := newFile(t, 2*page)
		b := new(Buffers)
		var buf [2 * page]byte
		for _, x := range []struct {
			name string
			act  func() error
			want []int
		}{
			{"CopyIn", func() error { return second(b.CopyIn(buf[:1])) }, []int{3}},
			{"CopyIn over two pages", func() error { return second(b.CopyIn(buf[:3])) }, []int{3, 4}},
			{"CopyIn behind the cursor", func() error { b.Skip(2); return second(b.CopyIn(buf[:3])) }, []int{4}},
			{"CopyIn to the second range", func() error { b.Skip(page); return second(b.CopyIn(buf[:1])) }, []int{40}},
			{"CopyIn to both", func() error { b.Skip(page - 1); return second(b.CopyIn(buf[:2])) }, []int{4, 40}},
			{"CopyOut", func() error { return second(b.CopyOut(buf[:])) }, nil},
			{"ReadFrom", func() error { return second(b.ReadFrom(host.fd, 0, 2*page, 0)) }, []int{3, 4, 40, 41}},
			{"ReadFrom of what the file has", func() error { return second(b.ReadFrom(host.fd, 2*page-1, 100, 0)) }, []int{3}},
			{"ReadFrom at its end", func() error { return second(b.ReadFrom(host.fd, 2*page, 100, 0)) }, nil},
			{"WriteTo", func() error { return second(b.WriteTo(host.fd, 0, 100, 0)) }, nil},
			{"MarkDirty", func() error { m.MarkDirty(31*page+5, 2*page); return nil }, []int{31, 32, 33}},
			{"MarkDirty of many", func() error { m.MarkDirty(1, kindPages*page-1); return nil }, numbers(kindPages)},
			{"MarkDirty of nothing", func() error { m.MarkDirty(5, 0); return nil }, nil},
			{"MarkDirty over the end", func() error { m.MarkDirty((kindPages-1)*page, 100*page); return nil }, []int{63}},
			{"MarkDirty behind the end", func() error { m.MarkDirty(kindPages*page, 1); return nil }, nil},
		} {
			b.Reset(table)
			must(t, b.Append(3*page+page-2, page))
			must(t, b.Append(40*page+page/2, page))
			if err := x.act(); err != nil {
				t.Errorf("%s: %v", x.name, err)
			}
			if got := dirty(); fmt.Sprint(got) != fmt.Sprint(x.want) {
				t.Errorf("%s marks %v, want %v", x.name, got, x.want)
			}
		}
		if n := m.LogMissed(); n != 2 {
			t.Errorf("%d writes had no page in the log, want 2", n)
		}
		m.SetLog(nil)
	})
}

func numbers(n int) (s []int) {
	for i := range n {
		s = append(s, i)
	}
	return s
}

// TestRequestsUnderWayAreLogged checks that a log that is set is used by requests
// that have begun before, and left by them when it is set no more.
func TestRequestsUnderWayAreLogged(t *testing.T) {
	f := newFile(t, 8*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: 8 * page, FD: f.dup()}))
	table := m.Acquire()
	var b Buffers
	b.Reset(table)
	must(t, b.Append(5*page, 100))
	log, lf, dirty := newLog(t, 0, 8)
	m.SetLog(log)
	if _, err := b.CopyIn([]byte{1}); err != nil || fmt.Sprint(dirty()) != "[5]" {
		t.Error("a request under way is not logged")
	}
	must(t, log.Close())
	lf.check(&m, "while it is set", 1, 0)
	m.SetLog(nil)
	lf.check(&m, "when it is not set any more", 0, 0)
	if _, err := b.CopyIn([]byte{1}); err != nil || len(dirty()) != 0 {
		t.Error("a request is logged after the end of the log")
	}
	table.Release()
	must(t, m.Replace(nil))
}

// TestLogsThatCannotBe lists what is refused. No descriptor is left of it.
func TestLogsThatCannotBe(t *testing.T) {
	f := newFile(t, page)
	for _, x := range []struct {
		off, size uint64
		ok        bool
	}{
		{0, page, true}, {8, page - 8, true}, {4, 3, true},
		{0, 0, false}, {0, page + 1, false}, {page, 1, false}, {2, 4, false}, {^uint64(3), 8, false}, {0, ^uint64(0), false}, {1 << 62, 1 << 62, false},
	} {
		l, err := NewDirtyLog(f.dup(), x.off, x.size)
		if (err == nil) != x.ok {
			t.Errorf("%#x bytes at %#x: %v", x.size, x.off, err)
		}
		if l != nil {
			must(t, l.Close())
		}
	}
	f.check(new(Memory), "at the end", 0, 0)
}

// TestLogUnderChange sets and drops logs while others write, and shares words of
// one log between writers. A log that goes too early is a fault.
func TestLogUnderChange(t *testing.T) {
	f := newFile(t, kindPages*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: kindPages * page, FD: f.dup()}))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			table := m.Acquire()
			defer table.Release()
			var b Buffers
			for i := w; !stop.Load(); i += 3 {
				b.Reset(table)
				must(t, b.Append(uint64(i%kindPages)*page, 8))
				if _, err := b.CopyIn([]byte{1}); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
		})
	}
	lf := newFile(t, page)
	for range 300 {
		l, err := NewDirtyLog(lf.dup(), 0, page)
		must(t, err)
		m.SetLog(l)
		must(t, l.Close())
	}
	m.SetLog(nil)
	stop.Store(true)
	wg.Wait()
	lf.check(&m, "at the end", 0, 0)
	must(t, m.Replace(nil))
}
