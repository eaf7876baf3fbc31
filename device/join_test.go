package device_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// joiners is a queue with a request that a worker serves, told by word, and n
// others that wait to join it.
func joiners(t *testing.T, opts device.Options, word string, n int) (*machine, *echo, *queue) {
	m, e := newEchoMachine(t, opts)
	q := m.queues[1]
	q.start()
	e.releaseAtEnd(t)
	q.submit(0, word+" 0")
	// With something else to do the reader serves nothing that may block.
	q.submit(n+1, "other")
	q.doKick()
	q.expect(q.next(), "other")
	eventually(t, "the first request is being served", func() bool { return e.blocking.Load() == 1 })
	for i := 1; i <= n; i++ {
		q.submit(i, fmt.Sprintf("joint %d", i))
	}
	q.submit(n+2, "behind")
	q.doKick()
	q.expect(q.next(), "behind")
	eventually(t, "all wait", func() bool { return m.dev.QueueStats(1).Handed.Load() == uint64(n)+1 })
	return m, e, q
}

// answers takes n replies and checks them.
func (q *queue) answers(n int, text func(slot int) string) {
	q.m.t.Helper()
	seen := map[int]bool{}
	for range n {
		r := q.next()
		q.expect(r, text(r.slot))
		if seen[r.slot] {
			q.m.t.Fatalf("slot %d is answered twice", r.slot)
		}
		seen[r.slot] = true
	}
}

func jointText(slot int) string { return fmt.Sprintf("joint %d", slot) }

func TestRequestsJoinOneThatHasNotBegun(t *testing.T) {
	const n = 20
	_, e, q := joiners(t, device.Options{Workers: 2}, "joint", n)
	// They take no worker.
	if r := q.do(n+3, "die"); r.written != 0 {
		t.Errorf("%+v", r)
	}
	close(e.release)
	q.answers(n+1, jointText)
	q.none()
	// The first of them could not know of what came after the one before it.
	if got := e.joined.Load(); got != n-1 {
		t.Errorf("%d requests joined another instead of %d", got, n-1)
	}
}

func TestJoiningRequestsOutliveAPanic(t *testing.T) {
	const n = 20
	_, e, q := joiners(t, device.Options{Workers: 1}, "broken", n)
	close(e.release)
	q.answers(n+1, func(slot int) string {
		if slot == 0 {
			return ""
		}
		return jointText(slot)
	})
}

// Those behind one that panics go to other threads, each by itself.
func TestThoseThatJoinAreServedOnceAfterAPanic(t *testing.T) {
	const n = 20
	m, e, q := joiners(t, device.Options{Workers: 4}, "joint", 0)
	for i := 3; i < 3+n; i++ {
		if i == 4 {
			q.submit(i, "burst")
		} else {
			q.submit(i, jointText(i))
		}
	}
	q.doKick()
	eventually(t, "all wait", func() bool { return m.dev.QueueStats(1).Handed.Load() == n+1 })
	close(e.release)
	q.answers(n+1, func(slot int) string {
		if slot == 4 {
			return ""
		}
		return jointText(slot)
	})
	q.none()
	if got := e.served.Load(); got != n+2 {
		t.Errorf("%d requests are served, want %d", got, n+2)
	}
}

func TestStopWaitsForThoseThatJoin(t *testing.T) {
	const n = 20
	_, e, q := joiners(t, device.Options{Workers: 1}, "joint", n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.stop()
	}()
	time.Sleep(5 * time.Millisecond)
	close(e.release)
	<-done
	q.answers(n+1, jointText)
}

func TestThoseThatJoinOutlastTheStop(t *testing.T) {
	const n = 20
	_, e, q := joiners(t, device.Options{Workers: 1, StopLimit: 10 * time.Millisecond}, "joint", n)
	if err := q.tryStop(); err == nil {
		t.Error("the stop did not tell of requests that are being served")
	}
	q.start()
	q.none()
	close(e.release)
	q.answers(n+1, jointText)
}

func TestJoiningWhileRequestsEnd(t *testing.T) {
	m, e := newEchoMachine(t, device.Options{Workers: 4})
	close(e.release)
	q := m.queues[1]
	q.start()
	for range 100 {
		for i := range slots {
			q.submit(i, jointText(i))
		}
		q.doKick()
		q.answers(slots, jointText)
	}
}
