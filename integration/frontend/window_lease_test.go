package frontend_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestFaultsDoNotWaitForALeaseOfTheHost has an OPEN that truncates a file wait for a lease that somebody on the host holds,
// and uses the file meanwhile. The kernel takes the lease away after /proc/sys/fs/lease-break-time.
func TestFaultsDoNotWaitForALeaseOfTheHost(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, pattern(2*rangeSize, 1), 0o644))
	_, c := window(t, dir, "managed", 64, frontend.Options{})
	e, err := c.Lookup(root, 1, "f")
	must(t, err)
	o, err := c.Open(root, e.NodeId, unix.O_RDONLY, 0, false)
	must(t, err)
	for off := uint64(0); off < 2*rangeSize; off += rangeSize {
		must(t, c.Setupmapping(e.NodeId, off, rangeSize, fuseclient.MapRead, off))
	}
	host, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(host)
	if _, err := unix.FcntlInt(uintptr(host), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := c.Open(root, e.NodeId, unix.O_WRONLY|unix.O_TRUNC, 0, false)
		opened <- err
	}()
	for {
		typ, err := unix.FcntlInt(uintptr(host), unix.F_GETLEASE, 0)
		must(t, err)
		if typ != unix.F_RDLCK {
			break // the OPEN waits for it
		}
		select {
		case err := <-opened:
			t.Fatalf("OPEN has not waited for the lease: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	page := make([]byte, 4096)
	for off := uint64(0); off < 2*rangeSize; off += rangeSize {
		must(t, c.Frontend().Window.Load(page, off))
	}
	if _, err := c.Read(root, e.NodeId, o.Fh, page, 0, 0); err != nil {
		t.Errorf("READ: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(host), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Errorf("the lease was over before the faults: %v", err)
	}
	must(t, <-opened)
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("the size is %d (%v)", st.Size(), err)
	}
}
