package dax

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// TestResidentStaysUnderBudget touches eight times the budget, over and over, from
// several threads, while the host looks at what is resident.
//
// To see it fail, on a busy machine: in budget.set leave out charged; with ten
// threads: in marks take one for all of them.
func TestResidentStaysUnderBudget(t *testing.T) {
	for _, threads := range []uint64{2, 10} {
		t.Run(fmt.Sprint(threads, " threads"), func(t *testing.T) { residentUnderBudget(t, threads) })
	}
}

func residentUnderBudget(t *testing.T, threads uint64) {
	const ranges = 384
	const budget = ranges / 8 * RangeSize
	m, g := guestOfSparseFile(t, ranges, budget)
	var calls []chan guestReply
	for i := range threads {
		calls = append(calls, g.start(guestCall{Op: "fault", Off: ranges * i / threads * RangeSize, Len: ranges / threads * RangeSize}))
	}
	var most, over, looks uint64
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) || m.stats.ReclaimedRanges.Load() == 0; time.Sleep(2 * time.Millisecond) {
		n, err := m.back.resident(span{0, m.cfg.Window})
		if err != nil {
			t.Fatal(err)
		}
		looks++
		most = max(most, n)
		if n > budget+budget/10 {
			over++
		}
	}
	g.do(guestCall{Op: "stop"})
	for _, c := range calls {
		<-c
	}
	s := m.Stats()
	if _, high, _ := marks(budget, int(threads)+1); high == budget/4/holdWater*highWater {
		t.Fatal("more threads than the budget is kept for")
	}
	t.Logf("budget %d, most resident %d, over it at %d of %d looks; %+v", uint64(budget), most, over, looks, s)
	if over != 0 {
		t.Errorf("more than a tenth over the budget at %d of %d looks, %d bytes at most", over, looks, most)
	}
}

// TestFaultsWaitForTheEngine has the engine get no processor for seconds: the guest
// waits for it, and does not fill the memory meanwhile.
//
// To see it fail: let charge return after maxHold whatever the engine does.
func TestFaultsWaitForTheEngine(t *testing.T) {
	const ranges = 256
	const budget = ranges / 8 * RangeSize
	m, g := guestOfSparseFile(t, ranges, budget)
	m.engine.mu.Lock()
	var calls []chan guestReply
	for i := range uint64(2) {
		calls = append(calls, g.start(guestCall{Op: "fault", Off: i * ranges / 2 * RangeSize, Len: ranges / 2 * RangeSize}))
	}
	var most, last uint64
	for end := time.Now().Add(8 * maxHold); time.Now().Before(end) || last < budget/2; time.Sleep(10 * time.Millisecond) {
		n, err := m.back.resident(span{0, m.cfg.Window})
		if err != nil {
			t.Fatal(err)
		}
		most, last = max(most, n), n
	}
	m.engine.mu.Unlock()
	if most > budget+budget/10 {
		t.Errorf("%d bytes resident at most, with a budget of %d", most, uint64(budget))
	}
	before := m.Stats().Faults
	for faults, since := before, time.Now(); faults < before+ranges; time.Sleep(10 * time.Millisecond) {
		if n := m.Stats().Faults; n != faults {
			faults, since = n, time.Now()
		} else if time.Since(since) > 20*time.Second {
			t.Fatalf("the guest does not go on after %d faults", faults-before)
		}
	}
	g.do(guestCall{Op: "stop"})
	for _, c := range calls {
		<-c
	}
}

// guestOfSparseFile is a guest whose window, of that many ranges, shows a file of that size, of which nothing is resident.
func guestOfSparseFile(t *testing.T, ranges, budget uint64) (*Manager, *guest) {
	m := testManager(t, Config{Window: ranges * RangeSize, Memory: budget})
	watchdog(t, m, time.Minute)
	op := m.NewOp()
	f := newTestFile(t, 0, 'a')
	if err := f.Truncate(int64(ranges * RangeSize)); err != nil {
		t.Fatal(err)
	}
	for i := range ranges {
		show(t, m, op, f, i*RangeSize, uint32(i))
	}
	return m, startGuest(t, m)
}

