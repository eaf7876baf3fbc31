package frontend_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestReadOnlyShareIsNotWrittenThroughTheWindow has a guest store to a mapping that it has asked for reading only, which
// the front-end makes writable all the same.
//
// To see it fail: in package fs, let daxFile.OpenDAX open for writing always.
func TestReadOnlyShareIsNotWrittenThroughTheWindow(t *testing.T) {
	ownWindow(t)
	dir := t.TempDir()
	path, want := filepath.Join(dir, "f"), pattern(10_000, 1)
	must(t, os.WriteFile(path, want, 0o600))
	d := daemontest.Start(t, dir, "--tag=test", "--dax-window=16M", "--readonly")
	c := daemontest.Mount(t, d, frontend.Options{Device: frontend.GenericDevice}, fuseclient.Options{Offer: daxFlags})
	e, err := c.Lookup(root, 1, "f")
	must(t, err)
	must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 0))
	if err := c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0); err != unix.EROFS {
		t.Errorf("SETUPMAPPING for writing: %v", err)
	}
	must(t, c.Frontend().Window.Store([]byte("stored"), 4090))
	must(t, c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}}))
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has changed (%v)", err)
	}
	must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 0))
	got := make([]byte, len(want))
	must(t, c.Frontend().Window.Load(got, 0))
	if !bytes.Equal(got, want) {
		t.Error("a new mapping does not show the file")
	}
}

// TestFilesThatNobodyMayWrite maps a program that the host is running, and a file of a read-only mount. With passthrough they
// can't be mapped, for the front-end makes every mapping writable; all others still can. For the same reason the host can't
// run a program while it is mapped.
func TestFilesThatNobodyMayWrite(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("the backing mount needs root")
			}
			dir, other := t.TempDir(), t.TempDir()
			want := pattern(10_000, 1)
			must(t, os.WriteFile(filepath.Join(other, "f"), want, 0o600))
			must(t, os.Mkdir(filepath.Join(dir, "fixed"), 0o700))
			if err := unix.Mount(other, filepath.Join(dir, "fixed"), "", unix.MS_BIND, ""); err != nil {
				t.Skipf("no mount here: %v", err)
			}
			defer unix.Unmount(filepath.Join(dir, "fixed"), unix.MNT_DETACH)
			must(t, unix.Mount("", filepath.Join(dir, "fixed"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
			cat, err := exec.LookPath("cat")
			must(t, err)
			program, err := os.ReadFile(cat)
			must(t, err)
			for _, name := range []string{"program", "idle"} {
				must(t, os.WriteFile(filepath.Join(dir, name), program, 0o700))
			}
			run := exec.Command(filepath.Join(dir, "program"))
			stdin, err := run.StdinPipe()
			must(t, err)
			must(t, run.Start())
			defer run.Wait()
			defer stdin.Close()

			_, c := window(t, dir, backing, 16, frontend.Options{})
			fixed, err := c.Lookup(root, 1, "fixed")
			must(t, err)
			for _, f := range []struct {
				dir    uint64
				name   string
				want   []byte
				refuse error
			}{{1, "program", program[:10_000], unix.ETXTBSY}, {fixed.NodeId, "f", want, unix.EROFS}, {1, "idle", program[:10_000], nil}} {
				e, err := c.Lookup(root, f.dir, f.name)
				must(t, err)
				err = c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 0)
				if backing == "passthrough" && f.refuse != nil {
					if !errors.Is(err, f.refuse) {
						t.Errorf("%s: %v, want %v", f.name, err, f.refuse)
					}
					continue
				}
				must(t, err)
				got := make([]byte, len(f.want))
				must(t, c.Frontend().Window.Load(got, 0))
				if !bytes.Equal(got, f.want) {
					t.Errorf("%s reads wrong", f.name)
				}
				if err := c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0); !errors.Is(err, f.refuse) {
					t.Errorf("%s: for writing: %v, want %v", f.name, err, f.refuse)
				}
			}
			must(t, c.Removemapping(1, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}}))
			idle, err := c.Lookup(root, 1, "idle")
			must(t, err)
			must(t, c.Setupmapping(idle.NodeId, 0, rangeSize, fuseclient.MapRead, 0))
			if err := exec.Command(filepath.Join(dir, "idle")).Run(); errors.Is(err, unix.ETXTBSY) != (backing == "passthrough") {
				t.Errorf("running a program that is mapped: %v", err)
			}
		})
	}
}
