package device

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A reader that slept on the only processor without telling the scheduler held up everything else of the process for
// ten milliseconds at each sleep.
func TestSleepingReadersLeaveAProcessorToOthers(t *testing.T) {
	for _, processors := range []int{1, 2, 4} {
		before := runtime.GOMAXPROCS(processors)
		const readers, rounds = 8, 50
		stop, done := make(chan struct{}), make(chan struct{})
		var waiters []*waiter
		for range readers {
			kick, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			w, err := newWaiter(kick)
			if err != nil {
				t.Fatal(err)
			}
			waiters = append(waiters, w)
			go func() {
				defer func() { done <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
						w.wait()
					}
				}
			}()
		}
		turn, back := make(chan struct{}), make(chan struct{})
		go func() {
			for range turn {
				back <- struct{}{}
			}
		}()
		fastest := time.Hour
		for range rounds {
			begin := time.Now()
			for _, w := range waiters {
				w.call()
			}
			time.Sleep(time.Millisecond) // the readers go back to sleep
			for range 100 {
				turn <- struct{}{}
				<-back
				runtime.Gosched()
			}
			fastest = min(fastest, time.Since(begin))
		}
		close(turn)
		close(stop)
		for _, w := range waiters {
			w.call()
		}
		for range waiters {
			<-done
		}
		for _, w := range waiters {
			w.close()
		}
		if n := untoldNow.Load(); n != 0 {
			t.Errorf("%d readers counted as asleep at the end", n)
		}
		runtime.GOMAXPROCS(before)
		t.Logf("%d processors: %v", processors, fastest)
		if fastest > 5*time.Millisecond {
			t.Errorf("%d processors, %d readers asleep: a millisecond of sleep and 100 turns of two goroutines took %v at best", processors, readers, fastest)
		}
	}
}
