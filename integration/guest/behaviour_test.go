package guest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

const behaviourPackage = "github.com/virtiofsd-go/virtiofsd-go/integration/behaviour/hostfs"

// notCarried is what FUSE in the guest's kernel does not pass on, whatever the daemon can do (fuse_file_fallocate,
// and who asks with LISTXATTR and SETATTR), or gets wrong by itself (docs/compat.md).
// Cases that need one of these may be skipped in the guest where the host runs them.
var notCarried = []string{"collapse-range", "insert-range", "unshare-range", "trusted-hidden", "setattr-caller", "shared-pages"}

// TestBehaviourInGuest runs the behaviour suite on the host's file system and, in a guest, on the same file system
// through the daemon. A case that passes on the host must pass in the guest.
func TestBehaviourInGuest(t *testing.T) {
	suite := filepath.Join(t.TempDir(), "behaviour.test")
	build := exec.Command("go", "test", "-c", "-o", suite, behaviourPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	findAssets(t)

	host := t.TempDir()
	cmd := exec.CommandContext(t.Context(), suite, "-test.v=test2json", "-test.run=^TestBehaviour$")
	cmd.Env = append(os.Environ(), "BEHAVIOUR_DIR="+host, "BEHAVIOUR_SCALE=20")
	var hostOutput bytes.Buffer
	cmd.Stdout, cmd.Stderr = &hostOutput, &hostOutput
	var status *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	onHost := cases(t, &hostOutput)
	if len(onHost) == 0 {
		t.Fatalf("the suite ran nothing on the host:\n%s", hostOutput.String())
	}

	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()}, "--xattr", "--posix-acl", "--allow-direct-io", "--preserve-noatime")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	if err := vm.CopyIn(ctx, suite, "/tmp/behaviour.test"); err != nil {
		t.Fatal(err)
	}
	var guestOutput bytes.Buffer
	err := vm.Exec(ctx, guest.Command{
		Script: "umask 0; chmod 777 /mnt; cd /tmp && BEHAVIOUR_DIR=/mnt BEHAVIOUR_SCALE=20 ./behaviour.test -test.v=test2json -test.run='^TestBehaviour$' 2>&1",
		Stdout: &guestOutput,
	})
	var exit *guest.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("the suite did not end: %v\n%s", err, lastLines(guestOutput.String(), 40))
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "behaviour.log"), guestOutput.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	inGuest := cases(t, &guestOutput)
	for _, name := range sortedKeys(onHost) {
		t.Run(name, func(t *testing.T) {
			want, got := onHost[name], inGuest[name]
			switch {
			case want.action != "pass":
				t.Skipf("it does not pass on the host either: %s", lastLines(want.output, 3))
			case got == nil:
				t.Error("it was not run in the guest")
			case got.action == "skip" && slices.ContainsFunc(notCarried, func(c string) bool { return strings.Contains(got.output, "no "+c+":") }):
				t.Skip(lastLines(got.output, 1))
			case got.action != "pass":
				t.Errorf("%s in the guest:\n%s", got.action, got.output)
			}
		})
	}
}

// result is how a case of the suite ended.
type result struct {
	action string // pass, fail or skip
	output string
}

// cases reads a test binary's output. Names are those below TestBehaviour: group/case.
func cases(t *testing.T, output io.Reader) map[string]*result {
	t.Helper()
	convert := exec.Command("go", "tool", "test2json")
	convert.Stdin, convert.Stderr = output, os.Stderr
	events, err := convert.Output()
	if err != nil {
		t.Fatalf("go tool test2json: %v", err)
	}
	found := map[string]*result{}
	for d := json.NewDecoder(bytes.NewReader(events)); ; {
		var e struct{ Action, Test, Output string }
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		parts := strings.SplitN(e.Test, "/", 4)
		if len(parts) < 3 {
			continue
		}
		name := parts[1] + "/" + parts[2]
		if found[name] == nil {
			found[name] = &result{action: "fail"} // unless it is said to have ended otherwise
		}
		switch {
		case e.Action == "output" && !strings.HasPrefix(e.Output, "==="):
			found[name].output += e.Output
		case len(parts) == 3 && (e.Action == "pass" || e.Action == "skip"):
			found[name].action = e.Action
		}
	}
}

func sortedKeys(m map[string]*result) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
