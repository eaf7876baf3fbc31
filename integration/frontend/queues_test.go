package frontend_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestSixtyFourRequestQueues works on hiprio and each of 64 request queues at once, over a pause.
func TestSixtyFourRequestQueues(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			const queues, each = 65, 50
			c := daemontest.Mount(t, daemontest.Start(t, t.TempDir()), frontend.Options{Packed: f.packed, Queues: queues}, fuseclient.Options{MaxData: 4096})
			fe := c.Frontend()
			var before [queues]uint64
			for i := range before {
				before[i] = fe.Queue(i).Completed()
			}
			for range 2 {
				var wg sync.WaitGroup
				for i := range queues {
					wg.Go(func() {
						for range each {
							r, err := c.Acquire(i)
							if err != nil {
								t.Error(err)
								return
							}
							if i == 0 {
								r.Begin(fuseclient.OpForget, 1, root)
								r.SetArgs(copy(r.Args(), le(uint64(0))))
								r.NoReply()
							} else {
								r.Begin(fuseclient.OpGetattr, 1, root)
								clear(r.Args()[:16])
								r.SetArgs(16)
								r.Expect(104, false)
							}
							if err := c.Do(r, nil); err != nil {
								t.Errorf("queue %d: %v", i, err)
								return
							}
						}
					})
				}
				wg.Wait()
				must(t, fe.Stop())
				must(t, fe.Start())
			}
			for i, n := range before {
				if got := fe.Queue(i).Completed() - n; got != 2*each {
					t.Errorf("queue %d completed %d requests, want %d", i, got, 2*each)
				}
			}
		})
	}
}

// TestQueuesOfTheLargestSize fills queues of 32768 descriptors to the last one, twice, with direct descriptors and with
// indirect tables.
func TestQueuesOfTheLargestSize(t *testing.T) {
	ours(t)
	const size = 32768
	for _, f := range formats {
		for _, without := range []uint64{0, frontend.FRingIndirect} {
			t.Run(fmt.Sprintf("%s/indirect=%t", f.name, without == 0), func(t *testing.T) {
				fe := daemontest.Connect(t, daemontest.Start(t, t.TempDir()), frontend.Options{Packed: f.packed, QueueSize: size, Without: without})
				g := newRawGuest(t, fe)
				exchange := func(n int, length, room uint32) {
					t.Helper()
					chains := make([]frontend.Chain, n)
					for i := range chains {
						chains[i].Readable = []frontend.Seg{{GPA: g.mem + reqAt, Len: length}}
						chains[i].Writable = []frontend.Seg{{GPA: g.mem + replyAt, Len: room}}
						must(t, g.q.Submit(&chains[i]))
					}
					if n == size && g.q.Submit(&frontend.Chain{Readable: chains[0].Readable}) != frontend.ErrFull {
						t.Error("the ring has more room")
					}
					must(t, g.q.Kick())
					done := make([]*frontend.Chain, 256)
					for got, deadline := 0, time.Now().Add(60*time.Second); got < n; {
						k := g.q.Poll(done)
						for _, c := range done[:k] {
							if c.Used != room {
								t.Fatalf("used length %d, want %d", c.Used, room)
							}
						}
						if got += k; time.Now().After(deadline) {
							t.Fatalf("%d of %d requests came back", got, n)
						}
					}
					if s := g.status(); s != 0 {
						t.Fatalf("status %d", s)
					}
				}
				g.request(104, 26, 2, 0) // INIT
				copy(fe.Mem.Bytes(g.mem+40, 8), []byte{7, 0, 0, 0, 45})
				exchange(1, 104, 80)
				g.request(getattr, 3, 4, 1)
				n := size
				if without != 0 {
					n /= 2 // two descriptors each
				}
				for range 2 {
					exchange(n, getattr, attrOut)
				}
			})
		}
	}
}

// TestQueuesArePolledWithoutAKickDescriptor has every ring in polling mode, also after a pause.
func TestQueuesArePolledWithoutAKickDescriptor(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
			c := daemontest.Mount(t, daemontest.Start(t, dir), frontend.Options{Packed: f.packed, NoKick: true}, fuseclient.Options{Timeout: 10 * time.Second})
			buf := make([]byte, 64<<10)
			for range 5 {
				for range 20 {
					must(t, oneRound(c, buf))
				}
				must(t, c.Frontend().Stop())
				time.Sleep(5 * time.Millisecond)
				must(t, c.Frontend().Start())
			}
		})
	}
}
