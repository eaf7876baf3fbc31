package device_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

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

// A request that outlasts a stop may be completed while the reader of the next life
// serves another, which outlasts the next stop.
func TestLateRequestIsNotTheOneThatTheReaderServes(t *testing.T) {
	_, e, q := lateRequest(t)
	q.start()
	q.submit(1, "hold later")
	q.doKick()
	eventually(t, "the reader serves another", func() bool { return e.blocking.Load() == 2 })
	close(e.release)
	q.expect(q.next(), "block")
	if q.tryStop() == nil {
		t.Fatal("the reader's request is not counted as late")
	}
	q.start()
	q.expect(q.do(5, "others"), "others")
	close(e.later)
	q.expect(q.next(), "hold later")
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
