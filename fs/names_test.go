package fs

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// exFAT, NTFS and CIFS take 255 characters, which can be three times as many bytes.
func TestHowLongANameMayBeTheHostSays(t *testing.T) {
	g := newGuest(t, Options{})
	for _, c := range []struct {
		n    int
		want unix.Errno
	}{
		{255, 0},
		{256, 0},
		{765, 0},
		{guestNameMax, 0},
		{guestNameMax + 1, unix.ENAMETOOLONG},
	} {
		name := strings.Repeat("x", c.n)
		if e := g.thread.checkName(cstr(name + "\x00")); e != c.want {
			t.Errorf("a name of %d bytes: %v, want %v", c.n, e, c.want)
		}
		if _, e := g.lookup(rootID, name); c.n > 255 && e != unix.ENAMETOOLONG {
			t.Errorf("LOOKUP of a name of %d bytes on this host: %v", c.n, e)
		}
	}
}
