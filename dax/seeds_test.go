package dax

import (
	"bytes"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// uniform returns the index of the first block of n bytes of b that is not of one
// value, -1 if there is none.
func uniform(b []byte, n int) int {
	for p := 0; p+n <= len(b); p += n {
		if bytes.Count(b[p:p+n], b[p:p+1]) != n {
			return p / n
		}
	}
	return -1
}

// writeFile writes through the daemon, as a WRITE does.
func writeFile(t testing.TB, op *Op, f *testFile, off int64, data []byte) {
	if err := op.BeginWrite(&f.Inode, uint64(off), uint64(len(data)), false, nil); err != nil {
		t.Errorf("write: %v", err)
		return
	}
	defer op.End()
	if _, err := f.WriteAt(data, off); err != nil {
		t.Error(err)
	}
}

// TestPunchLocksOutFaults punches, zeroes, truncates, collapses and inserts under
// pages that the guest keeps dirtying. The guest writes the start of each page
// only: what is elsewhere in a page after the operation can have got there in no
// other way than by an old page that came back. And I/O in flight is done before
// the file changes.
//
// To see it fail: in exclude return after the first pass without opPark, so that
// faults go on; or leave the wait for drained out of lockIO.
func TestPunchLocksOutFaults(t *testing.T) {
	const size = 64 * pageSize
	rounds := 30
	if testing.Short() {
		rounds = 6
	}
	full := bytes.Repeat([]byte{'a'}, size)
	allZero := make([]byte, size)
	type change struct {
		name  string
		begin func(op *Op, f *testFile) error
		do    func(f *testFile) error
		from  int // bytes of the file from here to there are old no longer
		to    int
	}
	fallocate := func(name string, mode uint32, from, n int) change {
		return change{name,
			func(op *Op, f *testFile) error { return op.BeginFallocate(&f.Inode, mode, uint64(from), uint64(n)) },
			func(f *testFile) error { return unix.Fallocate(int(f.Fd()), mode, int64(from), int64(n)) },
			from, from + n}
	}
	changes := []change{
		fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8*pageSize, 32*pageSize),
		fallocate("zero", unix.FALLOC_FL_ZERO_RANGE, 0, size),
		fallocate("insert", unix.FALLOC_FL_INSERT_RANGE, 16*pageSize, 16*pageSize),
		{"truncate",
			func(op *Op, f *testFile) error { return op.BeginTruncate(&f.Inode, 4*pageSize) },
			func(f *testFile) error {
				if err := f.Truncate(4 * pageSize); err != nil {
					return err
				}
				return f.Truncate(size)
			}, 4 * pageSize, size},
		{"collapse",
			func(op *Op, f *testFile) error {
				return op.BeginFallocate(&f.Inode, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 32*pageSize)
			},
			func(f *testFile) error {
				if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, 32*pageSize); err != nil {
					return err
				}
				return f.Truncate(size) // within the same exclusion
			}, 32 * pageSize, size},
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			m := testManager(t, Config{})
			watchdog(t, m, time.Minute)
			g := startGuest(t, m)
			op := m.NewOp()
			f := newTestFile(t, size, 'a')
			show(t, m, op, f, 0, 1)
			// READs and writes of another file's kind: in flight while held.
			var inFlight atomic.Int32
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				op := m.NewOp()
				for {
					select {
					case <-stop:
						return
					default:
					}
					if op.BeginRead(&f.Inode, 0, size, nil) == nil {
						inFlight.Add(1)
						f.ReadAt(make([]byte, size), 0)
						inFlight.Add(-1)
					}
					op.End()
				}
			})
			for range rounds {
				writeFile(t, op, f, 0, full)
				stores := g.start(guestCall{Op: "store", Off: RangeSize, Len: size, Data: []byte("STORE")})
				time.Sleep(time.Millisecond) // for some dirty pages, not for order
				if err := c.begin(op, f); err != nil {
					t.Fatal(err)
				}
				if n := inFlight.Load(); n != 0 {
					t.Errorf("%d reads are in flight", n)
				}
				if err := c.do(f); err != nil {
					op.End()
					t.Skipf("skip: %v: %v", c.name, err)
				}
				for range 3 {
					if got := f.bytes(t, int64(c.from), c.to-c.from); !bytes.Equal(got, allZero[:len(got)]) {
						t.Fatal("something was written while faults were locked out")
					}
					time.Sleep(200 * time.Microsecond)
				}
				op.End()
				time.Sleep(time.Millisecond)
				g.do(guestCall{Op: "stop"})
				<-stores
				if err := m.Sync(op, &f.Inode); err != nil {
					t.Error(err)
				}
				got := f.bytes(t, int64(c.from), c.to-c.from)
				for p := 0; p < len(got); p += pageSize {
					if !bytes.Equal(got[p+5:p+pageSize], allZero[:pageSize-5]) {
						t.Fatalf("page %d came back", (c.from+p)/pageSize)
					}
				}
			}
			close(stop)
			wg.Wait()
		})
	}
	t.Run("fast io is drained", func(t *testing.T) {
		m := testManager(t, Config{})
		f := newTestFile(t, size, 'a')
		var writing atomic.Int32
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				op := m.NewOp()
				for range 20000 {
					op.BeginWrite(&f.Inode, 0, 1, false, nil)
					writing.Add(1)
					runtime.Gosched()
					writing.Add(-1)
					op.End()
				}
			})
		}
		wg.Go(func() {
			op := m.NewOp()
			for range 2000 {
				time.Sleep(10 * time.Microsecond) // so that writes get by on the fast side
				op.BeginTruncate(&f.Inode, 0)
				if writing.Load() != 0 {
					t.Error("a write is in flight")
				}
				op.End()
			}
		})
		wg.Wait()
	})
}

