package guestmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// kinds has memory of each kind, and of all together: one region of 64 pages at
// guest address 0, or four of 16, of which the last is RAM again.
var kinds = []struct {
	name  string
	kinds []Kind
}{
	{"RAM", []Kind{RAM}},
	{"file", []Kind{File}},
	{"window", []Kind{Window}},
	{"mixed", []Kind{RAM, Window, File, RAM}},
}

const kindPages = 64

func eachKind(t *testing.T, test func(t *testing.T, f *file, m *Memory)) {
	for _, x := range kinds {
		t.Run(x.name, func(t *testing.T) {
			f := newFile(t, kindPages*page)
			m := new(Memory)
			step := uint64(kindPages / len(x.kinds) * page)
			for i, k := range x.kinds {
				at := uint64(i) * step
				must(t, m.Add(RegionSpec{GuestAddr: at, UserAddr: at, Size: step, MmapOffset: at, FD: f.dup(), Kind: k}))
			}
			test(t, f, m)
			must(t, m.Replace(nil))
			f.check(m, "at the end", 0, 0)
		})
	}
}

// scattered has a range in every page, backwards, and one over all boundaries.
func scattered(t testing.TB, table *Table) *Buffers {
	t.Helper()
	b := new(Buffers)
	b.Reset(table)
	for i := kindPages - 1; i >= 0; i-- {
		must(t, b.Append(uint64(i*page+i), uint32(i+1)))
	}
	must(t, b.Append(page/2, (kindPages-1)*page))
	return b
}

// flat returns the bytes of scattered in guest memory.
func flat(all []byte) (b []byte) {
	for i := kindPages - 1; i >= 0; i-- {
		b = append(b, all[i*page+i:][:i+1]...)
	}
	return append(b, all[page/2:][:(kindPages-1)*page]...)
}

func (f *file) all() []byte {
	f.t.Helper()
	b := make([]byte, kindPages*page)
	if n, err := unix.Pread(f.fd, b, 0); n != len(b) {
		f.t.Fatal(n, err)
	}
	return b
}

// TestCopyOut reads scattered memory in pieces of many sizes.
func TestCopyOut(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		want := flat(f.all())
		for _, piece := range []int{1, 3, 64, 4095, 4096, 100000, len(want)} {
			b := scattered(t, table)
			if b.Len() != len(want) {
				t.Fatalf("%d bytes, want %d", b.Len(), len(want))
			}
			got := make([]byte, 0, len(want)+piece)
			for b.Len() > 0 {
				n, err := b.CopyOut(got[len(got) : len(got)+piece])
				if got = got[:len(got)+n]; err != nil && !(errors.Is(err, ErrShort) && b.Len() == 0) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("pieces of %d: the bytes differ", piece)
			}
			if n, err := b.CopyOut(got[:1]); n != 0 || err != ErrShort {
				t.Errorf("at the end: %d, %v", n, err)
			}
		}
	})
}

// TestCopyIn writes scattered memory, part by part, and some of it twice.
func TestCopyIn(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		b := new(Buffers)
		b.Reset(table)
		want := f.all()
		var src []byte
		for i := kindPages - 1; i >= 0; i-- {
			must(t, b.Append(uint64(i*page+100), 50))
			for k := range 50 {
				src = append(src, byte(i*3+k))
			}
			copy(want[i*page+100:], src[len(src)-50:])
		}
		header := *b
		b.Skip(70)
		if n, err := b.CopyIn(src[70:]); err != nil || n != len(src)-70 {
			t.Fatal(n, err)
		}
		if n, err := b.CopyIn([]byte{1}); n != 0 || err != ErrShort {
			t.Errorf("at the end: %d, %v", n, err)
		}
		// The header comes last.
		if n, err := header.CopyIn(src[:70]); err != nil || n != 70 || header.Len() != len(src)-70 {
			t.Fatal(n, err)
		}
		if !bytes.Equal(f.all(), want) {
			t.Error("memory differs")
		}
	})
}

