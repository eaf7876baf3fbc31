package device_test

import (
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

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
