package fusebridge

import (
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// What is in flight may be of one queue now and of another later.
func TestEachQueueHasMemoryForAllRequestsInFlight(t *testing.T) {
	for _, queues := range []int{0, 2, 3, 5} {
		fe, err := frontend.New("", machine(Options{Queues: queues}))
		if err != nil {
			t.Fatal(err)
		}
		defer fe.Close()
		c := fuseclient.New(fe, fuseclient.Options{Polled: true, MaxData: linuxData})
		for queue := 1; queue <= c.NumRequestQueues(); queue++ {
			for n := range inFlight {
				if _, err := c.Acquire(queue); err != nil {
					t.Fatalf("%d queues: request %d of queue %d: %v", queues, n, queue, err)
				}
			}
		}
	}
}
