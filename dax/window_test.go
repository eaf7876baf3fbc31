package dax

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSetupMappingRefusesLies(t *testing.T) {
	m := testManager(t, Config{Window: 4 * RangeSize})
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	f := newTestFile(t, 100, 'a')
	for _, c := range []struct {
		name               string
		foff, moff, length uint64
	}{
		{"no length", 0, 0, 0},
		{"odd length", 0, 0, 4096},
		{"huge length", 0, 0, 1 << 63},
		{"length over the window", 0, 0, 5 * RangeSize},
		{"past the window", 0, 4 * RangeSize, RangeSize},
		{"across the window's end", 0, 3 * RangeSize, 2 * RangeSize},
		{"window offset overflows", 0, math.MaxUint64 &^ rangeMask, RangeSize},
		{"odd window offset", 0, 4096, RangeSize},
		{"odd file offset", 4096, 0, RangeSize},
		{"file offset too large", math.MaxInt64 &^ rangeMask, 0, 2 * RangeSize},
		{"file offset overflows", math.MaxUint64 &^ rangeMask, 0, RangeSize},
	} {
		if err := m.SetupMapping(op, &f.Inode, f, c.foff, c.moff, c.length, SetupRead); err != unix.EINVAL {
			t.Errorf("%s: %v, want EINVAL", c.name, err)
		}
	}
	for _, e := range []RemoveMapping{{0, 0}, {4096, RangeSize}, {0, 1 << 63}, {4 * RangeSize, RangeSize}, {math.MaxUint64 &^ rangeMask, 2 * RangeSize}} {
		if err := m.RemoveMappings(op, []RemoveMapping{e}); err != unix.EINVAL {
			t.Errorf("removing %+v: %v, want EINVAL", e, err)
		}
	}
	show(t, m, op, f, 0, 1)
	// A bad entry does not keep the good ones from being done.
	if err := m.RemoveMappings(op, []RemoveMapping{{1, 1}, {RangeSize, RangeSize}}); err != unix.EINVAL {
		t.Errorf("%v, want EINVAL", err)
	}
	if f.Mapped() {
		t.Error("still mapped")
	}
	if err := m.RemoveMappings(op, []RemoveMapping{{RangeSize, RangeSize}}); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
}

func TestSetupReplacesWhatIsThere(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	g := startGuest(t, m)
	op := m.NewOp()
	a, b := newTestFile(t, RangeSize, 'a'), newTestFile(t, 2*RangeSize, 'b')
	show(t, m, op, a, 0, 1)
	g.write(RangeSize, []byte("dirty"))
	show(t, m, op, b, RangeSize, 1)
	if got := a.bytes(t, 0, 6); string(got) != "dirtya" {
		t.Errorf("the replaced file has %q", got)
	}
	if a.Mapped() {
		t.Error("the replaced file is still mapped")
	}
	if got := g.read(RangeSize, 3); string(got) != "bbb" {
		t.Errorf("the guest reads %q", got)
	}
	// The same piece of the file elsewhere: there it is from now on.
	show(t, m, op, b, RangeSize, 2)
	if got := g.read(2*RangeSize, 3); string(got) != "bbb" {
		t.Errorf("the guest reads %q", got)
	}
	if got := g.read(RangeSize, 3); !bytes.Equal(got, make([]byte, 3)) {
		t.Errorf("the old place reads %q", got)
	}
}

func TestUpgradeLeavesNoHole(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	g := startGuest(t, m)
	op := m.NewOp()
	f := newTestFile(t, 4096, 'a')
	if err := m.SetupMapping(op, &f.Inode, f, 0, 0, RangeSize, SetupRead); err != nil {
		t.Fatal(err)
	}
	same := g.start(guestCall{Op: "watch", Len: 4096, Seed: 'a'})
	for range 50 {
		if err := m.SetupMapping(op, &f.Inode, f, 0, 0, RangeSize, SetupRead|SetupWrite); err != nil {
			t.Fatal(err)
		}
	}
	g.do(guestCall{Op: "stop"})
	if r := <-same; r.N != 0 {
		t.Errorf("the guest has seen %d bytes that are not the file's", r.N)
	}
	g.write(10, []byte("hello"))
	if err := m.Sync(op, &f.Inode); err != nil {
		t.Error(err)
	}
	if got := f.bytes(t, 9, 7); string(got) != "ahelloa" {
		t.Errorf("file has %q", got)
	}
}

