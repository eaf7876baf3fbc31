package device_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// relievedMachine has a second thread that can take the place of queue 1's reader.
func relievedMachine(t *testing.T, opts device.Options) (*machine, *echo, *queue) {
	opts.Workers = 1
	m, e := newEchoMachine(t, opts)
	q := m.queues[1]
	q.start()
	q.submit(0, "block")
	q.doKick()
	e.release <- struct{}{}
	q.expect(q.next(), "block")
	eventually(t, "a reader, its relief and a worker are there", func() bool { return e.threads.Load() == 3 })
	time.Sleep(10 * time.Millisecond) // for the relief to wait
	return m, e, q
}

// blockedReader is a machine whose reader serves the request in slot 0, which blocks.
func blockedReader(t *testing.T, opts device.Options) (*machine, *echo, *queue) {
	m, e, q := relievedMachine(t, opts)
	handed := m.dev.QueueStats(1).Handed.Load()
	q.submit(0, "block")
	q.doKick()
	eventually(t, "it is being served", func() bool { return e.blocking.Load() == 1 })
	if n := m.dev.QueueStats(1).Handed.Load(); n != handed {
		t.Fatal("it went to a worker")
	}
	return m, e, q
}

func TestOneRequestThatMayBlockAtATimeWakesNoWorker(t *testing.T) {
	m, e, q := relievedMachine(t, device.Options{})
	close(e.release)
	before := m.dev.QueueStats(1).Handed.Load()
	for range 200 {
		q.expect(q.do(0, "block"), "block")
		q.expect(q.do(1, "fast"), "fast")
	}
	if n := m.dev.QueueStats(1).Handed.Load() - before; n > 20 {
		t.Errorf("%d of 200 went to a worker", n)
	}
}

func TestRingIsReadWhileItsReaderIsBlocked(t *testing.T) {
	_, e, q := blockedReader(t, device.Options{})
	for i := range 100 {
		q.expect(q.do(10+i%10, "fast"), "fast")
	}
	// What may block as well goes to the worker, and the rest is still read.
	q.submit(1, "block")
	q.doKick()
	eventually(t, "two are being served", func() bool { return e.blocking.Load() == 2 })
	for i := range 100 {
		q.expect(q.do(10+i%10, "fast"), "fast")
	}
	close(e.release)
	q.expect(q.next(), "block")
	q.expect(q.next(), "block")
	for i := range 100 {
		q.expect(q.do(10+i%10, "fast"), "fast")
	}
}

// A driver that has always something for the reader to do does not keep what may
// block from being served.
func TestRequestThatMayBlockIsServedInABusyRing(t *testing.T) {
	_, e, q := relievedMachine(t, device.Options{})
	close(e.release)
	for range 50 {
		for s := 1; s < slots; s++ {
			q.submit(s, "fast")
		}
		q.submit(0, "block")
		q.doKick()
		for begin := time.Now(); ; {
			r := q.next()
			if r.slot == 0 {
				break
			}
			if time.Since(begin) > long {
				t.Fatal("it is not served while there is anything else")
			}
			q.submit(r.slot, "fast")
			q.doKick()
		}
		for range slots - 1 {
			q.next()
		}
	}
}

func TestStopWaitsForABlockedReader(t *testing.T) {
	_, e, q := blockedReader(t, device.Options{})
	stopped := make(chan struct{})
	go func() { q.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("the ring has stopped before its request was done")
	case <-time.After(50 * time.Millisecond):
	}
	close(e.release)
	<-stopped
	r, ok := q.poll()
	if !ok {
		t.Fatal("the request was not completed")
	}
	q.expect(r, "block")
	eventually(t, "only the worker is left", func() bool { return e.threads.Load() == 1 })
	q.start()
	q.expect(q.do(5, "goes on"), "goes on")
}

func TestReaderThatOutlastsTheStop(t *testing.T) {
	_, e, q := blockedReader(t, device.Options{StopLimit: 50 * time.Millisecond})
	if q.tryStop() == nil {
		t.Error("the front-end's log has no word about it")
	}
	q.start()
	q.expect(q.do(5, "others"), "others")
	q.none()
	close(e.release)
	q.expect(q.next(), "block")
	q.none()
	if n := e.served.Load(); n != 3 {
		t.Errorf("served %d requests", n)
	}
}

func TestPanicOfABlockedReader(t *testing.T) {
	m, e, q := relievedMachine(t, device.Options{})
	close(e.release)
	for range 20 {
		if r := q.do(0, "die"); r.written != 0 {
			t.Errorf("%+v", r)
		}
		q.expect(q.do(1, "fast"), "fast")
		q.expect(q.do(2, "block"), "block")
	}
	if n := m.dev.QueueStats(1).Panics.Load(); n != 20 {
		t.Errorf("%d panics counted", n)
	}
}

