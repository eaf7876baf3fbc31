package device_test

import (
	"fmt"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

func TestServingAllocatesNothing(t *testing.T) {
	m, _ := newEchoMachine(t, device.Options{Workers: 2})
	q := m.queues[1]
	q.start()
	text := "no allocation here"
	round := func() {
		for s := range 8 {
			q.submit(s, text)
		}
		q.doKick()
		for range 8 {
			for {
				if _, ok := q.pollQuiet(); ok {
					break
				}
				q.waitCall(long)
			}
		}
	}
	if n := testing.AllocsPerRun(200, round); n > 0 {
		t.Errorf("%v allocations for 8 requests", n)
	}
}

func BenchmarkRequests(b *testing.B) {
	for _, depth := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			m, _ := newEchoMachine(b, device.Options{Workers: 2})
			q := m.queues[1]
			q.start()
			b.ReportAllocs()
			b.ResetTimer()
			sent, got := 0, 0
			for got < b.N {
				n := 0
				for sent < b.N && sent-got < depth {
					q.submit(sent%slots, "x")
					sent++
					n++
				}
				if n > 0 {
					q.doKick()
				}
				for {
					for {
						if _, ok := q.pollQuiet(); !ok {
							break
						}
						got++
					}
					if sent-got < depth || got == b.N {
						break
					}
					q.waitCall(long)
				}
			}
			b.StopTimer()
			s := m.dev.QueueStats(1)
			b.ReportMetric(float64(s.Wakeups.Load())/float64(b.N), "wakeups/op")
			b.ReportMetric(float64(s.Calls.Load())/float64(b.N), "calls/op")
		})
	}
}
