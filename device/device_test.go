package device_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

func newEchoMachine(t testing.TB, opts device.Options) (*machine, *echo) {
	e := newEcho()
	opts.Server = e
	m := newMachine(t, opts)
	return m, e
}

func (q *queue) expect(r reply, text string) {
	q.m.t.Helper()
	if r.text != text {
		q.m.t.Errorf("queue %d: got %+v, want %q", q.index, r, text)
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestRequestsAreServed(t *testing.T) {
	for _, workers := range []int{0, 4} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			m, _ := newEchoMachine(t, device.Options{Workers: workers})
			for _, q := range m.queues {
				q.start()
			}
			for i := range 1000 {
				q := m.queues[i%2]
				text := fmt.Sprint("request ", i)
				q.expect(q.do(i%slots, text), text)
			}
		})
	}
}

func TestBatchIsServedInOrder(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Workers: 2})
	q := m.queues[1]
	q.start()
	for round := range 100 {
		for s := range slots {
			q.submit(s, fmt.Sprint(round, "/", s))
		}
		q.doKick()
		for s := range slots {
			r := q.next()
			if r.slot != s {
				t.Fatalf("slot %d, want %d", r.slot, s)
			}
			q.expect(r, fmt.Sprint(round, "/", s))
		}
	}
}

func TestRequestsBeforeTheStartAreServed(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.submit(3, "early")
	q.start()
	q.expect(q.next(), "early")
}

func TestDisabledRingIsNotServed(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.start()
	q.do(0, "x")
	if err := m.dev.EnableRing(1, false); err != nil {
		t.Fatal(err)
	}
	q.submit(1, "later")
	q.doKick()
	q.none()
	if err := m.dev.EnableRing(1, true); err != nil {
		t.Fatal(err)
	}
	q.expect(q.next(), "later")
}

func TestPollingModeNeedsNoKick(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.m.dev.SetCall(q.index, dup(t, q.call))
	if err := m.dev.StartRing(1, q.ring(-1)); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		time.Sleep(time.Duration(i) * time.Millisecond / 2)
		q.submit(i, "polled")
		q.expect(q.next(), "polled")
	}
}

// With every worker busy, what needs none is served, on the same queue and on
// the other one.
func TestBlockedWorkersDelayNobody(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 2})
	for _, q := range m.queues {
		q.start()
	}
	q := m.queues[1]
	for s := range 5 {
		q.submit(s, "block")
	}
	q.doKick()
	eventually(t, "two workers, and perhaps the reader, are busy", func() bool { return e.blocking.Load() >= 2 })
	for i := range 100 {
		q.expect(q.do(10+i%10, "fast"), "fast")
		m.queues[0].expect(m.queues[0].do(0, "hiprio"), "hiprio")
	}
	close(e.release)
	for range 5 {
		q.expect(q.next(), "block")
	}
}

// Requests that wait for others, more than there are threads for them, delay
// neither the reader nor the workers.
func TestWaitingRequestsDelayNobody(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 1, Waiters: 3})
	q := m.queues[1]
	q.start()
	for s := range 10 {
		q.submit(s, "wait")
	}
	q.doKick()
	eventually(t, "three threads wait", func() bool { return e.blocking.Load() == 3 })
	for i := range 100 {
		q.expect(q.do(20+i%10, "fast"), "fast")
	}
	close(e.release)
	for range 10 {
		q.expect(q.next(), "wait")
	}
}

// Requests that wait and let others have their threads meanwhile hold up nobody
// who needs such a thread too, and a stop keeps them all.
func TestWaitingRequestsTakeTurns(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 1, Waiters: 3})
	q := m.queues[1]
	q.start()
	for s := range 10 {
		q.submit(s, "turn")
	}
	q.doKick()
	for i := range 20 {
		q.expect(q.do(20+i%10, "aside"), "aside")
	}
	if e.yields.Load() == 0 {
		t.Error("the server was not told that the threads are too few")
	}
	q.stop()
	if r, ok := q.poll(); ok {
		t.Fatalf("completed: %+v", r)
	}
	q.start()
	q.expect(q.do(20, "aside"), "aside")
	close(e.release)
	for range 10 {
		q.expect(q.next(), "turn")
	}
	if n := m.dev.QueueStats(1).Detached.Load(); n != 10+20+10+1 {
		t.Errorf("%d requests counted as detached", n)
	}
}

