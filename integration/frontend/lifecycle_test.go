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

func TestPausedGuestKeepsItsFiles(t *testing.T) {
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			skipPacked(t, f.packed)
			c := daemontest.Mount(t, daemontest.Start(t, t.TempDir()), frontend.Options{Packed: f.packed}, fuseclient.Options{})
			file, err := c.Create(root, 1, "f", unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
			must(t, err)
			for i := range 20 {
				want := fmt.Appendf(nil, "round %d", i)
				_, err := c.Write(root, file.NodeId, file.Fh, want, 0, unix.O_RDWR, 0)
				must(t, err)
				must(t, c.Frontend().Stop())
				must(t, c.Frontend().Start())
				got := make([]byte, 100)
				n, err := c.Read(root, file.NodeId, file.Fh, got, 0, unix.O_RDWR)
				if err != nil || !bytes.Equal(got[:n], want) {
					t.Fatalf("after pause %d: %q, %v", i, got[:n], err)
				}
			}
		})
	}
}

func TestPauseUnderLoadLosesNoRequest(t *testing.T) {
	for _, f := range formats {
		for _, inflight := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/inflight=%t", f.name, inflight), func(t *testing.T) {
				skipPacked(t, f.packed || inflight)
				dir := t.TempDir()
				must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
				c := daemontest.Mount(t, daemontest.Start(t, dir), frontend.Options{Packed: f.packed, Inflight: inflight}, fuseclient.Options{Timeout: 10 * time.Second})
				load := startLoad(t, c, 16)
				for range 50 {
					must(t, c.Frontend().Stop())
					before := load.done.Load()
					time.Sleep(time.Millisecond)
					if n := load.done.Load() - before; n > 256 {
						t.Errorf("%d requests were served while the rings were stopped", n)
					}
					must(t, c.Frontend().Start())
					time.Sleep(2 * time.Millisecond)
				}
				load.stop()
				alive(t, c)
			})
		}
	}
}

// load is callers that look up, read and write until told to stop. Any error fails the test.
type load struct {
	done  atomic.Int64
	ended atomic.Bool
	wg    sync.WaitGroup
}

