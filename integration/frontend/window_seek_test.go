package frontend_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestStoresToTheWindowAreNoHoleToLseek stores to a file that is a hole from end to end, and asks at once where data are.
//
// To see it fail: in package fs, let lseek not write back first.
func TestStoresToTheWindowAreNoHoleToLseek(t *testing.T) {
	const size, at, page = rangeSize + rangeSize/2, rangeSize + 64<<10, 4096
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Truncate(path, size))
			_, c := window(t, dir, backing, 64, frontend.Options{})
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			o, err := c.Open(root, e.NodeId, unix.O_RDWR, 0, false)
			must(t, err)
			must(t, c.Setupmapping(e.NodeId, rangeSize, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
			must(t, c.Frontend().Window.Store(pattern(page, 1), at-rangeSize))
			// A file system without holes takes all of the file for data.
			if off, err := c.Lseek(root, e.NodeId, o.Fh, 0, unix.SEEK_DATA); err != nil || off > at {
				t.Errorf("what was stored at %d is not found: %d, %v", at, off, err)
			}
			if off, err := c.Lseek(root, e.NodeId, o.Fh, at, unix.SEEK_HOLE); err != nil || off < at+page {
				t.Errorf("from %d on, where %d bytes were stored, there is a hole at %d, %v", at, page, off, err)
			}
		})
	}
}
