package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// task is a thread, and what it does in the kernel.
type task struct {
	process, thread, name string
	state                 string // as in /proc/PID/stat
	stack                 string
}

// keepStacks writes what all tasks below a /proc do in the kernel, those that wait without end apart, as the guest's kernel
// does it.
func keepStacks(proc, logs string) error {
	all := tasks(proc)
	var everybody, blocked strings.Builder
	for _, t := range all {
		text := fmt.Sprintf("%s/%s %s %s\n%s\n", t.process, t.thread, t.name, t.state, t.stack)
		everybody.WriteString(text)
		if t.state == "D" {
			blocked.WriteString(text)
		}
	}
	for name, text := range map[string]string{"host-tasks.txt": everybody.String(), "host-blocked.txt": blocked.String()} {
		if err := os.WriteFile(filepath.Join(logs, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tasks leaves out those that end meanwhile.
func tasks(proc string) []task {
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "task", "[0-9]*"))
	var found []task
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		name, state, ok := parseStat(string(stat))
		if !ok {
			continue
		}
		stack, err := os.ReadFile(filepath.Join(dir, "stack"))
		if err != nil {
			stack = []byte(err.Error() + "\n")
		}
		found = append(found, task{
			process: filepath.Base(filepath.Dir(filepath.Dir(dir))), thread: filepath.Base(dir), name: name, state: state, stack: string(stack),
		})
	}
	return found
}

// parseStat reads the name, which may have any character in it, and the state.
func parseStat(stat string) (name, state string, ok bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", "", false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) == 0 {
		return "", "", false
	}
	return stat[open+1 : end], fields[0], true
}