// TestSkipAndRewind moves the cursor to every place.
func TestSkipAndRewind(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		want := flat(f.all())
		b := scattered(t, table)
		for skip := 0; skip < len(want); skip += 997 {
			b.Rewind()
			b.Skip(skip / 2)
			b.Skip(skip - skip/2)
			var got [1]byte
			if _, err := b.CopyOut(got[:]); err != nil || got[0] != want[skip] || b.Len() != len(want)-skip-1 {
				t.Fatalf("at %d: %v, %v, %d left", skip, got, err, b.Len())
			}
		}
		b.Rewind()
		b.Skip(-5)
		if b.Len() != len(want) {
			t.Error("the cursor went backwards")
		}
		b.Skip(1 << 40)
		if b.Len() != 0 {
			t.Error("something is left at the end")
		}
	})
}

// TestAppendRefuses lists the ranges that are not all memory. Nothing is added.
func TestAppendRefuses(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		must(t, m.Add(RegionSpec{GuestAddr: 1 << 63, UserAddr: 1 << 63, Size: page, FD: f.dup()}))
		must(t, m.Add(RegionSpec{GuestAddr: ^uint64(0) - page + 1, UserAddr: 1<<63 + page, Size: page, FD: f.dup()}))
		table := m.Acquire()
		defer table.Release()
		b := new(Buffers)
		b.Reset(table)
		const end = kindPages * page
		for _, x := range []struct {
			gpa uint64
			n   uint32
			ok  bool
		}{
			{end - 1, 1, true}, {end - 1, 2, false}, {end, 1, false}, {0, 1<<32 - 1, false}, {0, end, true}, {0, end + 1, false},
			{1<<63 - 1, 2, false}, {1 << 63, page, true}, {1 << 63, page + 1, false},
			{^uint64(0), 1, true}, {^uint64(0), 2, false}, {^uint64(0) - 9, 11, false}, {5, 0, true},
		} {
			before := b.Len()
			err := b.Append(x.gpa, x.n)
			if (err == nil) != x.ok {
				t.Errorf("%d bytes at %#x: %v", x.n, x.gpa, err)
			}
			if added := b.Len() - before; x.ok && added != int(x.n) || !x.ok && added != 0 {
				t.Errorf("%d bytes at %#x: %d were added", x.n, x.gpa, added)
			}
		}
	})
}

// TestTransfer moves scattered memory to a file and back, whole and in parts.
func TestTransfer(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		want := flat(f.all())
		host, err := os.Create(filepath.Join(t.TempDir(), "host"))
		must(t, err)
		defer host.Close()
		fd := int(host.Fd())
		for _, part := range []int{len(want), 5, 10000} {
			must(t, host.Truncate(0))
			b := scattered(t, table)
			for off := int64(7); b.Len() > 0 && off < 50000+7; {
				n, err := b.WriteTo(fd, off, part, 0)
				if err != nil || n == 0 || n > part {
					t.Fatal(n, err)
				}
				b.Skip(n)
				off += int64(n)
			}
			n := len(want) - b.Len()
			got := make([]byte, n)
			if _, err := host.ReadAt(got, 7); err != nil || !bytes.Equal(got, want[:n]) {
				t.Fatalf("parts of %d: the file differs, %v", part, err)
			}
		}

		// Back, to other places, from the file's own position.
		content := bytes.Repeat([]byte("0123456789abcdef0"), 3000)
		must(t, host.Truncate(0))
		_, err = host.WriteAt(content, 0)
		must(t, err)
		b := new(Buffers)
		b.Reset(table)
		for i := range kindPages {
			must(t, b.Append(uint64((i*7%kindPages)*page+1), 1000))
		}
		b.Skip(11)
		_, err = host.Seek(3, 0)
		must(t, err)
		rest := *b
		for rest.Len() > 0 {
			n, err := rest.ReadFrom(fd, -1, rest.Len(), 0)
			must(t, err)
			if n == 0 {
				break
			}
			rest.Skip(n)
		}
		n := b.Len() - rest.Len()
		if n != len(content)-3 {
			t.Fatalf("%d bytes were read, the file has %d", n, len(content)-3)
		}
		got := make([]byte, n)
		if _, err := b.CopyOut(got); err != nil || !bytes.Equal(got, content[3:]) {
			t.Fatalf("memory differs, %v", err)
		}
	})
}

