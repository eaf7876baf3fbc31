package fusebridge_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

// cp and tar leave out what SEEK_DATA skips.
func TestDataThatOnlyTheGuestHasIsNoHole(t *testing.T) {
	b, _ := mount(t, fusebridge.Options{}, "--cache=always", "--writeback")
	f, err := os.Create(filepath.Join(b.Dir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const at, size = 1 << 20, 64 << 10
	if _, err := f.WriteAt(make([]byte, size), at); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		whence int
		want   int64
	}{{unix.SEEK_DATA, at}, {unix.SEEK_HOLE, at + size}} {
		if off, err := f.Seek(at, c.whence); err != nil || off != c.want {
			t.Errorf("lseek from %d by %d: %d, %v; want %d", at, c.whence, off, err, c.want)
		}
	}
}