func TestPanicOfTheServerIsAnswered(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 1})
	q := m.queues[1]
	q.start()
	for i := range 5 {
		q.submit(0, "before")
		q.submit(1, "panic")
		q.submit(2, "after")
		q.doKick()
		q.expect(q.next(), "before")
		if r := q.next(); r.slot != 1 || r.written != 0 {
			t.Errorf("round %d: %+v", i, r)
		}
		q.expect(q.next(), "after")
	}
	if n := m.dev.QueueStats(1).Panics.Load(); n != 5 {
		t.Errorf("%d panics counted", n)
	}
	eventually(t, "only the readers' threads are left", func() bool { return e.threads.Load() == 1 })
}

func TestPanicsOfWorkersUseUpNoThread(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 2})
	q := m.queues[1]
	q.start()
	for range 6 {
		if r := q.do(0, "die"); r.written != 0 {
			t.Errorf("%+v", r)
		}
	}
	for s := range 6 {
		q.submit(s, "die")
	}
	q.doKick()
	for range 6 {
		q.next()
	}
	close(e.release)
	q.expect(q.do(0, "block"), "block")
}

func TestLengthThatCannotBeIsAnsweredWithZero(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.start()
	if r := q.do(0, "long"); r.written != 0 {
		t.Errorf("%+v", r)
	}
}

func TestBrokenChainIsCompletedUnserved(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.start()
	q.submit(0, "x")
	q.desc(0, memorySize, 16, 0, 0) // outside of memory
	q.submit(1, "good")
	q.doKick()
	if r := q.next(); r.slot != 0 || r.written != 0 {
		t.Errorf("%+v", r)
	}
	q.expect(q.next(), "good")
	if n := m.dev.QueueStats(1).BrokenChains.Load(); n != 1 {
		t.Errorf("%d broken chains counted", n)
	}
}

func TestBrokenRingIsReportedAndStops(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	for _, q := range m.queues {
		q.start()
	}
	q := m.queues[1]
	q.do(0, "x")
	binary.LittleEndian.PutUint16(q.ram[availAt+2:], q.avail+1000)
	q.doKick()
	eventually(t, "the front-end is told", q.errTold)
	m.queues[0].expect(m.queues[0].do(0, "others go on"), "others go on")
	q.stop()
	q.reset()
	q.start()
	q.expect(q.do(0, "again"), "again")
}

func TestStopCompletesWhatIsBeingServed(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 2})
	q := m.queues[1]
	q.start()
	for s := range 5 {
		q.submit(s, "block")
	}
	q.doKick()
	eventually(t, "the workers, and perhaps the reader, are busy", func() bool { return e.blocking.Load() >= 2 })
	stopped := make(chan struct{})
	go func() { q.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("the ring has stopped before its requests were done")
	case <-time.After(50 * time.Millisecond):
	}
	close(e.release)
	<-stopped
	for range 5 {
		r, ok := q.poll()
		if !ok {
			t.Fatal("a request was not completed")
		}
		q.expect(r, "block")
	}
	if e.stops.Load() == 0 {
		t.Error("the server was not told")
	}
}

// What waits does not delay the stop, and is served when the ring goes on.
func TestStopKeepsWhatWaits(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 1, Waiters: 2})
	q := m.queues[1]
	q.start()
	for range 3 {
		for s := range 4 {
			q.submit(s, "wait")
		}
		q.doKick()
		eventually(t, "two requests wait", func() bool { return e.blocking.Load() == 2 })
		for range 3 {
			q.stop()
			if r, ok := q.poll(); ok {
				t.Fatalf("completed: %+v", r)
			}
			q.start()
			eventually(t, "two requests wait again", func() bool { return e.blocking.Load() == 2 })
			q.expect(q.do(10, "fast"), "fast")
		}
		for range 4 {
			e.release <- struct{}{}
			q.expect(q.next(), "wait")
		}
	}
}

func TestResetForgetsWhatWaits(t *testing.T) {
	for _, how := range []string{"other base", "other base, in-flight region", "reset", "closed"} {
		t.Run(how, func(t *testing.T) {
			m, e := newEchoMachine(t, device.Options{Workers: 1})
			q := m.queues[1]
			if strings.HasSuffix(how, "region") {
				q.inflight = mapped(t, vhostuser.InflightQueueSize(false, queueSize))
			}
			q.start()
			q.submit(0, "wait")
			q.doKick()
			eventually(t, "it waits", func() bool { return e.blocking.Load() == 1 })
			q.stop()
			base, avail := q.base, q.avail
			q.reset()
			switch how {
			case "reset":
				m.dev.Reset()
				q.base, q.avail, q.used = base, avail, uint16(base)
			case "closed":
				m.dev.Closed()
				q.base, q.avail, q.used = base, avail, uint16(base)
			}
			binary.LittleEndian.PutUint16(q.ram[availAt+2:], q.avail)
			binary.LittleEndian.PutUint16(q.ram[usedAt+2:], q.used)
			q.start()
			q.expect(q.do(1, "new"), "new")
			q.none()
			if e.blocking.Load() != 0 {
				t.Error("a request of before the reset is being served")
			}
		})
	}
}