// TestReclaimUnderRewrite reclaims everything, all the time, while the guest
// rewrites and checks every page through its mapping.
func TestReclaimUnderRewrite(t *testing.T) {
	const ranges = 4
	duration := 3 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	m := testManager(t, Config{Window: ranges * RangeSize})
	watchdog(t, m, time.Minute)
	op := m.NewOp()
	f := newTestFile(t, 0, 0)
	if err := f.Truncate(ranges * RangeSize); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(ranges) {
		show(t, m, op, f, uint64(i)*RangeSize, i)
	}
	g := startGuest(t, m)
	var calls []chan guestReply
	const each = RangeSize / 4
	for i := range uint64(ranges) {
		calls = append(calls, g.start(guestCall{Op: "rewrite", Off: i * RangeSize, Len: each}))
	}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		m.Reclaim(0)
	}
	g.do(guestCall{Op: "stop"})
	var pages uint64
	for i, c := range calls {
		r := <-c
		if r.Err != "" {
			t.Error(r.Err)
		}
		pages += r.N
		if err := m.Sync(op, &f.Inode); err != nil {
			t.Error(err)
		}
		got := f.bytes(t, int64(i)*RangeSize, each)
		for p, gen := range r.Data {
			if b := got[p*pageSize : (p+1)*pageSize]; bytes.Count(b, []byte{gen}) != pageSize {
				t.Fatalf("range %d page %d: the file has %d, the guest wrote %d", i, p, b[0], gen)
			}
		}
	}
	s := m.Stats()
	t.Logf("%d pages rewritten, %d ranges reclaimed, %d bytes written back", pages, s.ReclaimedRanges, s.WritebackBytes)
	if s.ReclaimedRanges == 0 {
		t.Error("nothing was reclaimed")
	}
}

// TestSecondChance leaves a range alone that came back at once.
func TestSecondChance(t *testing.T) {
	m := testManager(t, Config{Window: 64 * RangeSize})
	watchdog(t, m, time.Minute)
	op := m.NewOp()
	f := newTestFile(t, 8*RangeSize, 'a')
	for i := range uint32(4) {
		show(t, m, op, f, uint64(2*i)*RangeSize, 8*i)
	}
	g := startGuest(t, m)
	hot, cold := uint64(0), []uint64{8 * RangeSize, 16 * RangeSize, 24 * RangeSize}
	for range 3 {
		g.read(hot, 1)
		m.Reclaim(0)
	}
	g.read(hot, 1)
	for _, c := range cold {
		g.read(c, 1)
	}
	before, _ := m.back.resident(rangeSpan(0))
	m.Reclaim(RangeSize)
	after, _ := m.back.resident(rangeSpan(0))
	if before == 0 || after != before {
		t.Errorf("the hot range had %d bytes, has %d", before, after)
	}
	if s := m.Stats(); s.Refaults == 0 {
		t.Error("no refault was seen")
	}
}

// TestReclaimWhenAllAreBusy has every inode's lock held for a while: reclaim waits
// for one of them, and comes through.
func TestReclaimWhenAllAreBusy(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	f := newTestFile(t, RangeSize, 'a')
	show(t, m, op, f, 0, 0)
	g := startGuest(t, m)
	g.read(0, 1)
	op.lock(f.state(), classMmap, heldShared)
	freed := make(chan uint64)
	go func() { freed <- m.Reclaim(0) }()
	for m.stats.BusySkips.Load() == 0 {
		time.Sleep(time.Millisecond) // the watchdog ends it
	}
	op.End()
	if n := <-freed; n == 0 {
		t.Error("nothing was reclaimed")
	}
}

