package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Where inodes can't do without descriptors there is nothing to sweep, and to look for it
// must not cost each new one a look at all that there are.
func TestSweepsThatFindNothingAreFew(t *testing.T) {
	const files, limit = 1900, 2000
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir, FDLimit: limit, InodeFileHandles: FileHandlesNever})
	for i := range files {
		_, e := g.lookup(rootID, fmt.Sprint(i))
		g.must("LOOKUP", e)
	}
	b := &g.fs.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.looked == 0 {
		t.Error("no sweep")
	}
	if most := uint64(files * 4 * sweepShare); b.looked > most {
		t.Errorf("sweeps looked at %d inodes, want at most %d", b.looked, most)
	}
}
