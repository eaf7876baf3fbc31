package guest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// behaviourScale divides the suite's large counts: software emulation is some 20 times slower than the host.
const behaviourScale = "8"

// notOverFUSE are capabilities of the host's file system that Linux's FUSE client refuses by itself.
var notOverFUSE = []string{"collapse-range", "insert-range", "unshare-range"}

// TestBehaviour runs the behaviour suite on a share in a guest. What the host's directory can do must not be missing
// there, but for what the protocol or the daemon's options leave out.
func TestBehaviour(t *testing.T) {
	findAssets(t)
	suite := filepath.Join(t.TempDir(), "behaviour.test")
	build := exec.Command("go", "test", "-c", "-o", suite, "github.com/virtiofsd-go/virtiofsd-go/integration/behaviour/hostfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	everything := []string{"--xattr", "--posix-acl=auto", "--posix-lock", "--flock", "--preserve-noatime"}
	for _, c := range []struct {
		name    string
		options []string
		without []string // capabilities
	}{
		{"defaults", nil, []string{"xattr-user", "xattr-trusted", "xattr-security", "xattr-huge", "acl"}},
		{"everything", everything, nil},
		{"no-cache", append([]string{"--cache=never", "--allow-mmap", "--allow-direct-io"}, everything...), nil},
		{"writeback", append([]string{"--writeback", "--cache=always"}, everything...), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require := slices.DeleteFunc(hostCapabilities(t, suite, dir), func(s string) bool {
				return slices.Contains(notOverFUSE, s) || slices.Contains(c.without, s)
			})
			vm := mounted(t, dir, guest.Share{RequestQueues: ownQueues()}, c.options...)
			runSuite(t, vm, suite, "/mnt", require)
		})
	}
}

var capabilityList = regexp.MustCompile(`BEHAVIOUR_REQUIRE=(\S*)`)

// hostCapabilities asks the suite itself, in a process of its own because it changes the mask and the ids of its threads.
func hostCapabilities(t *testing.T, suite, dir string) []string {
	t.Helper()
	cmd := exec.Command(suite, "-test.run=^TestCapabilities$", "-test.v")
	cmd.Env = append(os.Environ(), "BEHAVIOUR_DIR="+dir)
	out, err := cmd.CombinedOutput()
	match := capabilityList.FindSubmatch(out)
	if err != nil || match == nil {
		t.Fatalf("ask for the host's capabilities: %v\n%s", err, out)
	}
	return strings.Split(string(match[1]), ",")
}

// runSuite runs the suite in a directory of a guest and passes on what failed. The whole output is an artifact.
func runSuite(t *testing.T, vm *guest.VM, suite, dir string, require []string) {
	t.Helper()
	if err := vm.CopyIn(t.Context(), suite, "/tmp/behaviour.test"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	start := time.Now()
	err := vm.Exec(ctx, guest.Command{
		Script: "BEHAVIOUR_DIR=" + dir + " BEHAVIOUR_SCALE=" + behaviourScale + " BEHAVIOUR_REQUIRE=" + strings.Join(require, ",") +
			" /tmp/behaviour.test -test.run='^TestBehaviour$' -test.v -test.timeout=19m >/tmp/behaviour.log 2>&1",
		Dir: "/tmp",
	})
	took := time.Since(start).Round(time.Second)
	out, cerr := vm.CopyOut(t.Context(), "/tmp/behaviour.log")
	if cerr != nil {
		t.Fatal(errors.Join(err, cerr))
	}
	log := filepath.Join(t.ArtifactDir(), "behaviour.log")
	if werr := os.WriteFile(log, out, 0o644); werr != nil {
		t.Error(werr)
	}
	if err != nil {
		t.Errorf("%v; all of it is in %s\n%s", err, log, failures(string(out)))
	}
	summary := regexp.MustCompile(`\d+ cases run.*`).Find(out)
	t.Logf("%s, in %v", summary, took)
}

// failures are the lines of go test -v about what failed.
func failures(out string) string {
	var failed strings.Builder
	for line := range strings.Lines(out) {
		for _, mark := range []string{"--- FAIL", "_cases.go:", "case.go:", "run.go:", "panic:"} {
			if strings.Contains(line, mark) && !strings.Contains(line, ": no ") {
				failed.WriteString(line)
				break
			}
		}
	}
	if failed.Len() == 0 {
		return out[max(0, len(out)-4000):]
	}
	return failed.String()
}
