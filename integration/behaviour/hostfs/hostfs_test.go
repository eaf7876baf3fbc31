package hostfs_test

import (
	"os"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour/hostfs"
)

// tree is the directory that BEHAVIOUR_DIR names, or a new one.
func tree(t *testing.T) *hostfs.FS {
	t.Helper()
	dir := os.Getenv("BEHAVIOUR_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	fs, err := hostfs.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs
}

func TestBehaviour(t *testing.T) {
	o, err := behaviour.OptionsFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	behaviour.Run(t, tree(t), o)
}

// TestCapabilities prints what the tree has, as a value for BEHAVIOUR_REQUIRE, and why it has not the rest.
func TestCapabilities(t *testing.T) {
	fs := tree(t)
	list := ""
	for _, c := range behaviour.Capabilities {
		if why := fs.Lacks(c); why != "" {
			t.Logf("no %s: %s", c, why)
		} else {
			list += "," + string(c)
		}
	}
	t.Logf("BEHAVIOUR_REQUIRE=%s", list[min(1, len(list)):])
}