func startLoad(t *testing.T, c *fuseclient.Client, callers int) *load {
	l := &load{}
	for i := range callers {
		l.wg.Go(func() {
			buf := make([]byte, 64<<10)
			for !l.ended.Load() {
				if err := oneRound(c, buf); err != nil {
					t.Errorf("caller %d: %v", i, err)
					return
				}
				l.done.Add(1)
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.ended.Store(true)
	l.wg.Wait()
}

func oneRound(c *fuseclient.Client, buf []byte) error {
	e, err := c.Lookup(root, 1, "f")
	if err != nil {
		return fmt.Errorf("lookup: %w", err)
	}
	o, err := c.Open(root, e.NodeId, unix.O_RDWR, 0, false)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if n, err := c.Read(root, e.NodeId, o.Fh, buf, 4096, 0); err != nil || n != len(buf) {
		return fmt.Errorf("read: %d, %w", n, err)
	}
	if n, err := c.Write(root, e.NodeId, o.Fh, buf[:8192], 0, 0, 0); err != nil || n != 8192 {
		return fmt.Errorf("write: %d, %w", n, err)
	}
	if err := c.CloseHandle(e.NodeId, o.Fh, 0, 0, 0, false); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return c.Forget(e.NodeId, 1)
}

func TestRequestsSubmittedWhilePausedAreServedWithoutAKick(t *testing.T) {
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			skipPacked(t, f.packed)
			c := daemontest.Mount(t, daemontest.Start(t, t.TempDir()), frontend.Options{Packed: f.packed},
				fuseclient.Options{Polled: true})
			q := c.Frontend().Queue(1)
			must(t, c.Frontend().Stop())
			r, err := c.Acquire(1)
			must(t, err)
			r.Begin(fuseclient.OpInit, 0, root)
			r.Expect(64, true)
			clear(r.Args()[:64])
			r.SetArgs(64)
			copy(r.Args(), []byte{7, 0, 0, 0, 45})
			must(t, r.Submit())
			must(t, c.Frontend().Start())
			if daemontest.Foreign() {
				must(t, q.ForceKick()) // the specification lets a back-end wait for one
			}
			var done [1]*fuseclient.Request
			for c.Reap(1, done[:]) == 0 { // a call need not mean a reply
				must(t, q.WaitTimeout(5*time.Second))
			}
			if r.Err != 0 {
				t.Errorf("FUSE_INIT: %v", r.Err)
			}
		})
	}
}

func TestResetGivesTheNextGuestAFreshFileSystem(t *testing.T) {
	for _, f := range formats {
		for _, dev := range []frontend.Device{frontend.FSDevice, frontend.GenericDevice} {
			t.Run(fmt.Sprintf("%s/device%d", f.name, dev), func(t *testing.T) {
				skipPacked(t, f.packed)
				d := daemontest.Start(t, t.TempDir(), "--tag=test")
				fe := daemontest.Connect(t, d, frontend.Options{Packed: f.packed, Device: dev})
				before := 0
				for i := range 10 {
					c := fuseclient.New(fe, fuseclient.Options{})
					must(t, c.Init())
					alive(t, c)
					if i == 1 {
						before = openFDs(t, d, -1)
					}
					for k := range 20 { // left open
						_, err := c.Create(root, 1, fmt.Sprintf("f%d", k), unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
						must(t, err)
					}
					must(t, fe.Reset())
					c.Close()
					must(t, fe.Start())
				}
				c := fuseclient.New(fe, fuseclient.Options{})
				defer c.Close()
				must(t, c.Init())
				if n := openFDs(t, d, before); n > before && !daemontest.Foreign() {
					t.Errorf("%d descriptors are open, %d before%s", n, before, fdList(d))
				}
			})
		}
	}
}

func TestDaemonEndsWithItsFrontend(t *testing.T) {
	d := daemontest.Start(t, t.TempDir())
	fe, err := frontend.Open(d.Socket, frontend.Options{})
	must(t, err)
	must(t, fe.Close())
	if err := d.Wait(10 * time.Second); err != nil {
		t.Errorf("the daemon ended with %v, libvirt expects status 0", err)
	}
}

func TestReconnectServesTheNextFrontend(t *testing.T) {
	ours(t)
	d := daemontest.Start(t, t.TempDir(), "--reconnect")
	before := 0
	for i := range 10 {
		fe, err := frontend.Open(d.Socket, frontend.Options{Packed: i%2 == 1})
		must(t, err)
		c := fuseclient.New(fe, fuseclient.Options{})
		must(t, c.Init())
		_, err = c.Create(root, 1, fmt.Sprintf("f%d", i), unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
		must(t, err)
		c.Close()
		daemontest.CheckFaults(t, fe)
		must(t, fe.Close())
		if i == 2 {
			time.Sleep(100 * time.Millisecond)
			before = openFDs(t, d, -1)
		}
	}
	if n := openFDs(t, d, before); n > before {
		t.Errorf("%d descriptors are open, %d after the third connection%s", n, before, fdList(d))
	}
}

func TestDisconnectUnderLoadLeaksNothing(t *testing.T) {
	ours(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
	d := daemontest.Start(t, dir, "--reconnect", "--thread-pool-size=4")
	before := 0
	for i := range 10 {
		fe, err := frontend.Open(d.Socket, frontend.Options{})
		must(t, err)
		c := fuseclient.New(fe, fuseclient.Options{})
		must(t, c.Init())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				buf := make([]byte, 64<<10)
				for oneRound(c, buf) == nil {
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		fe.Disconnect()
		time.Sleep(20 * time.Millisecond)
		c.Close()
		for range 100 { // callers that went on after Close
			c.Abort()
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		fe.Close()
		if i == 1 {
			time.Sleep(100 * time.Millisecond)
			before = openFDs(t, d, -1)
		}
	}
	if n := openFDs(t, d, before); n > before {
		t.Errorf("%d descriptors are open, %d before%s", n, before, fdList(d))
	}
}
