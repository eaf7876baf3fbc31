package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// Any daemon can be tested: VIRTIOFSD_GO_DAEMON holds its command, words separated by spaces, with {socket} and {dir}
// in it. Options of this project's own are then left out, and tests that are about them are skipped.
const daemonVariable = "VIRTIOFSD_GO_DAEMON"

const tag = "share"

// ownDaemon builds this tree's daemon, once.
var ownDaemon = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "virtiofsd-go-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "virtiofsd-go")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := ownDaemon(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// foreign tells whether a daemon other than this tree's is tested.
func foreign() bool { return os.Getenv(daemonVariable) != "" }

// startDaemon serves dir, with options of this project's daemon, and returns the socket.
func startDaemon(t *testing.T, dir string, options ...string) (*guest.Daemon, string) {
	t.Helper()
	command := strings.Fields(os.Getenv(daemonVariable))
	if !foreign() {
		path, err := ownDaemon()
		if err != nil {
			t.Fatal(err)
		}
		command = append([]string{path, "--socket-path", "{socket}", "--shared-dir", "{dir}"}, options...)
	}
	sockets, err := os.MkdirTemp("", "virtiofsd-go-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(sockets, "socket")
	d, err := guest.StartDaemon(t.Context(), guest.DaemonConfig{Command: command, Socket: socket, Dir: dir, Tag: tag, Output: log})
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(log.Name()))
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		log.Close()
		if t.Failed() {
			t.Logf("the daemon's last words:\n%s", tail(log.Name()))
		}
	})
	return d, socket
}

// startVM boots a guest that powers off at the end of the test, which fails if its kernel complained.
func startVM(t *testing.T, c guest.Config) *guest.VM {
	t.Helper()
	assets := findAssets(t)
	c.Dir = t.ArtifactDir()
	vm, err := guest.Start(t.Context(), assets, c)
	if err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, tail(filepath.Join(c.Dir, "console.log")))
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		switch err := vm.Stop(context.Background()); {
		case err == nil:
		case foreign():
			t.Log(err) // rust virtiofsd leaves FUSE_DESTROY without a reply, which the guest's kernel complains about
		default:
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the guest's console:\n%s", tail(filepath.Join(c.Dir, "console.log")))
		}
	})
	return vm
}

func findAssets(t *testing.T) *guest.Assets {
	t.Helper()
	assets, err := guest.FindAssets()
	if err != nil {
		t.Skip(err)
	}
	return assets
}

// mounted boots a guest with dir at /mnt.
func mounted(t *testing.T, dir string, share guest.Share, options ...string) *guest.VM {
	t.Helper()
	findAssets(t)
	if share.RequestQueues > 1 {
		options = append(options, fmt.Sprintf("--queues=%d", share.RequestQueues))
	}
	_, share.Socket = startDaemon(t, dir, options...)
	share.Tag = tag
	vm := startVM(t, guest.Config{Shares: []guest.Share{share}})
	run(t, vm, time.Minute, "mount -t virtiofs "+tag+" /mnt")
	return vm
}

// run runs a script that must succeed and returns its output.
func run(t *testing.T, vm *guest.VM, limit time.Duration, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := vm.Run(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tail returns the last lines of a log.
func tail(path string) string {
	const lines = 40
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.SplitAfter(b, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], nil))
}
