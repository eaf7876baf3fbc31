package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// runVariable makes this program run the tests of its arguments, for one that kills it.
const runVariable = "XFSTESTS_TEST_RUN"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == mountHelper {
		os.Exit(askForMount(os.Args[1:]))
	}
	fusebridge.Child()
	hostChild()
	if os.Getenv(runVariable) != "" {
		if _, err := run(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(daemontest.Main(m))
}

// fakeCheck takes the place of xfstests' check. 9001 uses both shares, 9002 does not end, 9003 passes, 9004 fails.
const fakeCheck = `#!/bin/bash
. $HOST_OPTIONS
for test in "$@"; do
    case $test in
    generic/9001) printf '%s   ' $test; if bash -e tests/generic/9001 2>&1; then echo "1s"; else echo "- it failed"; fi;;
    generic/9002) printf '%s   ' $test; mount -t $FSTYP $TEST_DEV $TEST_DIR; (exec sleep 1000) & exec sleep 1001;;
    generic/9003) printf '%s  1s\n' $test;;
    generic/9004) printf '%s   ' $test; echo "- a failure"; mkdir -p $RESULT_BASE/generic; echo kept >$RESULT_BASE/$test.full;;
    esac
done
echo Ran: "$@"
`

const useBothShares = `
refused() { if "$@" 2>/dev/null; then echo "- worked: $*"; exit 1; fi; }
mount -t $FSTYP -o nosuid $TEST_DEV $TEST_DIR
mount -t $FSTYP $SCRATCH_DEV $SCRATCH_MNT
echo hello >$TEST_DIR/file
[ "$(stat -c %U $TEST_DIR/file)" = root ]
grep -q "^$TEST_DEV $TEST_DIR fuse rw,nosuid,relatime" /proc/mounts
refused ls $SCRATCH_MNT/file
refused mount -t $FSTYP -o dax=always $SCRATCH_DEV $SCRATCH_MNT
refused mount -t $FSTYP nothing $SCRATCH_MNT
mount -o remount,ro $TEST_DIR
refused touch $TEST_DIR/file
umount $TEST_DIR
refused ls $TEST_DIR/file
mount -t $FSTYP $TEST_DEV $TEST_DIR
[ "$(cat $TEST_DIR/file)" = hello ]
`

// fakeXFSTests skips the test where --host-kernel can't run.
func fakeXFSTests(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			t.Skip("this kernel has no " + device)
		}
	}
	if _, err := guest.FindAssets(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tests", "generic"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"check": fakeCheck, "tests/generic/9001": useBothShares, "tests/generic/9002": "", "tests/generic/9003": "", "tests/generic/9004": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func hostArguments(t *testing.T, xfstests, out string, more ...string) []string {
	return slices.Concat([]string{
		"--xfstests", xfstests, "--host-kernel", "--disk", "64", "--work", t.TempDir(), "--out", out, "--daemon", strings.Join(daemontest.Command(t), " "),
	}, more)
}

func results(t *testing.T, out string) (got []string) {
	t.Helper()
	f, err := os.Open(filepath.Join(out, tsvName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma = '\t'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		got = append(got, row[0]+" "+row[1])
	}
	return got
}

func wantResults(t *testing.T, out string, want ...string) {
	t.Helper()
	if got := results(t, out); !slices.Equal(got, want) {
		t.Errorf("results are %q, want %q", got, want)
	}
	if !t.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(out, "host-*", "*.log"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		t.Logf("%s:\n%s", log, text)
	}
}

func TestHostKernelServesBothSharesToCheck(t *testing.T) {
	xfstests, out := fakeXFSTests(t), t.TempDir()
	good, err := run(t.Context(), hostArguments(t, xfstests, out, "generic/9001", "generic/9003", "generic/9004"))
	if err != nil || good {
		t.Errorf("good is %v, %v", good, err)
	}
	wantResults(t, out, "generic/9001 pass", "generic/9003 pass", "generic/9004 fail")
	if text, err := os.ReadFile(filepath.Join(out, "tests", "generic-9004.full")); err != nil || string(text) != "kept\n" {
		t.Errorf("kept of the failure: %q, %v", text, err)
	}
	if leftMounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(leftMounts), out) {
		t.Errorf("mounts are left:\n%s, %v", leftMounts, err)
	}
}

func TestHostKernelGoesOnAfterATestThatHangs(t *testing.T) {
	xfstests, out := fakeXFSTests(t), t.TempDir()
	if _, err := run(t.Context(), hostArguments(t, xfstests, out, "--limit", "5s", "generic/9002", "generic/9003")); err != nil {
		t.Error(err)
	}
	wantResults(t, out, "generic/9002 hung", "generic/9003 pass")
	for file, part := range map[string]string{"host-tasks.txt": "sleep S", "daemon-test.log": "goroutine 1 "} {
		text, err := os.ReadFile(filepath.Join(out, "host-01", file))
		if err != nil || !strings.Contains(string(text), part) && !daemontest.Foreign() {
			t.Errorf("%s has no %q (%v):\n%s", file, part, err, text)
		}
	}
}

func TestKilledRunOnTheHostKernelLeavesNothing(t *testing.T) {
	xfstests, out := fakeXFSTests(t), t.TempDir()
	cmd := exec.Command(os.Args[0], hostArguments(t, xfstests, out, "generic/9002")...)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), runVariable+"=1", "TMPDIR="+temp)
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	bufio.NewReader(said).ReadString('\n') // it starts
	// Two in the namespaces, the daemon, the bridge, check and what it waits for.
	var inside []int
	waitFor(t, "the test to begin", func() bool {
		inside = descendants(t, cmd.Process.Pid)
		return len(inside) >= 6
	})
	cmd.Process.Kill()
	cmd.Wait()
	waitFor(t, "what it started to end", func() bool {
		return !slices.ContainsFunc(inside, func(pid int) bool { return unix.Kill(pid, 0) == nil })
	})
	waitFor(t, "the loop devices to be free", func() bool {
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		return !slices.ContainsFunc(files, func(path string) bool {
			text, _ := os.ReadFile(path)
			return strings.Contains(string(text), filepath.Dir(out))
		})
	})
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("%v (%v) is left where files for the moment go", left, err)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no end of waiting for %s", what)
		}
	}
}

// descendants finds a process's children by their parents' numbers, and theirs.
func descendants(t *testing.T, pid int) (found []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parent := map[int]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		var child, of int
		var state string
		fmt.Sscan(string(text), &child)
		fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &of)
		parent[child] = of
	}
	for child := range parent {
		for p := child; p > 1; p = parent[p] {
			if p != child && p == pid {
				found = append(found, child)
				break
			}
		}
	}
	return found
}
