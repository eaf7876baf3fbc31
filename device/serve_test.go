package device_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

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