// TestAtomicTruncVsOpen opens one file with O_TRUNC and without, at once, while
// the guest dirties its pages and they are being written back (xfstests
// generic/464).
//
// To see it fail: take the no-write gate before the passes: move the calls of
// noWrite from Clean to exclude, between opFreeze and the first invalidate.
func TestAtomicTruncVsOpen(t *testing.T) {
	const size = 32 * pageSize
	rounds := 3000
	if testing.Short() || checkLocks { // the race detector is slow
		rounds = 300
	}
	m := testManager(t, Config{})
	watchdog(t, m, 2*time.Minute)
	g := startGuest(t, m)
	op := m.NewOp()
	f := newTestFile(t, size, 'a')
	show(t, m, op, f, 0, 1)
	stores := g.start(guestCall{Op: "store", Off: RangeSize, Len: size, Data: []byte("STORE")})
	data := bytes.Repeat([]byte{'b'}, size)
	var wg sync.WaitGroup
	var done atomic.Bool
	end := time.Now().Add(time.Minute) // on a machine that is busy with other things
	worker := func(n int, step func(op *Op) error) {
		wg.Go(func() {
			op := m.NewOp()
			for i := 0; !done.Load() && (n == 0 || i < n && time.Now().Before(end)); i++ {
				if err := step(op); err != nil {
					t.Error(err)
					done.Store(true)
				}
			}
			if n > 0 {
				done.Store(true)
			}
		})
	}
	worker(rounds, func(op *Op) error { // open(O_TRUNC), then write
		if err := op.BeginOpenTrunc(&f.Inode); err != nil {
			return err
		}
		h, err := os.OpenFile(f.Name(), os.O_RDWR|os.O_TRUNC, 0)
		op.End()
		if err != nil {
			return err
		}
		defer h.Close()
		if err := op.BeginWrite(&f.Inode, 0, size, false, nil); err != nil {
			return err
		}
		defer op.End()
		_, err = h.WriteAt(data, 0)
		return err
	})
	worker(0, func(op *Op) error { // open, read, fsync, close
		h, err := os.Open(f.Name())
		if err != nil {
			return err
		}
		defer h.Close()
		if err := op.BeginRead(&f.Inode, 0, size, nil); err != nil {
			return err
		}
		b := make([]byte, size)
		h.ReadAt(b, 0)
		op.End()
		return m.Sync(op, &f.Inode)
	})
	worker(0, func(op *Op) error { // delayed writeback of the host
		return m.back.writeBack(rangeSpan(1))
	})
	wg.Wait()
	g.do(guestCall{Op: "stop"})
	<-stores
}

