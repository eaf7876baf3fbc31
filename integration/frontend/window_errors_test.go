package frontend_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestEachOpenFileHearsOnceOfWhatCouldNotBeWritten has a store to the window fail to reach the file, and closes other
// handles before anybody asks for it.
func TestEachOpenFileHearsOnceOfWhatCouldNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no mount here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	must(t, f.Truncate(64<<10)) // a hole
	must(t, f.Close())
	_, c := window(t, dir, "managed", 64, frontend.Options{})
	e, err := c.Lookup(root, 1, "f")
	must(t, err)
	open := func() uint64 {
		t.Helper()
		o, err := c.Open(root, e.NodeId, unix.O_RDWR, 0, false)
		must(t, err)
		return o.Fh
	}
	fsync := func(who string, fh uint64, want error) {
		t.Helper()
		if err := c.Fsync(root, e.NodeId, fh, false, false); !errors.Is(err, want) {
			t.Errorf("FSYNC of %s: %v, want %v", who, err, want)
		}
	}
	closed, flushed, first, second := open(), open(), open(), open()
	must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
	must(t, os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 64<<10), 0o600))
	fill, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	must(t, fill.Close())
	must(t, c.Frontend().Window.Store([]byte("lost"), 0))

	must(t, c.CloseHandle(e.NodeId, closed, unix.O_RDWR, 0, 0, false))
	if err := c.Flush(root, e.NodeId, flushed, 1); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("FLUSH: %v, want %v", err, unix.ENOSPC)
	}
	fsync("a file open at the time", first, unix.ENOSPC)
	fsync("that file again", first, nil)
	fsync("another one", second, unix.ENOSPC)
	fsync("the one whose FLUSH failed", flushed, unix.ENOSPC)
	fsync("one opened after somebody was told", open(), nil)

	syncfs := func(what string, want error) {
		t.Helper()
		if err := c.Syncfs(root, 1); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	syncfs("SYNCFS after all of them", unix.ENOSPC)
	syncfs("SYNCFS again", nil)
	must(t, c.Frontend().Window.Store([]byte("lost again"), 4096))
	syncfs("SYNCFS before any of them", unix.ENOSPC)
	syncfs("SYNCFS again", nil)
	fsync("a file open at the time, after SYNCFS", first, unix.ENOSPC)
}
