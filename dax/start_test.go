package dax

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackingMountIsInNobodysTree looks for it in the mounts of every process.
//
// To see it fail: in mountDetached, attach it by move_mount.
func TestBackingMountIsInNobodysTree(t *testing.T) {
	testManager(t, Config{})
	all, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil || len(all) == 0 {
		t.Fatalf("no mounts of any process: %v", err)
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte("virtiofsd-dax")) {
			t.Errorf("%s has it", path)
		}
	}
}

// TestWindowThatTheFrontEndCannotMapWholeIsRefused goes by the memory regions that a virtual machine may have.
func TestWindowThatTheFrontEndCannotMapWholeIsRefused(t *testing.T) {
	for _, c := range []struct {
		window  uint64
		regions int
		fits    bool
	}{
		{1 << 30, 0, false},
		{512 << 20, 0, true},
		{1 << 30, 600, true},
		{64 << 20, 20, false},
	} {
		m, err := New(Config{Backing: Direct, Window: c.window, MaxRegions: c.regions})
		if err == nil {
			m.Close()
		}
		if (err == nil) != c.fits || err != nil && !strings.Contains(err.Error(), "use a smaller window") {
			t.Errorf("%d bytes with %d regions: %v", c.window, c.regions, err)
		}
	}
}
