package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// A file that the guest opens may be reached through the window from the next request
// on: what it stores there without a mapping of its own is written at close(2), too.
func TestFlushIsLeftOutWhereItFindsNothing(t *testing.T) {
	const all, some = guestFlags | fuse.CAP_MAP_ALIGNMENT, guestFlags | fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX
	for _, c := range []struct {
		name   string
		window bool
		init   uint64
		flags  uint32
		want   bool
	}{
		{"reading", false, guestFlags, unix.O_RDONLY, true},
		{"writing", false, guestFlags, unix.O_WRONLY, true},
		{"both", false, guestFlags, unix.O_RDWR, false},
		{"reading, all in the window", true, all, unix.O_RDONLY, true},
		{"writing, all in the window", true, all, unix.O_WRONLY, false},
		{"reading, some in the window", true, some, unix.O_RDONLY, true},
		{"writing, some in the window", true, some, unix.O_WRONLY, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{SharedDir: dir}
			if c.window {
				o.DAX, o.WindowOffset = windowOf(t, dax.Config{}), func(uint64) (uint64, bool) { return 0, false }
			}
			g := newGuestRaw(t, o)
			g.mustInit(c.init)
			node, _ := g.create(rootID, "f", unix.O_RDWR, 0o600)
			rep, e := g.call(opOpen, node, le(c.flags, uint32(0)))
			g.must("OPEN", e)
			if got := overlay[fuse.OpenOut](aligned(rep)).OpenFlags&fuse.FOPEN_NOFLUSH != 0; got != c.want {
				t.Errorf("without FLUSH: %v", got)
			}
		})
	}
}
