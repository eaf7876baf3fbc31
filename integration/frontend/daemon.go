package frontend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Daemon is a running virtio-fs daemon of any make.
type Daemon struct {
	Socket string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; valid when done is closed
}

// CommandVariable names a daemon for tests: a command line, split at white space.
const CommandVariable = "VIRTIOFSD_TEST_COMMAND"

// StartDaemon runs a command in which {socket} and {dir} stand for the socket's path and the shared directory, and waits
// until the socket is there. What it prints goes to log. A socket left by an earlier daemon is removed.
func StartDaemon(command []string, socket, dir string, log io.Writer) (*Daemon, error) {
	if len(command) == 0 {
		return nil, errors.New("no daemon command; set " + CommandVariable)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	r := strings.NewReplacer("{socket}", socket, "{dir}", dir)
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = r.Replace(a)
	}
	d := &Daemon{Socket: socket, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// Dies with the tests, whatever ends them.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		// The parent of Pdeathsig is the thread that forked, so it has to stay.
		runtime.LockOSThread()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			d.err = d.cmd.Wait()
			close(d.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(socket); err == nil && fi.Mode()&os.ModeSocket != 0 {
			return d, nil
		}
		select {
		case <-d.done:
			return nil, fmt.Errorf("the daemon ended before its socket was there: %v", d.err)
		default:
		}
		if time.Now().After(deadline) {
			d.Kill()
			return nil, errors.New("the daemon made no socket for 20 s")
		}
	}
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Wait waits for the daemon to end by itself and returns how it did.
func (d *Daemon) Wait(timeout time.Duration) error {
	select {
	case <-d.done:
		return d.err
	case <-time.After(timeout):
		return fmt.Errorf("the daemon has not ended within %v", timeout)
	}
}

// Kill is SIGKILL.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	<-d.done
}

// Stop ends the daemon by SIGTERM, and by SIGKILL if that does not help within ten seconds, which is an error.
func (d *Daemon) Stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
		return nil
	case <-time.After(10 * time.Second):
		d.Kill()
		return errors.New("the daemon did not end by SIGTERM within 10 s")
	}
}
