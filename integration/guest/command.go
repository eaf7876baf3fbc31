package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// lastWords is how long after its end a guest may still be heard.
const lastWords = 5 * time.Second

var errEnded = errors.New("the guest has ended")

// ExitError is the status of a command that did not succeed: 128 and more mean a signal, as in a shell.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Command is a bash script to run in the guest, as root.
type Command struct {
	Script         string // empty means a shell that reads Stdin
	Dir            string // empty means /root
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       *Terminal // nil means none
}

// Terminal gives a command a pseudo-terminal.
type Terminal struct {
	Type       string // value of TERM
	Rows, Cols int
	Resized    <-chan [2]int // rows, columns
}

// connectAgent waits for the guest's agent to answer on its port.
func (vm *VM) connectAgent(ctx context.Context) error {
	var conn net.Conn
	for conn == nil {
		c, err := net.Dial("unix", vm.socket("agent"))
		if err == nil {
			conn = c
		} else if err := vm.pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("connect to the guest's agent: %w", err)
		}
	}
	type answer struct {
		client *ssh.Client
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		// Any key will do: the port is private to this process.
		c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{User: "root", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
		if err != nil {
			answered <- answer{err: err}
			return
		}
		answered <- answer{client: ssh.NewClient(c, channels, requests)}
	}()
	for {
		select {
		case a := <-answered:
			if a.err != nil {
				conn.Close()
				return fmt.Errorf("connect to the guest's agent: %w", a.err)
			}
			vm.mu.Lock()
			vm.agent = a.client
			vm.mu.Unlock()
			return nil
		default:
			if err := vm.pause(ctx, 5*time.Millisecond); err != nil {
				conn.Close()
				return fmt.Errorf("wait for the guest to boot: %w", err)
			}
		}
	}
}

func (vm *VM) dropAgent() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.agent != nil {
		vm.agent.Close() // the other end may be gone
		vm.agent = nil
	}
}

func (vm *VM) session() (*ssh.Session, error) {
	vm.mu.Lock()
	agent := vm.agent
	vm.mu.Unlock()
	if agent == nil {
		return nil, errEnded
	}
	return agent.NewSession()
}

// Exec runs a command and waits for it. A status other than zero is an *[ExitError]. When the context ends the command's
// process group is killed.
func (vm *VM) Exec(ctx context.Context, c Command) error {
	ended := make(chan error, 1)
	stop := make(chan struct{})
	go func() { ended <- vm.exec(c, stop) }()
	select {
	case err := <-ended:
		return vm.exit(err)
	case <-vm.proc.done:
		return vm.explain(errEnded)
	case <-vm.console.ended():
		// The answer may have been on its way.
		select {
		case err := <-ended:
			return errors.Join(vm.Fault(), vm.exit(err))
		case <-time.After(lastWords):
			close(stop)
			return vm.Fault()
		}
	case <-ctx.Done():
		close(stop)
		return ctx.Err()
	}
}

// exec is Exec without its bounds: it returns when the guest has answered, or the connection is closed. Closing stop
// kills the command.
func (vm *VM) exec(c Command, stop <-chan struct{}) error {
	s, err := vm.session()
	if err != nil {
		return err
	}
	defer s.Close()
	s.Stdout, s.Stderr = c.Stdout, c.Stderr
	// Not through s.Stdin: Wait would then wait for the end of an input that may never come.
	stdin, err := s.StdinPipe()
	if err != nil {
		return err
	}
	if c.Dir != "" {
		if err := s.Setenv("PWD", c.Dir); err != nil {
			return err
		}
	}
	var resized <-chan [2]int
	if t := c.Terminal; t != nil {
		if err := s.RequestPty(t.Type, t.Rows, t.Cols, ssh.TerminalModes{}); err != nil {
			return err
		}
		resized = t.Resized
	}
	if c.Script == "" {
		err = s.Shell()
	} else {
		err = s.Start(c.Script)
	}
	if err != nil {
		return err
	}
	go func() {
		if c.Stdin != nil {
			io.Copy(stdin, c.Stdin) // a command that has ended before its input is no error
		}
		stdin.Close()
	}()
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case size := <-resized:
			if err := s.WindowChange(size[0], size[1]); err != nil {
				return err
			}
		case <-stop:
			return s.Signal(ssh.SIGKILL)
		}
	}
}

func (vm *VM) exit(err error) error {
	var status *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return &ExitError{status.ExitStatus()}
	default:
		return vm.explain(err)
	}
}

// Run runs a script and returns what it wrote to standard output and standard error, which is part of the error too.
func (vm *VM) Run(ctx context.Context, script string) (string, error) {
	var out syncBuffer
	err := vm.Exec(ctx, Command{Script: script, Stdout: &out, Stderr: &out})
	if err != nil {
		err = fmt.Errorf("in the guest: %s: %w\n%s", firstLine(script), err, out.String())
	}
	return out.String(), err
}

// syncBuffer takes two streams at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// String is for when the writers are done.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func firstLine(s string) string {
	line, more, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if more != "" {
		line += " ..."
	}
	return line
}

// CopyIn makes a file in the guest from one of the host, with the same permissions.
func (vm *VM) CopyIn(ctx context.Context, hostPath, guestPath string) error {
	f, err := os.Open(hostPath)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var out syncBuffer
	script := fmt.Sprintf("cat >%[1]s && chmod %[2]o %[1]s", quote(guestPath), info.Mode().Perm())
	if err := vm.Exec(ctx, Command{Script: script, Stdin: f, Stdout: &out, Stderr: &out}); err != nil {
		return fmt.Errorf("copy %s to the guest: %w: %s", hostPath, err, out.String())
	}
	return nil
}

// CopyOut returns the content of a file of the guest.
func (vm *VM) CopyOut(ctx context.Context, guestPath string) ([]byte, error) {
	var out, complaint bytes.Buffer
	if err := vm.Exec(ctx, Command{Script: "cat " + quote(guestPath), Stdout: &out, Stderr: &complaint}); err != nil {
		return nil, fmt.Errorf("copy %s from the guest: %w: %s", guestPath, err, complaint.String())
	}
	return out.Bytes(), nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// powerOff asks the agent to power off. If it does, the answer is a broken connection.
func (vm *VM) powerOff() error {
	s, err := vm.session()
	if err != nil {
		return err
	}
	return s.RequestSubsystem("poweroff")
}
