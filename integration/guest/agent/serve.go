package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// outputGrace is how long a finished command's background processes may hold its output open.
const outputGrace = 5 * time.Second

// serve answers one connection of the host after the other, until it can't.
func serve() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	server := &ssh.Server{
		Handler:         run,
		HostSigners:     []ssh.Signer{signer},
		PtyCallback:     func(ssh.Context, ssh.Pty) bool { return true },
		ChannelHandlers: map[string]ssh.ChannelHandler{"session": ssh.DefaultSessionHandler},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{
			"poweroff": func(s ssh.Session) {
				if err := stop(false); err != nil {
					fmt.Fprintln(s.Stderr(), err)
				}
			},
		},
	}
	name, err := findPort("agent", 10*time.Second)
	if err != nil {
		return err
	}
	for {
		port, err := openPort(name)
		if err != nil {
			return err
		}
		server.HandleConn(port)
		port.Close()
	}
}

// run serves one command, or a login shell if the session names none.
func run(s ssh.Session) {
	var cmd *exec.Cmd
	terminal, resized, isTerminal := s.Pty()
	switch {
	case s.RawCommand() != "":
		cmd = exec.Command("/bin/bash", "-c", s.RawCommand())
	case isTerminal:
		cmd = exec.Command("/bin/bash", "-i")
	default:
		cmd = exec.Command("/bin/bash", "-s")
	}
	cmd.Dir = "/root"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8"}
	for _, kv := range s.Environ() {
		if dir, ok := strings.CutPrefix(kv, "PWD="); ok {
			cmd.Dir = dir
		}
		cmd.Env = append(cmd.Env, kv)
	}
	cmd.WaitDelay = outputGrace
	var err error
	if isTerminal {
		cmd.Env = append(cmd.Env, "TERM="+terminal.Term)
		err = runOnTerminal(s, cmd, terminal, resized)
	} else {
		err = runOnPipes(s, cmd)
	}
	s.Exit(status(s, err))
}

func runOnPipes(s ssh.Session, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = s, s.Stderr()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		// A command that does not read its input to the end is no error.
		io.Copy(stdin, s)
		stdin.Close()
	}()
	defer forwardSignals(s, cmd)()
	return cmd.Wait()
}

func runOnTerminal(s ssh.Session, cmd *exec.Cmd, terminal ssh.Pty, resized <-chan ssh.Window) error {
	size := func(w ssh.Window) *pty.Winsize { return &pty.Winsize{Rows: uint16(w.Height), Cols: uint16(w.Width)} }
	master, err := pty.StartWithSize(cmd, size(terminal.Window))
	if err != nil {
		return err
	}
	defer master.Close()
	go func() {
		for w := range resized {
			pty.Setsize(master, size(w))
		}
	}()
	go io.Copy(master, s)
	drained := make(chan struct{})
	go func() {
		io.Copy(s, master) // ends with EIO when the last process has left the terminal
		close(drained)
	}()
	defer forwardSignals(s, cmd)()
	err = cmd.Wait()
	select {
	case <-drained:
	case <-time.After(outputGrace):
	}
	return err
}

// forwardSignals gives the session's signals to the command's process group, SIGKILL when the host is gone. The
// returned function ends that.
func forwardSignals(s ssh.Session, cmd *exec.Cmd) func() {
	signals := make(chan ssh.Signal, 1)
	done := make(chan struct{})
	s.Signals(signals)
	go func() {
		for {
			select {
			case sig := <-signals:
				if n := unix.SignalNum("SIG" + string(sig)); n != 0 {
					unix.Kill(-cmd.Process.Pid, n)
				}
			case <-s.Context().Done():
				unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
				return
			case <-done:
				return
			}
		}
	}()
	return func() {
		s.Signals(nil)
		close(done)
	}
}

// status turns the end of a command into the number that a shell would show.
func status(s ssh.Session, err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return exit.ExitCode()
	default:
		fmt.Fprintln(s.Stderr(), err)
		return 127
	}
}

// unmountShares unmounts every virtiofs, the last mounted first.
func unmountShares() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(mounts), "\n")
	slices.Reverse(lines)
	var errs []error
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "virtiofs" {
			if err := unix.Unmount(f[1], 0); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", f[1], err))
			}
		}
	}
	return errors.Join(errs...)
}