// TestTwoInodeCopy copies from A to B and from B to A at once, with the guest
// writing to both through the window. While a copy goes on, neither side changes:
// source and destination are equal at its end, and the source is what it was
// at its start.
//
// To see it fail: in BeginCopy lock dst before src whatever their order (the race
// detector's build panics, another hangs); or leave out the spans of src.
func TestTwoInodeCopy(t *testing.T) {
	const size = 32 * pageSize
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	m := testManager(t, Config{})
	watchdog(t, m, time.Minute)
	g := startGuest(t, m)
	op := m.NewOp()
	files := [2]*testFile{newTestFile(t, size, 'a'), newTestFile(t, size, 'b')}
	var stores []chan guestReply
	for i, f := range files {
		show(t, m, op, f, 0, uint32(i))
		stores = append(stores, g.start(guestCall{Op: "store", Off: uint64(i) * RangeSize, Len: size, Data: []byte{byte('A' + i), '0', '1', '2'}}))
	}
	var wg sync.WaitGroup
	var done atomic.Bool
	var flusher sync.WaitGroup
	flusher.Go(func() { // the host's own writeback
		for !done.Load() {
			if err := m.back.writeBack(span{0, 2 * RangeSize}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range files {
		src, dst := files[i], files[1-i]
		wg.Go(func() {
			op := m.NewOp()
			for range rounds {
				if err := op.BeginCopy(&src.Inode, 0, &dst.Inode, 0, size); err != nil {
					t.Error(err)
					return
				}
				before := src.bytes(t, 0, size)
				var so, do int64
				for so < size {
					// A signal, which the Go run-time sends now and then, ends a call early.
					if n, err := unix.CopyFileRange(int(src.Fd()), &so, int(dst.Fd()), &do, int(size-so), 0); err != nil && err != unix.EINTR || n == 0 {
						t.Error(n, err)
						break
					}
				}
				time.Sleep(200 * time.Microsecond) // for a writeback that should find nothing
				after, copied := src.bytes(t, 0, size), dst.bytes(t, 0, size)
				op.End()
				if !bytes.Equal(before, after) {
					t.Error("the source has changed under the copy")
				}
				if !bytes.Equal(before, copied) {
					t.Error("the destination is not what the source was")
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	done.Store(true)
	flusher.Wait()
	g.do(guestCall{Op: "stop"})
	for _, s := range stores {
		<-s
	}
}

// TestWritebackNeverWaitsOnReclaim has the host write back dirty pages of an inode
// whose locks are all held exclusively and whose faults are locked out, with
// another exclusive holder waiting behind, a reclaim waiting, and blocked
// Syncs on every link's worth of threads; and a FORGET must not wait either.
//
// To see it fail: have server.Write wait while there is an exclusion over its span,
// or one of any span that is parked; or have Forget remove the mappings at once.
func TestWritebackNeverWaitsOnReclaim(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	g := startGuest(t, m)
	op := m.NewOp()
	f := newTestFile(t, 3*RangeSize, 'a')
	for r := range uint32(3) {
		show(t, m, op, f, uint64(r)*RangeSize, r)
	}
	dirty := func(r uint64) {
		g.write(r*RangeSize, bytes.Repeat([]byte("dirty"), 2000))
	}
	dirty(0)
	dirty(1)
	// The exclusion of range 0 itself has to write back, under all locks.
	if err := op.BeginFallocate(&f.Inode, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, RangeSize); err != nil {
		t.Fatal(err)
	}
	if got := f.bytes(t, 0, 5); string(got) != "dirty" {
		t.Errorf("the exclusive holder finds %q", got)
	}
	parked := g.start(guestCall{Op: "read", Off: 5 * pageSize, Len: 1})
	var wg sync.WaitGroup
	wg.Go(func() { m.Reclaim(0) })
	wg.Go(func() {
		op := m.NewOp()
		if err := op.BeginTruncate(&f.Inode, 3*RangeSize); err != nil {
			t.Error(err)
		}
		op.End()
	})
	for range numLinks + 2 {
		wg.Go(func() {
			if err := m.Sync(m.NewOp(), &f.Inode); err != nil {
				t.Error(err)
			}
		})
	}
	// The host's own writeback of another range of the inode.
	if err := m.back.writeBack(rangeSpan(1)); err != nil {
		t.Error(err)
	}
	if got := f.bytes(t, RangeSize, 5); string(got) != "dirty" {
		t.Errorf("after writeback the file has %q", got)
	}
	m.Forget(&f.Inode)
	select {
	case <-parked:
		t.Error("a fault got through")
	default:
	}
	op.End()
	<-parked
	wg.Wait()
	for f.Mapped() {
		time.Sleep(time.Millisecond) // the watchdog ends it
		if m.back.dead.Load() {
			t.Fatal("the inode is still mapped")
		}
	}
}

// TestMappedBufferRing has three writers in a ring: each writes one file from
// a buffer that is mapped from the next, while all three are punched, rewritten
// and reclaimed. Everything is done in whole blocks, of four pages, of one value,
// so in any serial order no block of two values can be seen.
//
// To see it fail: in lockBuffers take every lock with lock instead of tryLock
// (the race detector's build panics, another hangs); or leave lockBuffers out of
// BeginWrite (no lock is dropped).
func TestMappedBufferRing(t *testing.T) {
	const block = 4 * pageSize
	const blocks = 8
	const size = blocks * block
	duration := 4 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	m := testManager(t, Config{})
	watchdog(t, m, duration+30*time.Second)
	g := startGuest(t, m)
	op := m.NewOp()
	var files [3]*testFile
	var faults []chan guestReply
	for i := range files {
		files[i] = newTestFile(t, size, byte('a'+i))
		show(t, m, op, files[i], 0, uint32(i))
		faults = append(faults, g.start(guestCall{Op: "fault", Off: uint64(i) * RangeSize, Len: size}))
	}
	var wg sync.WaitGroup
	var writes atomic.Uint64
	end := time.Now().Add(duration)
	loop := func(step func(op *Op)) {
		wg.Go(func() {
			op := m.NewOp()
			for time.Now().Before(end) && !t.Failed() {
				step(op)
			}
		})
	}
	for i := range files {
		dst, from := files[i], uint64((i+1)%3)*RangeSize
		buf := make([]byte, size)
		loop(func(op *Op) {
			k := 1 + rand.IntN(blocks)
			n, off := uint64(k)*block, uint64(rand.IntN(blocks-k+1))*block
			seg, at := m.back.at(span{from + off, n})
			if err := op.BeginWrite(&dst.Inode, off, n, false, []WindowBuffer{{from + off, n}}); err != nil {
				t.Error(err)
				return
			}
			defer op.End()
			if k, err := unix.Pread(seg.rw, buf[:n], at); err != nil || k != int(n) {
				t.Errorf("reading the buffer: %d, %v", k, err)
				return
			}
			if p := uniform(buf[:n], block); p >= 0 {
				t.Errorf("block %d of the buffer has two values", p)
			}
			if err := op.Clean(); err != nil {
				t.Error(err)
				return
			}
			// In pieces, so that who does not lock sees a part of them.
			for p := 0; p < int(n); p += pageSize {
				unix.Pwrite(int(dst.Fd()), buf[p:p+pageSize], int64(off)+int64(p))
			}
			writes.Add(1)
		})
		loop(func(op *Op) {
			off := int64(rand.IntN(blocks)) * block
			if rand.IntN(2) == 0 {
				writeFile(t, op, dst, off, bytes.Repeat([]byte{byte(rand.IntN(256))}, block))
				return
			}
			if err := op.BeginFallocate(&dst.Inode, 3, uint64(off), block); err != nil {
				t.Error(err)
				return
			}
			unix.Fallocate(int(dst.Fd()), 3, off, block)
			op.End()
		})
	}
	loop(func(*Op) { m.Reclaim(uint64(rand.IntN(2 * RangeSize))) })
	wg.Wait()
	g.do(guestCall{Op: "stop"})
	for _, c := range faults {
		<-c
	}
	m.Destroy()
	for i, f := range files {
		if p := uniform(f.bytes(t, 0, size), block); p >= 0 {
			t.Errorf("file %d: block %d has two values", i, p)
		}
	}
	s := m.Stats()
	if s.LockDrops == 0 {
		t.Error("no lock was ever dropped")
	}
	t.Logf("%d writes, %d drops, %d retries, %d exclusions in %d passes, %d faults parked", writes.Load(), s.LockDrops, s.LockRetries, s.Exclusions, s.Passes, s.Parked)
}
