package fs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestATruncationWaitsForALeaseOfTheHost(t *testing.T) {
	for name, truncate := range map[string]func(g *guest, node uint64) unix.Errno{
		"SETATTR of the size": func(g *guest, node uint64) unix.Errno {
			_, e := g.setattr(node, fuse.FATTR_SIZE)
			return e
		},
		"OPEN with O_TRUNC": func(g *guest, node uint64) unix.Errno {
			_, e := g.open(node, unix.O_WRONLY|unix.O_TRUNC)
			return e
		},
	} {
		t.Run(name, func(t *testing.T) { truncationWaits(t, truncate) })
	}
}

func truncationWaits(t *testing.T, truncate func(g *guest, node uint64) unix.Errno) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	g.inline = true
	host, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(host)
	if _, err := unix.FcntlInt(uintptr(host), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	released := make(chan error)
	go func() {
		// Until it is being broken.
		for {
			if typ, err := unix.FcntlInt(uintptr(host), unix.F_GETLEASE, 0); err != nil || typ != unix.F_RDLCK {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_, err := unix.FcntlInt(uintptr(host), unix.F_SETLEASE, unix.F_UNLCK)
		released <- err
	}()
	e = truncate(g, f.NodeId)
	if err := <-released; err != nil {
		t.Error(err)
	}
	g.must("the request", e)
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("the size is %d (%v)", st.Size(), err)
	}
	if g.again == 0 {
		t.Error("the reader waited for it")
	}
}
