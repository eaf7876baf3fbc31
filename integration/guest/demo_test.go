package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lookAround says what the demo promises to the guest: where it is, how the share is mounted, what is in it, and whether a
// file of it is in the window, to which a byte is stored.
const lookAround = `pwd; grep ' /mnt ' /proc/mounts; ls; cat; python3 - <<'PY'
import ctypes, mmap, os
b = ctypes.create_string_buffer(256)
assert ctypes.CDLL(None).statx(-100, b"data", 0, 0x7ff, b) == 0
print("in the window:", bool(int.from_bytes(b[8:16], "little") & 0x200000)) # STATX_ATTR_DAX
fd = os.open("data", os.O_RDWR)
with mmap.mmap(fd, 4) as m:
    m[0:1] = b"D"
    m.flush()
PY
exit $STATUS`

// TestDemo runs the demo's one command as the README has it, by make and by the script.
//
// To see it fail: in package main of demo, leave out the mount's options.
func TestDemo(t *testing.T) {
	if foreign() {
		t.Skip("the demo chooses its daemon itself")
	}
	findAssets(t) // the demo would make them
	top, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		command string
		knobs   []string
		guest   int // the status of the guest's command
		status  int
		says    []string
	}{
		{name: "by the script", command: "scripts/demo", guest: 7, status: 7, says: []string{"virtiofs rw,", "in the window: False"}},
		{name: "by make, with a DAX window", command: "make", knobs: []string{"DAX=1"}, says: []string{"virtiofs rw,", "dax=always", "in the window: True"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "data")
			if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
				t.Fatal(err)
			}
			knobs := append([]string{"SHARE=" + dir, "CMD=" + strings.ReplaceAll(lookAround, "$STATUS", fmt.Sprint(c.guest))}, c.knobs...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, c.command)
			cmd.Env = slices.DeleteFunc(os.Environ(), isKnob)
			if c.command == "make" {
				cmd.Args = append(cmd.Args, append([]string{"--no-print-directory", "demo"}, knobs...)...)
			} else {
				cmd.Env = append(cmd.Env, knobs...)
			}
			cmd.Dir = string(bytes.TrimSpace(top))
			cmd.Stdin = strings.NewReader("standard input\n")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			// The script ends its guest and daemon at a signal.
			cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
			cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			cmd.WaitDelay = 30 * time.Second
			begin := time.Now()
			if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
				t.Errorf("%v, after %v", err, time.Since(begin))
			}
			t.Logf("%v:\n%s", time.Since(begin), &stdout)
			if got := cmd.ProcessState.ExitCode(); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			for _, want := range append(c.says, "/mnt\n", "\ndata\n", "standard input\n") {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != "Data" {
				t.Errorf("on the host the file is %q (%v)", got, err)
			}
			if t.Failed() {
				t.Logf("standard error:\n%s", &stderr)
			}
		})
	}
}

// isKnob says whether an environment variable is one that the demo, or make, goes by.
func isKnob(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains(strings.Fields("SHARE CMD MEM SMP QUEUES PACKED DAX DAX_WINDOW DAEMON DAEMON_ARGS VERBOSE MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES"), name)
}