// TestTransferOfManySegments has more segments than one system call takes.
func TestTransferOfManySegments(t *testing.T) {
	f := newFile(t, kindPages*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: kindPages * page, FD: f.dup()}))
	table := m.Acquire()
	b := new(Buffers)
	b.Reset(table)
	const n = 2*maxIovecs + 5
	for i := range uint64(n) {
		must(t, b.Append(i*2, 1))
	}
	out := newFile(t, 0)
	if k, err := b.WriteTo(out.fd, 0, n+100, 0); k != n || err != nil {
		t.Fatal(k, err)
	}
	if k, err := b.ReadFrom(out.fd, 1, n, 0); k != n-1 || err != nil {
		t.Fatal(k, err)
	}
	table.Release()
	must(t, m.Replace(nil))
}

// TestNeighboursAreOneSegment checks that ranges that follow each other cost one
// entry of the vector.
func TestNeighboursAreOneSegment(t *testing.T) {
	f := newFile(t, kindPages*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: kindPages * page, FD: f.dup()}))
	table := m.Acquire()
	b := new(Buffers)
	b.Reset(table)
	for i := range uint64(8) {
		must(t, b.Append(i*page, page))
	}
	must(t, b.Append(7*page, page))
	if len(b.segs) != 2 || b.Len() != 9*page {
		t.Errorf("%d segments of %d bytes", len(b.segs), b.Len())
	}
	table.Release()
	must(t, m.Replace(nil))
}

// TestTransferErrors checks that errors are errnos and the cursor stays.
func TestTransferErrors(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		b := scattered(t, table)
		n := b.Len()
		if _, err := b.ReadFrom(-1, 0, 10, 0); err != unix.EBADF {
			t.Errorf("bad descriptor: %v", err)
		}
		if _, err := b.WriteTo(-1, 0, 10, 0); err != unix.EBADF {
			t.Errorf("bad descriptor: %v", err)
		}
		if b.Len() != n {
			t.Error("the cursor moved")
		}
		empty := newFile(t, 0)
		if n, err := b.ReadFrom(empty.fd, 0, 10, 0); n != 0 || err != nil {
			t.Errorf("at the end of a file: %d, %v", n, err)
		}
		if n, err := b.ReadFrom(empty.fd, 0, 0, 0); n != 0 || err != nil {
			t.Errorf("nothing: %d, %v", n, err)
		}
	})
}

// TestMemoryThatIsGone cuts the file behind each kind of memory: every access is
// EFAULT, and a window's file does not grow again.
func TestMemoryThatIsGone(t *testing.T) {
	for _, kind := range []Kind{RAM, File, Window} {
		t.Run(kind.String(), func(t *testing.T) {
			f := newFile(t, 4*page)
			var m Memory
			must(t, m.Add(RegionSpec{Size: 4 * page, FD: f.dup(), Kind: kind}))
			table := m.Acquire()
			b := new(Buffers)
			b.Reset(table)
			must(t, b.Append(2*page-8, 16))
			must(t, unix.Ftruncate(f.fd, 2*page))
			var buf [16]byte
			host := newFile(t, page)
			for name, err := range map[string]error{
				"CopyOut":  second(b.CopyOut(buf[:])),
				"CopyIn":   second(b.CopyIn(buf[:])),
				"WriteTo":  second(skip(b, 8).WriteTo(host.fd, 0, 8, 0)),
				"ReadFrom": second(skip(b, 8).ReadFrom(host.fd, 0, 8, 0)),
			} {
				if err != unix.EFAULT {
					t.Errorf("%s: %v", name, err)
				}
			}
			if b.Len() != 16 {
				t.Error("the cursor moved")
			}
			if table.Read(buf[:], 2*page-8) {
				t.Error("it can be read")
			}
			if !table.Read(buf[:8], 2*page-8) {
				t.Error("what is there can't be read")
			}
			var st unix.Stat_t
			must(t, unix.Fstat(f.fd, &st))
			if st.Size != 2*page {
				t.Errorf("the file has %d bytes", st.Size)
			}
			table.Release()
			must(t, m.Replace(nil))
			f.check(&m, "at the end", 0, 0)
		})
	}
}

