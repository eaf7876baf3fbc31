package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// hostConfig is what the process in the namespaces has to know.
type hostConfig struct {
	XFSTests  string
	Root      string // image of check's root
	Libraries map[string]string
	Daemon    []string
	Queues    int
	Packed    bool
	Logs      string
}

// order is a line to that process.
type order struct {
	Check  string `json:",omitempty"` // a script
	Stacks bool   `json:",omitempty"`
	Stop   bool   `json:",omitempty"`
}

// report is a line from it.
type report struct {
	Kind   string
	Error  string `json:",omitempty"`
	Output []byte `json:",omitempty"`
}

const (
	hostReady   = "ready"
	hostOutput  = "output" // of check, all of it before it has ended
	hostChecked = "checked"
	hostTrouble = "trouble"
	hostStacks  = "stacks"
	hostStopped = "stopped"
)

// hostKernel is check on this machine's kernel: a process in namespaces of its own, which end with it. The served
// directories are on a file system of their own, in a file without a name.
type hostKernel struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	base    string // where the process has its files, as this process finds them
	reports map[string]chan report
	done    chan struct{} // closed when the process has ended
	dead    chan string

	mu     sync.Mutex
	output io.Writer // for what check says
}

// startHost makes the namespaces and prepares check's root.
func startHost(ctx context.Context, s *settings, libraries map[string]string, logs string) (_ *hostKernel, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("--host-kernel mounts file systems: run it as root")
	}
	config, err := hostConfigOf(s, libraries, logs)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(config.Logs, hostBase)
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	image, err := unnamedFile(s.work, int64(s.disk)<<20)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	log, err := os.Create(filepath.Join(logs, "host.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h := &hostKernel{
		reports: map[string]chan report{}, done: make(chan struct{}), dead: make(chan string, 1), output: io.Discard,
	}
	for _, kind := range []string{hostReady, hostChecked, hostStacks, hostStopped} {
		h.reports[kind] = make(chan report, 1)
	}
	if err := h.start(config, image, log); err != nil {
		return nil, err
	}
	h.base = fmt.Sprintf("/proc/%d/root%s", h.cmd.Process.Pid, base)
	if err := h.await(ctx, hostReady); err != nil {
		h.kill()
		return nil, fmt.Errorf("%w, see %s", err, log.Name())
	}
	return h, nil
}

func hostConfigOf(s *settings, libraries map[string]string, logs string) (*hostConfig, error) {
	assets, err := guest.FindAssets()
	if err != nil {
		return nil, err
	}
	c := &hostConfig{Libraries: libraries, Root: assets.Root, Daemon: append([]string{}, s.daemon...), Queues: s.queues, Packed: s.packed}
	if c.Daemon[0], err = exec.LookPath(c.Daemon[0]); err != nil {
		return nil, err
	}
	// The process works in another directory.
	for _, path := range []struct {
		to   *string
		from string
	}{{&c.XFSTests, s.xfstests}, {&c.Daemon[0], c.Daemon[0]}, {&c.Logs, logs}} {
		if *path.to, err = filepath.Abs(path.from); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// unnamedFile is gone when its last user is.
func unnamedFile(dir string, size int64) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file without a name in %s (give another directory by --work): %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (h *hostKernel) start(config *hostConfig, image, log *os.File) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	reports, reportsOut, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reportsOut.Close()
	h.cmd = exec.Command(exe)
	h.cmd.Env = append(os.Environ(), hostVariable+"="+string(text), hostStageVariable+"="+stageInit)
	h.cmd.ExtraFiles = []*os.File{hostImageFD - 3: image, hostReportsFD - 3: reportsOut}
	h.cmd.Stdout, h.cmd.Stderr = log, log
	h.cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Setpgid:    true,
		Pdeathsig:  unix.SIGKILL,
	}
	if h.orders, err = h.cmd.StdinPipe(); err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread that forked ends
		defer runtime.UnlockOSThread()
		err := h.cmd.Start()
		started <- err
		if err == nil {
			h.cmd.Wait()
			close(h.done)
		}
	}()
	if err := <-started; err != nil {
		reports.Close()
		return fmt.Errorf("make namespaces: %w", err)
	}
	go h.listen(reports)
	return nil
}

func (h *hostKernel) listen(reports *os.File) {
	defer reports.Close()
	lines := json.NewDecoder(bufio.NewReader(reports))
	for {
		var r report
		if lines.Decode(&r) != nil {
			return
		}
		switch r.Kind {
		case hostTrouble:
			select {
			case h.dead <- r.Error:
			default: // one is enough
			}
		case hostOutput:
			h.mu.Lock()
			h.output.Write(r.Output)
			h.mu.Unlock()
		default:
			h.reports[r.Kind] <- r
		}
	}
}

func (h *hostKernel) order(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = h.orders.Write(append(line, '\n'))
	return err
}

func (h *hostKernel) await(ctx context.Context, kind string) error {
	select {
	case r := <-h.reports[kind]:
		if r.Error != "" {
			return errors.New(r.Error)
		}
		return nil
	case <-h.done:
		return fmt.Errorf("the process in the namespaces ended: %s", h.cmd.ProcessState)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hostKernel) check(ctx context.Context, script string, output io.Writer) error {
	h.mu.Lock()
	h.output = output
	h.mu.Unlock()
	if err := h.order(order{Check: script}); err != nil {
		return err
	}
	return h.await(ctx, hostChecked)
}

func (h *hostKernel) trouble() <-chan string { return h.dead }

func (h *hostKernel) stacks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := h.order(order{Stacks: true}); err != nil {
		return err
	}
	return h.await(ctx, hostStacks)
}

func (h *hostKernel) copyOut(_ context.Context, path string) ([]byte, error) {
	// Results are there under the same name without the root's.
	f, err := os.Open(filepath.Join(h.base, filepath.Base(resultsDir), strings.TrimPrefix(path, resultsDir)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-keptBytes), keptBytes))
}

func (h *hostKernel) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := h.order(order{Stop: true})
	if err == nil {
		err = h.await(ctx, hostStopped)
	}
	h.kill()
	return err
}

func (h *hostKernel) kill() {
	h.cmd.Process.Kill() // with everything in its namespace
	<-h.done
}
