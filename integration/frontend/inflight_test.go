package frontend_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestKilledDaemonLosesNoRequest kills the daemon at random moments under load and starts another on the same in-flight
// area: every request gets one reply, and what was replied to has happened.
func TestKilledDaemonLosesNoRequest(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			dir := t.TempDir()
			sockets, err := os.MkdirTemp("", "vfs")
			must(t, err)
			defer os.RemoveAll(sockets)
			log := &bytes.Buffer{}
			start := func() *frontend.Daemon {
				d, err := frontend.StartDaemon(append(daemontest.Command(t), "--thread-pool-size=2"), filepath.Join(sockets, "s"), dir, log)
				if err != nil {
					t.Fatalf("%v\n%s", err, log)
				}
				return d
			}
			d := start()
			defer func() {
				d.Stop()
				if t.Failed() {
					t.Logf("the daemons printed:\n%s", log)
				}
			}()
			fe, err := frontend.Open(d.Socket, frontend.Options{Inflight: true, Packed: f.packed})
			must(t, err)
			defer fe.Close()
			if fe.Protocol()&frontend.ProtocolInflightShmFD == 0 {
				t.Fatal("the daemon offers no in-flight tracking")
			}
			c := fuseclient.New(fe, fuseclient.Options{Timeout: 20 * time.Second})
			defer c.Close()
			must(t, c.Init())
			ext := c.Extensions(nil, nil)

			var made atomic.Int64
			var ended atomic.Bool
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := 0; !ended.Load(); i++ {
						name := fmt.Sprintf("d%d.%d", g, i)
						// EEXIST: it was done, and the daemon was killed before it could say so.
						if _, err := c.Mkdir(root, 1, name, 0o700, 0, ext); err != nil && err != unix.EEXIST {
							t.Errorf("mkdir %s: %v", name, err)
							return
						}
						if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
							t.Errorf("mkdir was answered, and %v", err)
							return
						}
						made.Add(1)
					}
				})
			}
			for range 10 {
				for from := made.Load(); made.Load() < from+50 && !t.Failed(); {
					time.Sleep(time.Millisecond)
				}
				d.Kill()
				d = start()
				must(t, fe.Reconnect())
			}
			ended.Store(true)
			wg.Wait()
			alive(t, c)
			for _, s := range fe.Faults() {
				t.Errorf("fault of the daemon: %s", s)
			}
		})
	}
}

// TestResetLeavesNothingInFlight goes on with the same in-flight area after RESET_DEVICE: what it told of the rings
// before has no meaning for those that begin anew.
func TestResetLeavesNothingInFlight(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			d := daemontest.Start(t, t.TempDir(), "--reconnect")
			fe, err := frontend.Open(d.Socket, frontend.Options{Inflight: true, KeepInflight: true, Packed: f.packed})
			must(t, err)
			defer fe.Close()
			for i := range 5 {
				c := fuseclient.New(fe, fuseclient.Options{Timeout: 20 * time.Second})
				must(t, c.Init())
				for k := range 7 {
					if _, err := c.Mkdir(root, 1, fmt.Sprintf("d%d.%d", i, k), 0o700, 0, c.Extensions(nil, nil)); err != nil {
						t.Fatal(err)
					}
				}
				must(t, fe.Reset())
				c.Close()
				if at := bytes.IndexFunc(fe.Inflight(), func(r rune) bool { return r != 0 }); at >= 0 {
					t.Fatalf("byte %d of the area is %d after reset %d", at, fe.Inflight()[at], i)
				}
				must(t, fe.Start())
			}
			for _, s := range fe.Faults() {
				t.Errorf("fault of the daemon: %s", s)
			}
		})
	}
}
