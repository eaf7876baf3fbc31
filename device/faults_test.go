package device_test

import (
	"encoding/binary"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

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
