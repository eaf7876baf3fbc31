package frontend_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }

var root = fuseclient.Caller{}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ours skips a test of what only this project's daemon does.
func ours(t *testing.T) {
	t.Helper()
	if daemontest.Foreign() {
		t.Skip("of this project's daemon only")
	}
}

// ownWindow skips what needs the window of this project's daemon.
func ownWindow(t *testing.T) {
	t.Helper()
	ours(t)
	if os.Geteuid() != 0 {
		t.Skip("the backing mount needs root")
	}
}

// formats are the rings whose life cycles differ.
var formats = []struct {
	name   string
	packed bool
}{{"split", false}, {"packed", true}}

func skipPacked(t *testing.T, packed bool) {
	t.Helper()
	if packed {
		ours(t)
	}
}

// openFDs counts the daemon's descriptors, without those that come and go by themselves. It waits for the number to fall
// to want, if that is not negative.
func openFDs(t *testing.T, d *frontend.Daemon, want int) int {
	t.Helper()
	n := 0
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
		must(t, err)
		n = len(list)
		if want < 0 || n <= want || time.Now().After(deadline) {
			return n
		}
	}
}

func fdList(d *frontend.Daemon) string {
	dir := fmt.Sprintf("/proc/%d/fd", d.PID())
	list, _ := os.ReadDir(dir)
	s := ""
	for _, e := range list {
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		s += "\n" + e.Name() + " " + to
	}
	return s
}

func alive(t *testing.T, c *fuseclient.Client) {
	t.Helper()
	a, err := c.Getattr(root, fuseclient.RootID, nil)
	if err != nil || a.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Fatalf("the root directory: mode %o, %v", a.Mode, err)
	}
}
