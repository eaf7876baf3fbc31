package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStacksAreKeptAndBlockedTasksApart(t *testing.T) {
	proc, logs := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"7/task/7/stat":        "7 (a name) with) S 1 7 7 0",
		"7/task/7/stack":       "[<0>] do_wait+0x1/0x2\n",
		"7/task/8/stat":        "8 (fsx) D 1 7 7 0",
		"7/task/8/stack":       "[<0>] request_wait_answer+0x1/0x2\n",
		"9/task/9/stat":        "", // it ended
		"self/task/7/stat":     "7 (twice) R 1",
		"sys/kernel/something": "",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := keepStacks(proc, logs); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"host-tasks.txt":   {"7/7 a name) with S\n[<0>] do_wait", "7/8 fsx D\n[<0>] request_wait_answer"},
		"host-blocked.txt": {"7/8 fsx D\n[<0>] request_wait_answer"},
	} {
		got, err := os.ReadFile(filepath.Join(logs, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range want {
			if !strings.Contains(string(got), part) {
				t.Errorf("%s has no %q:\n%s", name, part, got)
			}
		}
		if n := strings.Count(string(got), "[<0>]"); n != len(want) {
			t.Errorf("%s has %d stacks, want %d:\n%s", name, n, len(want), got)
		}
	}
}
