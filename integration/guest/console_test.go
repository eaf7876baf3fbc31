package guest

import (
	"io"
	"path/filepath"
	"testing"
)

func TestConsoleKnowsTrouble(t *testing.T) {
	for line, want := range map[string]bool{
		"[    1.000000] virtio-fs: tag <root> not found":                                           false,
		"[ 1275.889190] virtio-fs: dax can't be enabled as filesystem device does not support it.": false,
		"[    1.000000] virtio-fs: Invalid write":                                                  true,
		"[    1.000000] BUG: unable to handle page fault":                                          true,
		"[    1.000000] virtiofs virtio1: probe with driver ...":                                   false,
	} {
		c, err := newConsole(filepath.Join(t.TempDir(), "console"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, line+"\n"); err != nil {
			t.Fatal(err)
		}
		if got := c.fault != ""; got != want {
			t.Errorf("%q is trouble: %v", line, got)
		}
		if err := c.file.Close(); err != nil {
			t.Error(err)
		}
	}
}