// lateRequest has a request outlast the stop of its ring.
func lateRequest(t *testing.T) (*machine, *echo, *queue) {
	m, e := newEchoMachine(t, device.Options{Workers: 1, StopLimit: 50 * time.Millisecond})
	q := m.queues[1]
	q.start()
	q.submit(0, "block")
	q.doKick()
	eventually(t, "it is being served", func() bool { return e.blocking.Load() == 1 })
	if q.tryStop() == nil {
		t.Error("the front-end's log has no word about it")
	}
	return m, e, q
}

func TestLateRequestIsCompletedWhenTheRingGoesOn(t *testing.T) {
	t.Run("served while it is stopped", func(t *testing.T) {
		_, e, q := lateRequest(t)
		close(e.release)
		eventually(t, "it is served", func() bool { return e.served.Load() == 1 })
		time.Sleep(10 * time.Millisecond)
		if _, ok := q.poll(); ok {
			t.Error("the ring was written to while it was stopped")
		}
		q.start()
		q.expect(q.next(), "block")
		q.none()
	})
	t.Run("served when it goes on", func(t *testing.T) {
		_, e, q := lateRequest(t)
		q.start()
		q.expect(q.do(5, "others"), "others")
		q.none()
		close(e.release)
		q.expect(q.next(), "block")
		q.none()
		if n := e.served.Load(); n != 2 {
			t.Errorf("served %d requests", n)
		}
	})
	t.Run("with an in-flight region", func(t *testing.T) {
		m, e := newEchoMachine(t, device.Options{Workers: 1, StopLimit: 50 * time.Millisecond})
		q := m.queues[1]
		q.inflight = mapped(t, vhostuser.InflightQueueSize(false, queueSize))
		q.start()
		q.submit(0, "block")
		q.doKick()
		eventually(t, "it is being served", func() bool { return e.blocking.Load() == 1 })
		q.tryStop()
		q.start()
		q.expect(q.do(5, "others"), "others")
		close(e.release)
		q.expect(q.next(), "block")
		q.none()
		if n := e.served.Load(); n != 2 {
			t.Errorf("served %d requests", n)
		}
	})
	t.Run("served after two stops", func(t *testing.T) {
		_, e, q := lateRequest(t)
		q.start()
		q.expect(q.do(5, "others"), "others")
		q.stop()
		close(e.release)
		eventually(t, "it is served", func() bool { return e.served.Load() == 2 })
		q.start()
		q.expect(q.next(), "block")
		q.none()
	})
}

// A reader that is stuck does not keep to itself what it had completed before.
func TestStopPublishesWhatAStuckReaderHasDone(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{StopLimit: 50 * time.Millisecond})
	q := m.queues[1]
	q.start()
	q.submit(0, "fast")
	q.submit(1, "block")
	q.doKick()
	eventually(t, "the reader is stuck", func() bool { return e.blocking.Load() == 1 })
	if q.tryStop() == nil {
		t.Error("the front-end's log has no word about it")
	}
	if r, ok := q.poll(); !ok || r.text != "fast" {
		t.Errorf("got %+v, %v", r, ok)
	}
	q.start()
	q.expect(q.do(2, "others"), "others")
	close(e.release)
	q.expect(q.next(), "block")
	q.none()
}

func TestLateRequestHoldsUpTheReset(t *testing.T) {
	m, e, q := lateRequest(t)
	done := make(chan struct{})
	go func() { m.dev.Reset(); close(done) }()
	time.Sleep(100 * time.Millisecond)
	if e.resets.Load() != 0 {
		t.Error("the server was reset while it served a request")
	}
	close(e.release)
	<-done
	if e.resets.Load() != 1 {
		t.Error("the server was not reset")
	}
	q.reset()
	q.start()
	q.expect(q.do(1, "new"), "new")
	q.none()
}

