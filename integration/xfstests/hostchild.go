package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hostVariable      = "XFSTESTS_HOST"       // a hostConfig, as JSON
	hostStageVariable = "XFSTESTS_HOST_STAGE" // which of the two processes this is
	stageInit         = "init"
	stageWorker       = "worker"
	hostImageFD       = 3
	hostReportsFD     = 4
)

// hostChild does the part of a process in the namespaces and exits, if this one was started for it.
func hostChild() {
	var err error
	switch os.Getenv(hostStageVariable) {
	case "":
		return
	case stageInit:
		err = hostInit()
	case stageWorker:
		err = hostWorker()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "xfstests:", err)
		os.Exit(statusBroken)
	}
	os.Exit(0)
}

// hostInit is the first process of the namespace: it takes in the orphans, and everybody ends with it.
func hostInit() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Setenv(hostStageVariable, stageWorker); err != nil {
		return err
	}
	runtime.LockOSThread() // for the death signal
	worker, err := os.StartProcess(exe, []string{exe}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, os.NewFile(hostImageFD, "image"), os.NewFile(hostReportsFD, "reports")},
		Sys:   &unix.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return err
	}
	os.Stdin.Close()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if pid == worker.Pid {
			os.Exit(status.ExitStatus())
		}
	}
}

// hostSession is the worker: it makes check's root, mounts what check asks for, and obeys orders.
type hostSession struct {
	config hostConfig
	mounts *mountServer

	mu  sync.Mutex
	out *json.Encoder
}

func hostWorker() error {
	w := &hostSession{out: json.NewEncoder(os.NewFile(hostReportsFD, "reports"))}
	err := json.Unmarshal([]byte(os.Getenv(hostVariable)), &w.config)
	if err == nil {
		unix.CloseOnExec(hostImageFD)
		unix.CloseOnExec(hostReportsFD)
		os.Unsetenv(hostVariable)
		os.Unsetenv(hostStageVariable)
		err = w.prepare()
	}
	w.report(hostReady, err)
	if err != nil {
		return err
	}
	orders := json.NewDecoder(os.Stdin)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the process that runs the tests has ended
			}
			return err
		}
		switch {
		case o.Check != "":
			go func() { w.report(hostChecked, w.check(o.Check)) }()
		case o.Stacks:
			w.report(hostStacks, errors.Join(keepStacks(hostRoot+"/proc", w.config.Logs), w.mounts.abort()))
		case o.Stop:
			w.report(hostStopped, w.mounts.stop())
			return nil
		}
	}
}

func (w *hostSession) report(kind string, err error) {
	r := report{Kind: kind}
	if err != nil {
		r.Error = err.Error()
	}
	w.send(r)
}

// Write reports what check says.
func (w *hostSession) Write(b []byte) (int, error) {
	w.send(report{Kind: hostOutput, Output: b})
	return len(b), nil
}

func (w *hostSession) send(r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Encode(r)
}

func (w *hostSession) prepare() (err error) {
	if err := makeHostRoot(filepath.Join(w.config.Logs, hostBase), w.config.Root, w.config.XFSTests); err != nil {
		return err
	}
	if _, err := w.inRoot(optionScript(w.fileSystem(), "")); err != nil {
		return err
	}
	if err := addLibraries(w.config.Libraries, w.inRoot, func(from, to string) error { return copyFile(from, hostRoot+to) }); err != nil {
		return err
	}
	w.mounts, err = newMountServer(w.config, func(why string) { w.report(hostTrouble, errors.New(why)) })
	return err
}

func (*hostSession) fileSystem() string { return (&settings{host: true}).fileSystem() }

// command runs a script in check's root.
func (*hostSession) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", script)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: hostRoot, Setsid: true, Pdeathsig: unix.SIGKILL}
	return cmd
}

func (w *hostSession) inRoot(script string) (string, error) {
	runtime.LockOSThread() // for the death signal
	defer runtime.UnlockOSThread()
	out, err := w.command(context.Background(), script).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("in check's root: %w\n%s", err, out)
	}
	return string(out), nil
}

// check is not an error when it fails.
func (w *hostSession) check(script string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := w.command(context.Background(), script)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = time.Second // for what tests have left running
	err := cmd.Run()
	var status *exec.ExitError
	if errors.Is(err, exec.ErrWaitDelay) || errors.As(err, &status) && status.Exited() {
		return nil
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
