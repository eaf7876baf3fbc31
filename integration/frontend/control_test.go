package frontend_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// controlled is the client of a daemon's control socket.
type controlled struct {
	t               *testing.T
	program, socket string
}

// controlledWindow boots a guest with a DAX window on a daemon that has a control socket.
func controlledWindow(t *testing.T, dir string, options ...string) (*fuseclient.Client, controlled) {
	t.Helper()
	ownWindow(t)
	sockets, err := os.MkdirTemp("", "ctl")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	ctl := controlled{t, daemontest.Command(t)[0], filepath.Join(sockets, "c")}
	d := daemontest.Start(t, dir, append([]string{"--tag=test", "--control-socket=" + ctl.socket}, options...)...)
	c := daemontest.Mount(t, d, frontend.Options{Device: frontend.GenericDevice}, fuseclient.Options{Offer: daxFlags})
	if c.Frontend().Window == nil || c.Flags&fuse.CAP_MAP_ALIGNMENT == 0 {
		t.Fatal("the daemon offers no window")
	}
	return c, ctl
}

// ask runs virtiofsd-go ctl and returns the numbers that it prints.
func (c controlled) ask(args ...string) map[string]float64 {
	c.t.Helper()
	cmd := exec.Command(c.program, append([]string{"ctl", "--socket=" + c.socket, "--json", "dax"}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("ctl dax %v: %v: %s", args, err, complaint.String())
	}
	var fields map[string]any
	must(c.t, json.Unmarshal(out, &fields))
	numbers := map[string]float64{}
	for name, v := range fields {
		if n, ok := v.(float64); ok {
			numbers[name] = n
		}
	}
	return numbers
}

// TestCtlReclaimTakesPagesAway counts what is resident, dirties it, takes it back and touches it again: what was stored
// is in the file, and the touch is a fault. To see it fail: let the command answer without reclaiming.
func TestCtlReclaimTakesPagesAway(t *testing.T) {
	const ranges = 8
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	want := pattern(ranges*rangeSize, 5)
	must(t, os.WriteFile(path, want, 0o600))
	c, ctl := controlledWindow(t, dir, "--dax-window=32M")
	w := c.Frontend().Window
	e, err := c.Lookup(root, 1, "f")
	must(t, err)
	for i := range uint64(ranges) {
		must(t, c.Setupmapping(e.NodeId, i*rangeSize, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, i*rangeSize))
	}
	got := make([]byte, len(want))
	must(t, w.Load(got, 0))
	must(t, w.Store([]byte("stored"), 3*rangeSize+77))
	copy(want[3*rangeSize+77:], "stored")

	// counted is about exact numbers, which a host that is short of memory changes by itself.
	counted := func(when string, s map[string]float64) {
		t.Helper()
		if n := ctl.ask("stats")["pressure_events"]; n > 0 {
			t.Skipf("the host was short of memory %v times, and reclaimed by itself", n)
		}
		t.Errorf("%s: %v", when, s)
	}
	before := ctl.ask("stats")
	if before["resident_bytes"] < ranges*rangeSize || before["mapped_bytes"] != ranges*rangeSize || before["faults"] == 0 || before["setups"] != ranges {
		counted("before", before)
	}
	if some := ctl.ask("reclaim", "2M"); some["reclaimed_bytes"] != rangeSize || some["resident_bytes"] != before["resident_bytes"]-rangeSize {
		counted("2M", some)
	}
	if all := ctl.ask("reclaim", "all"); all["reclaimed_bytes"] < (ranges-1)*rangeSize || all["resident_bytes"] != 0 {
		t.Errorf("all: %v", all)
	}
	after := ctl.ask("stats")
	if after["resident_bytes"] != 0 || after["reclaimed_bytes"] < ranges*rangeSize || after["reclaims"] != 2 || after["writebacks"] == 0 {
		counted("after", after)
	}
	if after["mapped_bytes"] != before["mapped_bytes"] {
		t.Error("the guest's mappings are gone")
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Errorf("the file is not what was stored (%v)", err)
	}
	must(t, w.Load(got, 0))
	if !bytes.Equal(got, want) {
		t.Error("the mappings show something else after reclaim")
	}
	if again := ctl.ask("stats"); again["faults"] <= after["faults"] || again["resident_bytes"] < ranges*rangeSize {
		counted("after another touch", again)
	}
}

// TestCtlWhileTheGuestWorks takes everything back again and again while ranges come and go, are written to and compared,
// and the machine pauses.
func TestCtlWhileTheGuestWorks(t *testing.T) {
	const files = 4
	dir := t.TempDir()
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, rangeSize), 0o600))
	}
	c, ctl := controlledWindow(t, dir, "--dax-window=32M", "--dax-memory=6M")
	w := c.Frontend().Window
	var ended atomic.Bool
	var wg sync.WaitGroup
	for i := range uint64(files) {
		wg.Go(func() {
			e, err := c.Lookup(root, 1, fmt.Sprint(i))
			if err != nil {
				t.Errorf("lookup: %v", err)
				return
			}
			want, got := make([]byte, rangeSize), make([]byte, rangeSize)
			for n := 0; !ended.Load(); n++ {
				if err := c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, i*rangeSize); err != nil {
					continue // it is being paused
				}
				at := rand.IntN(rangeSize - 8)
				value := fmt.Sprintf("%8d", n)
				copy(want[at:], value)
				if err := errors.Join(w.Store([]byte(value), i*rangeSize+uint64(at)), w.Load(got, i*rangeSize)); err != nil {
					t.Errorf("file %d, round %d: %v", i, n, err)
					return
				}
				if !bytes.Equal(got, want) {
					t.Errorf("file %d, round %d: the mapping shows something else", i, n)
					return
				}
				if err := c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: i * rangeSize, Len: rangeSize}}); err == unix.ETIMEDOUT {
					t.Errorf("REMOVEMAPPING: %v", err)
					return
				}
			}
		})
	}
	for range 20 {
		ctl.ask("reclaim", "all")
		ctl.ask("stats")
		must(t, c.Frontend().Stop())
		ctl.ask("reclaim", "4M")
		must(t, c.Frontend().Start())
	}
	ended.Store(true)
	wg.Wait()
	if s := ctl.ask("stats"); s["reclaimed_ranges"] == 0 || s["faults"] == 0 || s["fault_errors"] != 0 || s["invalidate_errors"] != 0 {
		t.Errorf("%v", s)
	}
}