func TestFilesOfAnyShape(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, time.Minute)
	g := startGuest(t, m)
	op := m.NewOp()
	for _, size := range []int64{0, 1, 13, 4095, 4096, 4097, RangeSize - 1, RangeSize, RangeSize + 6} {
		f := newTestFile(t, size, 'x')
		show(t, m, op, f, 0, 0)
		n := uint64(min(size, RangeSize))
		if r := g.do(guestCall{Op: "sum", Len: n, Seed: 'x'}); r.N != 0 {
			t.Errorf("size %d: %d wrong bytes", size, r.N)
		}
		if n < RangeSize {
			if r := g.do(guestCall{Op: "sum", Off: n, Len: RangeSize - n}); r.N != 0 {
				t.Errorf("size %d: %d bytes after the end are not zero", size, r.N)
			}
		}
		if size+16 < RangeSize {
			// Growing by append: the tail page was cached, and dirty past the end.
			g.write(n, []byte("past the end"))
			writeFile(t, op, f, size, []byte("appended"))
			if got := g.read(n, 9); string(got) != "appended\x00" {
				t.Errorf("size %d: after an append the guest reads %q", size, got)
			}
		}
		// Shrinking and growing again must not bring old bytes back.
		if size > 4096 {
			for _, s := range []int64{100, size} {
				if err := op.BeginTruncate(&f.Inode, uint64(s)); err != nil {
					t.Fatal(err)
				}
				f.Truncate(s)
				op.End()
				g.read(50, 100)
			}
			if r := g.do(guestCall{Op: "sum", Off: 100, Len: n - 100}); r.N != 0 {
				t.Errorf("size %d: %d old bytes after shrinking and growing", size, r.N)
			}
		}
		if err := m.RemoveMappings(op, []RemoveMapping{{0, RangeSize}}); err != nil {
			t.Error(err)
		}
	}
}