// What a daemon that was killed had taken and not completed is served by the one
// that takes over, once, and nothing else is.
func TestRequestsOfADeadDaemonAreServedAgain(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 4})
	defer close(e.release)
	q := m.queues[1]
	size := vhostuser.InflightQueueSize(false, queueSize)
	q.inflight = mapped(t, size)
	q.start()
	for i := range 10 {
		q.do(10+i, "done")
	}
	for s := range 4 {
		q.submit(s, "block")
	}
	q.submit(5, "done too")
	q.doKick()
	q.expect(q.next(), "done too")
	eventually(t, "four are being served", func() bool { return e.blocking.Load() == 4 })
	q.submit(6, "never seen") // no kick

	heir := newEcho()
	close(heir.release)
	dev, err := device.New(device.Options{Server: heir, RequestQueues: 1, Workers: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	// What the daemon that is not really dead writes from now on goes nowhere.
	left := mapped(t, size)
	copy(left, q.inflight)
	q.inflight = left
	ring := q.ring(dup(t, q.kick))
	ring.Base = 0 // the front-end does not know better
	dev.SetCall(1, dup(t, q.call))
	if err := dev.StartRing(1, ring); err != nil {
		t.Fatal(err)
	}
	defer dev.StopRing(1)
	got := map[int]string{}
	for range 5 {
		r := q.next()
		got[r.slot] = r.text
	}
	want := map[int]string{0: "block", 1: "block", 2: "block", 3: "block", 6: "never seen"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	q.none()
	if e.heir.Load() != 0 || heir.heir.Load() != 1 {
		t.Errorf("the first server was told %d times that it takes over, the second %d times", e.heir.Load(), heir.heir.Load())
	}
	if n := dev.QueueStats(1).Recovered.Load(); n != 4 {
		t.Errorf("%d requests counted as recovered", n)
	}
	if n := heir.repeated.Load(); n != 4 || e.repeated.Load() != 0 {
		t.Errorf("the second server was told of %d requests that the first may have served, the first of %d", n, e.repeated.Load())
	}
}

// The daemon before this one may have died between publishing a request and calling the driver for it.
func TestANewCallDescriptorIsSignalled(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	for range 2 {
		m.dev.SetCall(1, dup(t, q.call))
		var count [8]byte
		if n, err := unix.Read(q.call, count[:]); n != 8 || err != nil || count[0] != 1 {
			t.Errorf("the eventfd has %v, %v", count, err)
		}
	}
}

// Without in-flight tracking it is the base that tells of a session that goes on.
func TestServerIsToldOfASessionThatGoesOn(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.start()
	q.do(0, "x")
	q.stop()
	q.start()
	if n := e.heir.Load(); n != 0 {
		t.Errorf("told %d times about its own session", n)
	}
	q.stop()
	m.dev.Closed()
	q.start()
	if n := e.heir.Load(); n != 1 {
		t.Errorf("told %d times about a session that it has dropped", n)
	}
	q.expect(q.do(0, "goes on"), "goes on")
	q.stop()
	m.dev.Reset()
	q.reset()
	q.start()
	if n := e.heir.Load(); n != 1 {
		t.Errorf("told %d times, the last for a new session", n)
	}
}

func TestThreadsEndWhenIdle(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 8, WorkerIdle: 20 * time.Millisecond})
	q := m.queues[1]
	q.start()
	for s := range 8 {
		q.submit(s, "block")
	}
	q.doKick()
	eventually(t, "all workers run", func() bool { return e.blocking.Load() == 8 })
	close(e.release)
	for range 8 {
		q.next()
	}
	eventually(t, "only the reader is left", func() bool { return e.threads.Load() == 1 })
	q.expect(q.do(0, "block no more"), "block no more")
}

func TestIdleDeviceDoesNotWakeUp(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Workers: 4})
	for _, q := range m.queues {
		q.start()
		q.do(0, "x")
	}
	// The last kick may have come after the request was found.
	time.Sleep(50 * time.Millisecond)
	before := [2]uint64{m.dev.QueueStats(0).Wakeups.Load(), m.dev.QueueStats(1).Wakeups.Load()}
	time.Sleep(200 * time.Millisecond)
	after := [2]uint64{m.dev.QueueStats(0).Wakeups.Load(), m.dev.QueueStats(1).Wakeups.Load()}
	if before != after {
		t.Errorf("wake-ups went from %d to %d", before, after)
	}
}

func TestThreadThatCannotStart(t *testing.T) {
	t.Run("worker", func(t *testing.T) {
		m, e := newEchoMachine(t, device.Options{Workers: 2})
		q := m.queues[1]
		q.start()
		q.do(0, "x")
		e.failNew.Store(true)
		if r := q.do(0, "block"); r.written != 0 {
			t.Errorf("%+v", r)
		}
		e.failNew.Store(false)
		close(e.release)
		q.expect(q.do(0, "block"), "block")
	})
	t.Run("reader", func(t *testing.T) {
		m, e := newEchoMachine(t, device.Options{})
		q := m.queues[1]
		e.failNew.Store(true)
		q.start()
		eventually(t, "the front-end is told", q.errTold)
		q.stop()
		e.failNew.Store(false)
		q.start()
		q.expect(q.do(0, "again"), "again")
	})
}

