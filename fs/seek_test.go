package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// With --cache=always the guest keeps what is stored to a mapping over the open of another
// process, which is not to take it for a hole.
func TestNoHolesWhereTheGuestMayHaveStored(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name   string
		cache  CachePolicy
		writer bool
		holes  bool
	}{
		{"auto", CacheAuto, true, true},
		{"always, somebody may store", CacheAlways, true, false},
		{"always, nobody may", CacheAlways, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(dir, "f"), size); err != nil {
				t.Fatal(err)
			}
			g := newGuest(t, Options{SharedDir: dir, Cache: c.cache})
			n, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			if c.writer {
				_, e := g.open(n.NodeId, unix.O_RDWR)
				g.must("OPEN", e)
			}
			fh, e := g.open(n.NodeId, unix.O_RDONLY)
			g.must("OPEN", e)
			seek := func(off uint64, whence uint32) (uint64, unix.Errno) {
				rep, e := g.call(opLseek, n.NodeId, le(fh, off, whence, uint32(0)))
				if e != 0 {
					return 0, e
				}
				return overlay[fuse.LseekOut](aligned(rep)).Offset, 0
			}
			data, e := seek(4096, unix.SEEK_DATA)
			if c.holes && e != unix.ENXIO || !c.holes && (e != 0 || data != 4096) {
				t.Errorf("SEEK_DATA: %d, %v", data, e)
			}
			hole, e := seek(4096, unix.SEEK_HOLE)
			if want := map[bool]uint64{true: 4096, false: size}[c.holes]; e != 0 || hole != want {
				t.Errorf("SEEK_HOLE: %d, %v, want %d", hole, e, want)
			}
			if _, e := seek(size, unix.SEEK_DATA); e != unix.ENXIO {
				t.Errorf("SEEK_DATA at the end: %v", e)
			}
		})
	}
}