// TestMarksLeaveRoomForEveryThread checks that what all threads that fault bring in at once fits above the mark at which
// they are held back, down to a budget that is too small for them.
func TestMarksLeaveRoomForEveryThread(t *testing.T) {
	for _, budget := range []uint64{32 << 20, 64 << 20, 1 << 30, 1 << 40} {
		for _, threads := range []int{0, 1, 2, 10, 64, 1000} {
			hold, high, low := marks(budget, threads)
			if low == 0 || low >= high || high >= hold {
				t.Errorf("budget %d, %d threads: marks %d, %d, %d", budget, threads, low, high, hold)
			}
			if hold > budget/4 && hold+uint64(threads)*ahead > budget+budget/10 {
				t.Errorf("budget %d, %d threads: held back from %d on", budget, threads, hold)
			}
			if threads <= 2 && budget >= 64<<20 && hold != budget/16*holdWater {
				t.Errorf("budget %d, %d threads: held back from %d on already", budget, threads, hold)
			}
		}
	}
}

// TestForgettingABusyInodeDoesNotHoldTheEngineUp has the guest forget a mapped inode whose
// pages somebody uses, who waits for a fault. Over the budget that waits for the engine.
//
// To see it fail: in loop, call what forgetLoop does.
func TestForgettingABusyInodeDoesNotHoldTheEngineUp(t *testing.T) {
	const ranges = 64
	m, g := guestOfSparseFile(t, ranges, ranges/8*RangeSize)
	busy := newTestFile(t, RangeSize, 'b')
	op, user := m.NewOp(), m.NewOp()
	if err := m.RemoveMappings(op, []RemoveMapping{{0, RangeSize}}); err != nil {
		t.Fatal(err)
	}
	show(t, m, op, busy, 0, 0)
	user.lock(busy.state(), classMmap, heldShared)
	m.Forget(&busy.Inode)
	m.engine.kick()
	time.Sleep(50 * time.Millisecond)
	for i := uint64(1); i < ranges; i++ {
		g.read(i*RangeSize, RangeSize)
	}
	if !busy.Mapped() {
		t.Error("the inode is no longer mapped, though somebody uses it")
	}
	user.End()
	for end := time.Now().Add(10 * time.Second); busy.Mapped(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the inode stays mapped")
		}
	}
}

// TestForgottenInodesLeaveEveryKindOfWindow: the engine works with the managed one only.
func TestForgottenInodesLeaveEveryKindOfWindow(t *testing.T) {
	for _, b := range []Backing{Managed, Passthrough, Direct} {
		t.Run(b.String(), func(t *testing.T) {
			m := testManager(t, Config{Backing: b})
			op := m.NewOp()
			f := newTestFile(t, RangeSize, 'a')
			show(t, m, op, f, 0, 0)
			m.Forget(&f.Inode)
			for end := time.Now().Add(10 * time.Second); f.Mapped(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the inode stays mapped")
				}
			}
		})
	}
}

// TestLargeWindow: what is told of each range does not fit into one message.
func TestLargeWindow(t *testing.T) {
	const size = 256 << 30
	m := testManager(t, Config{Window: size, Memory: 1 << 30})
	watchdog(t, m, 60*time.Second)
	op := m.NewOp()
	f := newTestFile(t, RangeSize, 'a')
	const last = size/RangeSize - 1
	show(t, m, op, f, 0, last)
	g := startGuest(t, m)
	if got := g.read(last*RangeSize, 3); string(got) != "aaa" {
		t.Fatalf("the last range has %q", got)
	}
	if s := m.Stats(); s.Faults == 0 || s.Resident == 0 {
		t.Errorf("%d faults, %d bytes resident", s.Faults, s.Resident)
	}
	if n := m.Reclaim(0); n == 0 {
		t.Error("nothing was taken back")
	}
	if got := g.read(last*RangeSize, 3); string(got) != "aaa" {
		t.Errorf("after the reclaim the last range has %q", got)
	}
}
