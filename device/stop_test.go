package device_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

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
