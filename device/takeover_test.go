package device_test

import (
	"maps"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// What a daemon that was killed had taken and not completed is served by the one
// that takes over, once, and nothing else is.
func TestRequestsOfADeadDaemonAreServedAgain(t *testing.T) {
	t.Run("at once", func(t *testing.T) { testTakeOver(t, false) })
	t.Run("after a stop", func(t *testing.T) { testTakeOver(t, true) })
}

// testTakeOver stops the ring before the second daemon has looked at it, if it is told to.
func testTakeOver(t *testing.T, stops bool) {
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
	q.asleep()
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
	if stops {
		ring.Enabled = false
		if err := dev.StartRing(1, ring); err != nil {
			t.Fatal(err)
		}
		base, err := dev.StopRing(1)
		if err != nil {
			t.Fatal(err)
		}
		ring = q.ring(dup(t, q.kick))
		ring.Base = base
	}
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
