package main

import (
	"io"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// TestTheWindowHasDescriptorsOfItsOwn: what the guest may have open leaves what the window takes if each of its ranges
// shows another file, but never less than half.
func TestTheWindowHasDescriptorsOfItsOwn(t *testing.T) {
	var cur unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &cur); err != nil {
		t.Fatal(err)
	}
	left := func(window size, backing dax.Backing) int {
		t.Helper()
		c := defaultConfig()
		c.queues, c.rlimitNofile, c.daxWindow, c.daxBacking = 1, 0, window, backing
		n, err := setupFDLimit(c, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Skip(err)
		}
		return n
	}
	all := left(0, dax.Managed)
	const window = 32 << 20 // 16 ranges
	for _, c := range []struct {
		name    string
		window  size
		backing dax.Backing
		want    int
	}{
		{"managed", window, dax.Managed, all - 16},
		{"passthrough", window, dax.Passthrough, all - 32},
		{"direct", window, dax.Direct, all - 16},
		{"a huge window", 1 << 40, dax.Managed, max(all-1<<19, all-all/2)},
	} {
		if got := left(c.window, c.backing); got != c.want {
			t.Errorf("%s: %d descriptors are left for the guest, want %d of %d", c.name, got, c.want, all)
		}
	}
}