func second(_ int, err error) error { return err }

func skip(b *Buffers, n int) *Buffers {
	c := *b
	c.Skip(n)
	return &c
}

// TestWindowParts checks which parts are said to lie in a window, from the cursor on.
func TestWindowParts(t *testing.T) {
	f := newFile(t, kindPages*page)
	var m Memory
	for i, k := range []Kind{RAM, Window, RAM, Window} {
		at := uint64(i * page)
		must(t, m.Add(RegionSpec{GuestAddr: at, UserAddr: at, Size: page, MmapOffset: at, FD: f.dup(), Kind: k}))
	}
	table := m.Acquire()
	b := new(Buffers)
	b.Reset(table)
	must(t, b.Append(0, 100))
	if b.HasWindow() || len(b.AppendWindowParts(nil)) != 0 {
		t.Error("RAM is a window")
	}
	must(t, b.Append(page-10, 2*page)) // over the first window
	must(t, b.Append(3*page+5, 7))
	show := func() (s string) {
		for _, p := range b.AppendWindowParts(nil) {
			s += fmt.Sprintf("%#x+%#x,%d ", p.Region.Spec().GuestAddr, p.Offset, p.Len)
		}
		return s
	}
	if got, want := show(), "0x1000+0x0,4096 0x3000+0x5,7 "; got != want {
		t.Errorf("parts %s, want %s", got, want)
	}
	b.Skip(100 + 10 + 4000)
	if got, want := show(), "0x1000+0xfa0,96 0x3000+0x5,7 "; got != want {
		t.Errorf("parts %s, want %s", got, want)
	}
	if _, err := b.ReadFrom(f.fd, 0, 10, unix.RWF_NOWAIT); err != unix.EAGAIN {
		t.Errorf("a transfer that may not wait: %v", err)
	}
	table.Release()
	must(t, m.Replace(nil))
}

// TestBuffersDoNotAllocate guards the hot path.
func TestBuffersDoNotAllocate(t *testing.T) {
	eachKind(t, func(t *testing.T, f *file, m *Memory) {
		table := m.Acquire()
		defer table.Release()
		b := new(Buffers)
		var buf [100]byte
		host := newFile(t, page)
		if n := testing.AllocsPerRun(100, func() {
			b.Reset(table)
			for i := range uint64(kindPages) {
				b.Append(i*page, 100)
			}
			b.CopyOut(buf[:])
			b.CopyIn(buf[:])
			b.ReadFrom(host.fd, 0, 1000, 0)
			b.WriteTo(host.fd, 0, 1000, 0)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// TestSizeOfOneRequestIsNotKept checks that a huge request does not stay huge.
func TestSizeOfOneRequestIsNotKept(t *testing.T) {
	f := newFile(t, kindPages*page)
	var m Memory
	must(t, m.Add(RegionSpec{Size: kindPages * page, FD: f.dup()}))
	table := m.Acquire()
	var b Buffers
	b.Reset(table)
	for i := range uint64(2 * keptSegments) {
		must(t, b.Append(i*2, 1))
	}
	b.Reset(table)
	if cap(b.segs) > keptSegments || cap(b.where) > keptSegments {
		t.Errorf("room for %d segments is kept", cap(b.segs))
	}
	table.Release()
	must(t, m.Replace(nil))
}

func BenchmarkBuffers(b *testing.B) {
	f := newFile(b, kindPages*page)
	var m Memory
	must(b, m.Add(RegionSpec{Size: kindPages * page, FD: f.dup()}))
	table := m.Acquire()
	b.Cleanup(func() { table.Release(); m.Replace(nil) })
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprintf("CopyOut/segments=%d", n), func(b *testing.B) {
			var x Buffers
			var buf [40]byte
			b.ReportAllocs()
			for b.Loop() {
				x.Reset(table)
				for i := range uint64(n) {
					x.Append(i*2*page, 40)
				}
				x.CopyOut(buf[:])
			}
		})
	}
}
