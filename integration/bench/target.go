package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

// target is a daemon under measurement: how to start it, and, while it runs, its process.
type target struct {
	name    string
	command []string

	daemon *frontend.Daemon
	log    bytes.Buffer
	sess   *session
}

// parseTarget reads NAME=COMMAND, or a COMMAND whose program gives the name.
func parseTarget(s string) (*target, error) {
	name, command, found := strings.Cut(s, "=")
	if !found || strings.ContainsAny(name, " /") {
		command = s
		if f := strings.Fields(s); len(f) > 0 {
			name = filepath.Base(f[0])
		}
	}
	t := &target{name: name, command: strings.Fields(command)}
	if len(t.command) == 0 {
		return nil, fmt.Errorf("%q names no command", s)
	}
	if !strings.Contains(command, "{socket}") {
		return nil, fmt.Errorf("the command of %s must have {socket} in it, and {dir} where the shared directory goes", name)
	}
	return t, nil
}

// start runs the daemon on the tree and mounts it. A daemon that has fewer request queues than asked for gets them all
// to do with what it has: same number of requests in flight.
func (t *target) start(dir string, tr *tree, queues int) error {
	command := make([]string, len(t.command))
	for i, a := range t.command {
		command[i] = strings.ReplaceAll(a, "{queues}", strconv.Itoa(queues))
	}
	t.log.Reset()
	socket := filepath.Join(dir, t.name+".sock")
	d, err := frontend.StartDaemon(command, socket, tr.dir, &t.log)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", t.name, err, t.log.String())
	}
	t.daemon = d
	if t.sess, err = newSession(d.Socket, tr, queues); err != nil && queues > 1 {
		d.Kill()
		if t.daemon, err = frontend.StartDaemon(command, socket, tr.dir, &t.log); err == nil {
			t.sess, err = newSession(socket, tr, 1)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", t.name, err, t.log.String())
		t.stop()
		return err
	}
	return nil
}

// stop ends the daemon, whose name stays.
func (t *target) stop() {
	if t.sess != nil {
		t.sess.close()
		t.sess = nil
	}
	if t.daemon != nil {
		t.daemon.Stop()
		t.daemon = nil
	}
}

// usage is what a daemon has used up since it started.
type usage struct {
	cpu      time.Duration
	switches uint64
	rss      uint64 // bytes, now
}

// since is what was used up after an earlier moment. Threads that have ended in between have taken their switches along.
func (u usage) since(before usage) usage {
	return usage{cpu: u.cpu - before.cpu, switches: u.switches - min(before.switches, u.switches), rss: u.rss}
}

// usage adds up the daemon's process and its children.
func (t *target) usage() usage {
	var u usage
	u.add(t.daemon.PID())
	return u
}

func (u *usage) add(pid int) {
	// clock_getcpuclockid(3): the CPU clock of another process.
	const cpuclockSched = 2
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts) == nil {
		u.cpu += time.Duration(ts.Nano())
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		u.switches += statusField(task+"/status", "voluntary_ctxt_switches:")
		children, _ := os.ReadFile(task + "/children")
		for _, c := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(c); err == nil {
				u.add(child)
			}
		}
	}
	// Without shared memory, which is the guest's.
	status := fmt.Sprintf("/proc/%d/status", pid)
	u.rss += (statusField(status, "RssAnon:") + statusField(status, "RssFile:")) << 10
}

// statusField is a number of a /proc status file, 0 if it is not there.
func statusField(path, field string) uint64 {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseUint(f[0], 10, 64)
				return n
			}
		}
	}
	return 0
}