// A driver that kicks only when it is asked to always gets its answers, whoever
// reads.
func TestNoKickIsLostBetweenReaders(t *testing.T) {
	for _, depth := range []int{1, 2, 5} {
		t.Run(fmt.Sprintf("depth=%d", depth), func(t *testing.T) {
			m, e := newEchoMachine(t, device.Options{Workers: 2, WorkerIdle: 5 * time.Millisecond})
			close(e.release)
			q := m.queues[1]
			q.start()
			var sent atomic.Int64
			kinds := []string{"fast", "block", "block", "fast", "fast", "block"}
			submit := func(slot int) {
				q.submit(slot, kinds[sent.Add(1)%int64(len(kinds))])
				q.doKick()
			}
			for s := range depth {
				submit(s)
			}
			for i := range 20000 {
				r := q.next()
				if i%1000 == 999 {
					time.Sleep(10 * time.Millisecond) // for the threads to end
				}
				submit(r.slot)
			}
			for range depth {
				q.next()
			}
		})
	}
}

// FORGETs that follow requests of another queue are served by that queue's
// reader, all of them, and the driver gets them back.
func TestReadersOfOtherQueuesServeHiprio(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{})
	hiprio, q := m.queues[0], m.queues[1]
	hiprio.start()
	q.start()
	const rounds = 20000
	out, wakeups := 0, m.dev.QueueStats(0).Wakeups.Load()
	reap := func() {
		for {
			if _, ok := hiprio.pollQuiet(); !ok {
				return
			}
			out--
		}
	}
	for i := range rounds {
		q.submit(0, "fast")
		q.doKick()
		for out == slots {
			reap()
		}
		hiprio.submit(i%slots, "forget")
		hiprio.doKick()
		out++
		q.next()
		reap()
	}
	for end := time.Now().Add(long); out > 0; reap() {
		if time.Now().After(end) {
			t.Fatalf("%d never came back", out)
		}
	}
	if n := m.dev.QueueStats(0).Requests.Load(); n != rounds {
		t.Errorf("%d of %d were served", n, rounds)
	}
	n := m.dev.QueueStats(0).Wakeups.Load() - wakeups
	t.Logf("%d wake-ups", n)
	if n > rounds/4 {
		t.Errorf("%d wake-ups for %d requests", n, rounds)
	}
}

// Either ring is stopped and started while the reader of one serves the other.
func TestStopOfAVisitedRing(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 2})
	close(e.release)
	hiprio, q := m.queues[0], m.queues[1]
	hiprio.start()
	q.start()
	for i := range 300 {
		for j := range 10 {
			q.submit(0, "fast")
			q.doKick()
			hiprio.submit(j, []string{"forget", "panic", "block"}[i%3])
			hiprio.doKick()
			if j < 9 {
				q.next()
			}
		}
		stopped := m.queues[i/3%2]
		stopped.stop()
		stopped.start()
		q.next()
		for range 10 {
			hiprio.next()
		}
	}
}

func TestServingWhatMayBlockAllocatesNothing(t *testing.T) {
	_, e, q := relievedMachine(t, device.Options{})
	close(e.release)
	text := "block no allocation here"
	round := func() {
		q.submit(0, text)
		q.doKick()
		for {
			if _, ok := q.pollQuiet(); ok {
				return
			}
			q.waitCall(long)
		}
	}
	if n := testing.AllocsPerRun(200, round); n > 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

// The driver kicks for the first request only: the reader looks for the others by itself, and sleeps no more.
func TestReaderThatPollsNeedsNoKick(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{BusyPoll: time.Hour})
	q := m.queues[1]
	q.start()
	q.expect(q.do(0, "fast"), "fast")
	before := m.dev.QueueStats(1).Wakeups.Load()
	for i := range 100 {
		q.submit(i%slots, "fast")
		q.expect(q.next(), "fast")
	}
	s := m.dev.QueueStats(1)
	if n := s.Wakeups.Load() - before; n != 0 || s.PollsFound.Load() == 0 {
		t.Errorf("%d wake-ups, %d of %d polls found something", n, s.PollsFound.Load(), s.Polls.Load())
	}
	began := time.Now()
	q.stop()
	if d := time.Since(began); d > long/2 {
		t.Errorf("a stop waited %v for a reader that polls", d)
	}
}

// A reader that has looked in vain sleeps, and a kick wakes it.
func TestReaderThatPollsInVainIsKicked(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{BusyPoll: time.Microsecond})
	q := m.queues[1]
	q.start()
	for i := range 20 {
		q.expect(q.do(i%slots, "fast"), "fast")
		time.Sleep(time.Millisecond)
	}
	s := m.dev.QueueStats(1)
	if polls, found := s.Polls.Load(), s.PollsFound.Load(); polls == 0 || polls-found > 5 {
		t.Errorf("%d polls for 20 requests that are a millisecond apart, %d found something", polls, found)
	}
}

func TestFirstReplyComesBeforeTheLastOfALongBatchIsServed(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{})
	q := m.queues[1]
	q.start()
	defer close(e.release)
	q.submit(0, "slow")
	q.submit(1, "hold")
	q.doKick()
	eventually(t, "the second is being served", func() bool { return e.blocking.Load() == 1 })
	q.expect(q.next(), "slow")
	e.release <- struct{}{}
	q.expect(q.next(), "hold")
}
