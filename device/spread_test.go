package device_test

import (
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

// large is room for an answer that is worth a helper.
const large = 128 << 10

// submitLarge is submit with room for a large answer, which lies over that of
// other slots: nobody answers that much.
func (q *queue) submitLarge(slot int, text string) {
	q.submit(slot, text)
	q.desc(2*slot+1, slotsAt+slot*slotSize+inSize, large, 2, 0)
}

// submitHeld is a large request that a helper holds, with one behind it that has been
// answered.
func (q *queue) submitHeld() {
	q.atOnce(func() {
		q.submitLarge(0, "hold")
		q.submit(1, "behind")
	})
	q.doKick()
	q.expect(q.next(), "behind")
}

// largeOnes is a queue of a machine with one helper.
func largeOnes(t *testing.T) (*machine, *echo, *queue) {
	m, e := newEchoMachine(t, device.Options{Workers: 2, Helpers: 1})
	q := m.queues[1]
	q.start()
	e.releaseAtEnd(t)
	return m, e, q
}

func TestLargeRequestDelaysNobodyBehindIt(t *testing.T) {
	m, e, q := largeOnes(t)
	q.submitHeld()
	close(e.release)
	q.expect(q.next(), "hold")
	if n := m.dev.QueueStats(1).Spread.Load(); n != 1 {
		t.Errorf("%d requests given to helpers", n)
	}
}

func TestReaderServesLargeRequestsToo(t *testing.T) {
	m, e, q := largeOnes(t)
	const n = 6
	q.atOnce(func() {
		for s := range n {
			q.submitLarge(s, "hold")
		}
	})
	q.doKick()
	eventually(t, "the helper and the reader are busy", func() bool { return e.blocking.Load() == 2 })
	if n := m.dev.QueueStats(1).Spread.Load(); n != 2 {
		t.Errorf("%d requests given to a helper, which serves one and has one to go on with", n)
	}
	close(e.release)
	for range n {
		q.expect(q.next(), "hold")
	}
	q.none()
}

func TestHelperDoesNotWait(t *testing.T) {
	_, e, q := largeOnes(t)
	q.atOnce(func() {
		q.submitLarge(0, "block")
		for s := 1; s < 5; s++ {
			q.submitLarge(s, "hot")
		}
	})
	q.doKick()
	for range 4 {
		q.expect(q.next(), "hot")
	}
	close(e.release)
	q.expect(q.next(), "block")
}

func TestWhatIsNotSpread(t *testing.T) {
	m, _, q := largeOnes(t)
	q.submitLarge(0, "alone")
	q.doKick()
	q.expect(q.next(), "alone")
	q.atOnce(func() {
		q.submit(0, "small")
		q.submit(1, "small")
	})
	q.doKick()
	q.expect(q.next(), "small")
	q.expect(q.next(), "small")
	if n := m.dev.QueueStats(1).Spread.Load(); n != 0 {
		t.Errorf("%d requests given to a helper", n)
	}
}

func TestReaderTakesBackWhatNoHelperHasBegun(t *testing.T) {
	m, e, q := largeOnes(t)
	q.atOnce(func() {
		q.submitLarge(0, "hold")
		q.submitLarge(1, "large")
		q.submit(2, "behind")
	})
	q.doKick()
	q.answers(2, func(slot int) string { return []string{"", "large", "behind"}[slot] })
	if n := m.dev.QueueStats(1).Spread.Load(); n != 2 {
		t.Errorf("%d requests given to a helper", n)
	}
	close(e.release)
	q.expect(q.next(), "hold")
	// The reader counts them behind their publication.
	eventually(t, "three requests are counted", func() bool { return m.dev.QueueStats(1).Requests.Load() == 3 })
	// There is as much room as before.
	q.atOnce(func() {
		q.submitLarge(0, "large")
		q.submitLarge(1, "large")
		q.submit(2, "behind")
	})
	q.doKick()
	for range 3 {
		q.next()
	}
	if n := m.dev.QueueStats(1).Spread.Load(); n != 4 {
		t.Errorf("%d requests given to a helper", n)
	}
}

func TestReaderServesWhatAHelperThatCannotStartWasGiven(t *testing.T) {
	m, e, q := largeOnes(t)
	q.expect(q.do(0, "the reader runs"), "the reader runs")
	e.failNew.Store(true)
	for i := range 3 {
		q.atOnce(func() {
			for s := range 5 {
				q.submitLarge(s, "large")
			}
		})
		q.doKick()
		q.answers(5, func(int) string { return "large" })
		// After that it is not tried again for a while. Until the first thread has failed, others are given work.
		if n := m.dev.QueueStats(1).Spread.Load(); i > 0 && n > 4 {
			t.Errorf("%d requests given to helpers", n)
		}
	}
	q.none()
}

func TestThereAreNoHelpersWithoutWorkers(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Helpers: 1})
	q := m.queues[1]
	q.start()
	q.atOnce(func() {
		q.submitLarge(0, "large")
		q.submit(1, "behind")
	})
	q.doKick()
	q.expect(q.next(), "large")
	q.expect(q.next(), "behind")
}

// A stop waits for what helpers serve.
func TestStopWaitsForHelpers(t *testing.T) {
	_, e, q := largeOnes(t)
	q.submitHeld()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		q.stop()
	}()
	select {
	case <-stopped:
		t.Error("the ring stopped with a request being served")
	default:
	}
	close(e.release)
	<-stopped
	r, ok := q.poll()
	if !ok {
		t.Fatal("the request was lost")
	}
	q.expect(r, "hold")
}