// TestRandomWindow sets up, replaces, removes, writes, truncates, reclaims and
// resets at random from several threads, and checks the table after each step.
func TestRandomWindow(t *testing.T) {
	const ranges, nfiles = 8, 4
	m := testManager(t, Config{Window: ranges * RangeSize, Memory: 4 * RangeSize})
	watchdog(t, m, time.Minute)
	g := startGuest(t, m)
	faults := g.start(guestCall{Op: "fault", Len: ranges * RangeSize})
	var files [nfiles]*testFile
	for i := range files {
		files[i] = newTestFile(t, 3*RangeSize, 'a')
	}
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			op := m.NewOp()
			rnd := rand.New(rand.NewPCG(1, w))
			for range 150 {
				f, i := files[rnd.IntN(nfiles)], uint32(rnd.IntN(ranges))
				switch rnd.IntN(8) {
				case 0, 1, 2:
					show(t, m, op, f, uint64(rnd.IntN(3))*RangeSize, i)
				case 3, 4:
					if err := m.RemoveMappings(op, []RemoveMapping{{uint64(i) * RangeSize, RangeSize}}); err != nil {
						t.Error(err)
					}
				case 5:
					writeFile(t, op, f, rnd.Int64N(2*RangeSize), bytes.Repeat([]byte{'a'}, 9000))
				case 6:
					if err := m.Sync(op, &f.Inode); err != nil {
						t.Error(err)
					}
				case 7:
					if rnd.IntN(10) == 0 {
						m.Reset()
					} else {
						m.Reclaim(RangeSize)
					}
				}
				if err := m.Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	g.do(guestCall{Op: "stop"})
	<-faults
	m.Destroy()
	for _, f := range files {
		if f.Mapped() {
			t.Error("a file is mapped after Destroy")
		}
		if b := f.bytes(t, 0, 3*RangeSize); bytes.Count(b, []byte{'a'}) != len(b) {
			t.Error("a file has changed")
		}
	}
	t.Logf("%+v", m.Stats())
}

// TestResetMapsAgain lets the front-end forget the window by itself, as it does at
// a reset of the machine, and keep it, as in a pause.
func TestResetMapsAgain(t *testing.T) {
	m := testManager(t, Config{})
	op := m.NewOp()
	f := newTestFile(t, RangeSize, 'a')
	fe := newFakeFrontend()
	m.SetMapper(fe)
	show(t, m, op, f, 0, 0)
	segments := len(fe.maps)
	if segments == 0 || segments > managedSegments {
		t.Fatalf("%d mappings for the window", segments)
	}
	for _, forgets := range []bool{true, false} {
		if forgets {
			fe.maps = make(map[uint64]uint64)
		}
		m.Reset()
		if f.Mapped() {
			t.Error("still mapped after a reset")
		}
		show(t, m, op, f, 0, 0)
		if len(fe.maps) != segments {
			t.Errorf("forgets=%v: %d mappings after a reset, want %d", forgets, len(fe.maps), segments)
		}
	}
	m.Destroy()
	if len(fe.maps) != 0 {
		t.Errorf("%d mappings after Destroy", len(fe.maps))
	}
	show(t, m, op, f, 0, 0)
	// A front-end that refuses.
	m.Reset()
	fe.fail = errors.New("refused")
	if err := m.SetupMapping(op, &f.Inode, f, 0, 0, RangeSize, SetupRead); err != unix.EIO {
		t.Errorf("%v, want EIO", err)
	}
	m.SetMapper(nil)
	if err := m.SetupMapping(op, &f.Inode, f, 0, 0, RangeSize, SetupRead); err != unix.EIO {
		t.Errorf("with no front-end: %v, want EIO", err)
	}
	fe.fail = nil
	m.SetMapper(fe)
	show(t, m, op, f, 0, 0)
}

// TestPauseHoldsSetups has the front-end's rings stopped: setting a mapping up changes
// nothing and can be repeated, and removing one fails in no case.
func TestPauseHoldsSetups(t *testing.T) {
	for _, backing := range []Backing{Managed, Passthrough} {
		t.Run(backing.String(), func(t *testing.T) {
			m := testManager(t, Config{Backing: backing})
			op := m.NewOp()
			a, b := newTestFile(t, RangeSize, 'a'), newTestFile(t, RangeSize, 'b')
			fe := newFakeFrontend()
			m.SetMapper(fe)
			held := func() {
				t.Helper()
				if err := m.SetupMapping(op, &b.Inode, b, 0, 0, RangeSize, SetupRead); err != ErrSuspended {
					t.Errorf("%v, want ErrSuspended", err)
				}
				if b.Mapped() {
					t.Error("the file is mapped")
				}
			}
			for _, pause := range []error{ErrSuspended, errors.Join(ErrSuspended, ErrUncertain)} {
				fe.fail = pause
				held()
				fe.fail = nil
				show(t, m, op, a, 0, 0)
				before := len(fe.maps)
				if backing == Passthrough {
					fe.fail = pause
					if err := m.RemoveMappings(op, []RemoveMapping{{0, RangeSize}}); err != nil {
						t.Error(err)
					}
					held()
					fe.fail = nil
				}
				show(t, m, op, b, 0, 0)
				if len(fe.maps) != before {
					t.Errorf("%d mappings, want %d", len(fe.maps), before)
				}
				m.Destroy()
				if len(fe.maps) != 0 {
					t.Errorf("%d mappings are left", len(fe.maps))
				}
			}
			if s := m.Stats(); s.SetupsHeld == 0 || s.SetupErrors != 0 {
				t.Errorf("%d setups held, %d failed", s.SetupsHeld, s.SetupErrors)
			}
		})
	}
}

func TestSlotsNeverPassTheLimit(t *testing.T) {
	m := testManager(t, Config{Backing: Passthrough, Window: 16 * RangeSize, MaxRegions: 40})
	op := m.NewOp()
	fe := newFakeFrontend()
	m.SetMapper(fe)
	f := newTestFile(t, 17*RangeSize, 'a')
	for i := range uint32(16) {
		show(t, m, op, f, uint64(i)*RangeSize, i)
	}
	// The same window again, other pieces: a file larger than the window.
	for i := range uint32(16) {
		show(t, m, op, f, uint64(i+1)*RangeSize, i)
	}
	if fe.most > 16 {
		t.Errorf("%d mappings at once", fe.most)
	}
	if err := m.RemoveMappings(op, []RemoveMapping{{0, 8 * RangeSize}}); err != nil {
		t.Error(err)
	}
	// Other devices take the rest.
	m.SetRegions(39)
	show(t, m, op, f, 0, 0)
	m.SetRegions(40)
	if err := m.SetupMapping(op, &f.Inode, f, RangeSize, RangeSize, RangeSize, SetupRead); err != unix.EIO {
		t.Errorf("over the limit: %v, want EIO", err)
	}
	if n := m.Stats().SlotsRefused; n != 1 {
		t.Errorf("%d refused", n)
	}
	if _, err := New(Config{Backing: Passthrough, Window: 1 << 30}); err == nil {
		t.Error("a window of more ranges than the front-end has regions was accepted")
	}
}

func TestHowMuchOfABufferIsInItsFile(t *testing.T) {
	for _, b := range []Backing{Passthrough, Managed} {
		t.Run(b.String(), func(t *testing.T) {
			m := testManager(t, Config{Backing: b, Window: 16 * RangeSize})
			op := m.NewOp()
			f, other := newTestFile(t, 2*RangeSize+8195, 'a'), newTestFile(t, 100, 'b')
			for i, foff := range []uint64{0, RangeSize, 2 * RangeSize} {
				show(t, m, op, f, foff, uint32(i)+1)
			}
			for _, c := range []struct {
				name         string
				off, n       uint64
				next, inside uint64
			}{
				{"all of it", RangeSize + 100, 4096, 4096, 4096},
				{"up to the end of a range", 2*RangeSize - 10, 4096, 10, 10},
				{"over the end of the file", 3*RangeSize + 8192, 4096, 4096, 3},
				{"from the end of the file on", 3*RangeSize + 8195, 4096, 4096, 0},
				{"behind the end", 3*RangeSize + 100000, 4096, 4096, 0},
				{"where nothing is mapped", 9 * RangeSize, 4096, 4096, 4096},
				{"behind the window", 16 * RangeSize, 4096, 4096, 4096},
			} {
				if err := op.BeginRead(&other.Inode, 0, c.n, []WindowBuffer{{c.off, c.n}}); err != nil {
					t.Fatal(err)
				}
				if b == Managed {
					// The pages past the end are nobody's, and are not written back.
					c.next, c.inside = c.n, c.n
				}
				if next, inside := op.Inside(c.off, c.n); next != c.next || inside != c.inside {
					t.Errorf("%s: %d, %d; want %d, %d", c.name, next, inside, c.next, c.inside)
				}
				op.End()
			}
			if b == Managed {
				return
			}
			if err := op.BeginRead(&other.Inode, 0, 100, nil); err != nil {
				t.Fatal(err)
			}
			defer op.End()
			if _, inside := op.Inside(RangeSize, 100); inside != 0 {
				t.Errorf("%d bytes of a file that is not locked", inside)
			}
		})
	}
}

// TestPassthroughSharesPages maps a file of odd size through the mount and sees
// the same pages as the file's own.
func TestPassthroughSharesPages(t *testing.T) {
	m := testManager(t, Config{Backing: Passthrough, Window: 16 * RangeSize})
	op := m.NewOp()
	f := newTestFile(t, 8195, 'a')
	show(t, m, op, f, 0, 0)
	x := f.state()
	var st unix.Stat_t
	if err := unix.Fstat(x.mapFD, &st); err != nil || st.Size != RangeSize {
		t.Fatalf("size %d, %v; want a whole range", st.Size, err)
	}
	mem, err := unix.Mmap(x.mapFD, 0, RangeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Skipf("skip: passthrough needs Linux 6.9: %v", err)
	}
	defer unix.Munmap(mem)
	if mem[8194] != 'a' || mem[8195] != 0 {
		t.Errorf("the mapping has %q at the end", mem[8190:8200])
	}
	copy(mem, "mapped")
	if got := f.bytes(t, 0, 7); string(got) != "mappeda" {
		t.Errorf("file has %q", got)
	}
	f.WriteAt([]byte("host"), 4096)
	if string(mem[4096:4101]) != "hosta" {
		t.Errorf("the mapping has %q", mem[4096:4101])
	}
	// Growing needs no new mapping.
	f.WriteAt([]byte("grown"), 16384)
	if string(mem[16384:16390]) != "grown\x00" {
		t.Errorf("the mapping has %q", mem[16384:16390])
	}
	// Mapped anew while the front-end still has the old file.
	old, err := unix.FcntlInt(uintptr(x.mapFD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(old)
	if err := m.RemoveMappings(op, []RemoveMapping{{0, RangeSize}}); err != nil {
		t.Error(err)
	}
	show(t, m, op, f, 0, 3)
	if string(mem[:6]) != "mapped" {
		t.Errorf("the old mapping has %q", mem[:6])
	}
	if !m.OwnsFile(x.mapFD) || m.OwnsFile(int(f.Fd())) {
		t.Error("OwnsFile does not know the mount's files")
	}
}

func TestDirectMapsWholeRangesOnly(t *testing.T) {
	m, err := New(Config{Backing: Direct, Window: 4 * RangeSize})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.SetMapper(newFakeFrontend())
	op := m.NewOp()
	f := newTestFile(t, RangeSize+1, 'a')
	show(t, m, op, f, 0, 0)
	if err := m.SetupMapping(op, &f.Inode, f, RangeSize, RangeSize, RangeSize, SetupRead); err != unix.EIO {
		t.Errorf("past the end: %v, want EIO", err)
	}
	if m.Want(unix.S_IFREG, RangeSize+1) || !m.Want(unix.S_IFREG, 2*RangeSize) || m.Want(unix.S_IFDIR, 2*RangeSize) {
		t.Error("Want chooses the wrong files")
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

func TestOffDoesNothing(t *testing.T) {
	var m *Manager
	op := m.NewOp()
	var n Inode
	if err := op.BeginWrite(&n, 0, 1, false, nil); err != nil {
		t.Error(err)
	}
	if err := op.Clean(); err != nil {
		t.Error(err)
	}
	op.End()
	m.Destroy()
	m.Reset()
	m.Forget(&n)
	if m.On() || m.Want(unix.S_IFREG, 1<<30) || m.Sync(op, &n) != nil || m.Reclaim(0) != 0 {
		t.Error("a nil Manager does something")
	}
	m.Close()
}

func TestLocksDoNotAllocate(t *testing.T) {
	m := testManager(t, Config{})
	op := m.NewOp()
	f, mapped := newTestFile(t, 100, 'a'), newTestFile(t, 100, 'a')
	show(t, m, op, mapped, 0, 0)
	var off *Manager
	none := off.NewOp()
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"off", func() { none.BeginRead(&f.Inode, 0, 1, nil); none.End() }},
		{"read", func() { op.BeginRead(&f.Inode, 0, 1, nil); op.End() }},
		{"write", func() { op.BeginWrite(&f.Inode, 0, 1, false, nil); op.End() }},
		{"truncate", func() { op.BeginTruncate(&f.Inode, 0); op.End() }},
		{"mapped read", func() { op.BeginRead(&mapped.Inode, 0, 1, nil); op.End() }},
		{"mapped write", func() { op.BeginWrite(&mapped.Inode, 0, 1, false, nil); op.End() }},
	} {
		if n := testing.AllocsPerRun(100, c.f); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// TestWriteBackComesBeforeTimes sets a file's time while the guest has stored to
// it: the writeback of a later Sync must find nothing to write.
func TestWriteBackComesBeforeTimes(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	f := newTestFile(t, 8192, 'a')
	show(t, m, op, f, 0, 0)
	g := startGuest(t, m)
	g.write(0, []byte("stored"))
	if err := m.WriteBack(op, &f.Inode); err != nil {
		t.Fatal(err)
	}
	want := time.Unix(1e9, 0)
	if err := os.Chtimes(f.Name(), want, want); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(op, &f.Inode); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || !st.ModTime().Equal(want) {
		t.Errorf("modified at %v, %v; want %v", st.ModTime(), err, want)
	}
}
