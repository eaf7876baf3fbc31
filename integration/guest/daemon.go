package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// daemonStart is how long a daemon may take until its socket is there.
const daemonStart = 20 * time.Second

// DaemonConfig says how to start a virtio-fs daemon, this project's or any other.
type DaemonConfig struct {
	Command []string  // arguments may contain {socket}, {dir} and {tag}
	Socket  string    // path of the vhost-user socket that it makes
	Dir     string    // directory to serve
	Tag     string    // for daemons that name the share themselves
	Output  io.Writer // standard output and error; nil discards them
}

// Daemon is a running daemon.
type Daemon struct {
	proc *process
}

// StartDaemon starts a daemon and waits for its socket.
func StartDaemon(ctx context.Context, c DaemonConfig) (*Daemon, error) {
	if len(c.Command) == 0 {
		return nil, errors.New("no daemon command given")
	}
	fill := strings.NewReplacer("{socket}", c.Socket, "{dir}", c.Dir, "{tag}", c.Tag)
	argv := make([]string, len(c.Command))
	for i, arg := range c.Command {
		argv[i] = fill.Replace(arg)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.WaitDelay = time.Second
	proc, err := startProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	d := &Daemon{proc: proc}
	for deadline := time.Now().Add(daemonStart); ; {
		if _, err := os.Stat(c.Socket); err == nil {
			return d, nil
		}
		select {
		case <-proc.done:
			return nil, fmt.Errorf("the daemon ended before it listened on %s: %s", c.Socket, proc.cmd.ProcessState)
		case <-ctx.Done():
			d.Kill()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.Kill()
			return nil, fmt.Errorf("the daemon made no socket at %s within %v", c.Socket, daemonStart)
		}
	}
}

// PID is the daemon's process, for looking at it under /proc.
func (d *Daemon) PID() int { return d.proc.cmd.Process.Pid }

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.proc.done }

// Wait waits for the daemon to end by itself, as it does when its front-end is gone, and returns how it ended.
func (d *Daemon) Wait(limit time.Duration) error {
	if !d.proc.wait(limit) {
		return fmt.Errorf("the daemon still runs %v after its front-end has gone", limit)
	}
	return d.proc.err
}

// Stop ends the daemon with SIGTERM, or with SIGKILL and an error if that does not help.
func (d *Daemon) Stop() error {
	d.proc.signal(unix.SIGTERM)
	if d.proc.wait(10 * time.Second) {
		return nil
	}
	d.Kill()
	return errors.New("the daemon did not end on SIGTERM within 10 s")
}

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() {
	d.proc.signal(unix.SIGKILL)
	<-d.proc.done
}

// Abort ends the daemon with SIGQUIT, on which one written in Go prints the stacks of its goroutines, and with SIGKILL
// and an error if that does not help.
func (d *Daemon) Abort() error {
	d.proc.signal(unix.SIGQUIT)
	if d.proc.wait(10 * time.Second) {
		return nil
	}
	d.Kill()
	return errors.New("the daemon did not end on SIGQUIT within 10 s")
}