func TestConfigSpace(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Tag: "music", RequestQueues: 3})
	want := append([]byte("music"), make([]byte, 31)...)
	want = append(want, 3, 0, 0, 0)
	for _, tt := range []struct{ off, n uint32 }{{0, 40}, {0, 256}, {36, 4}, {3, 5}, {39, 100}, {40, 10}, {1000, 1}} {
		got, err := m.dev.ReadConfig(tt.off, tt.n)
		begin, end := min(tt.off, 40), min(tt.off+tt.n, 40)
		if err != nil || !bytes.Equal(got, want[begin:end]) {
			t.Errorf("%d bytes from %d: %v, %v", tt.n, tt.off, got, err)
		}
	}
	if m.dev.WriteConfig(0, []byte("rock"), false) == nil {
		t.Error("the driver may write the tag")
	}
	if m.dev.WriteConfig(0, want, true) != nil {
		t.Error("a migrated device with the same configuration is refused")
	}
	if m.dev.WriteConfig(0, []byte("rock"), true) == nil {
		t.Error("a migrated device with another tag is accepted")
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, o := range []device.Options{
		{RequestQueues: 0}, {RequestQueues: 65}, {RequestQueues: 1, Tag: strings.Repeat("x", 37)},
	} {
		o.Server = newEcho()
		if _, err := device.New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// The ring is stopped, started and its call eventfd replaced while requests of
// every kind are on the way. Each is answered once.
func TestStopAndStartUnderLoad(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 3, Waiters: 3})
	close(e.release)
	q := m.queues[1]
	q.start()
	kinds := []string{"plain", "block", "wait", "panic"}
	var mu sync.Mutex // the queue's driver side
	busy := map[int]string{}
	answered := 0
	done := make(chan struct{})
	go func() { // the front-end
		defer close(done)
		for range 200 {
			q.m.dev.SetCall(1, dup(t, q.call))
			mu.Lock()
			q.stop()
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			q.start()
			mu.Unlock()
		}
	}()
	for running := true; running || len(busy) > 0; {
		select {
		case <-done:
			running = false
		default:
		}
		mu.Lock()
		for s := range slots {
			if running && busy[s] == "" {
				busy[s] = fmt.Sprint(kinds[s%len(kinds)], " ", answered)
				q.submit(s, busy[s])
			}
		}
		q.doKick()
		mu.Unlock()
		q.waitCall(time.Millisecond)
		mu.Lock()
		for {
			r, ok := q.poll()
			if !ok {
				break
			}
			want, known := busy[r.slot], true
			if want == "" {
				known = false
			}
			if strings.HasPrefix(want, "panic") {
				want = ""
			}
			if !known || r.text != want {
				t.Errorf("slot %d: got %q, want %q (%v)", r.slot, r.text, want, known)
			}
			delete(busy, r.slot)
			answered++
		}
		mu.Unlock()
		if t.Failed() {
			break
		}
	}
	<-done
	t.Logf("%d requests, %d requeued", answered, m.dev.QueueStats(1).Requeued.Load())
}

func TestServingAllocatesNothing(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Workers: 2})
	q := m.queues[1]
	q.start()
	text := "no allocation here"
	round := func() {
		for s := range 8 {
			q.submit(s, text)
		}
		q.doKick()
		for range 8 {
			for {
				if _, ok := q.pollQuiet(); ok {
					break
				}
				q.waitCall(long)
			}
		}
	}
	if n := testing.AllocsPerRun(200, round); n > 0 {
		t.Errorf("%v allocations for 8 requests", n)
	}
}

func BenchmarkRequests(b *testing.B) {
	for _, depth := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			m, _ := newEchoMachine(b, device.Options{Workers: 2})
			q := m.queues[1]
			q.start()
			b.ReportAllocs()
			b.ResetTimer()
			sent, got := 0, 0
			for got < b.N {
				n := 0
				for sent < b.N && sent-got < depth {
					q.submit(sent%slots, "x")
					sent++
					n++
				}
				if n > 0 {
					q.doKick()
				}
				for {
					for {
						if _, ok := q.pollQuiet(); !ok {
							break
						}
						got++
					}
					if sent-got < depth || got == b.N {
						break
					}
					q.waitCall(long)
				}
			}
			b.StopTimer()
			s := m.dev.QueueStats(1)
			b.ReportMetric(float64(s.Wakeups.Load())/float64(b.N), "wakeups/op")
			b.ReportMetric(float64(s.Calls.Load())/float64(b.N), "calls/op")
		})
	}
}
