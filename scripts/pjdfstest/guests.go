package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	tag     = "share"
	program = "pjdfstest"
)

// prepare mounts the share. The suite takes names from `openssl md5` and nothing else from there; the guest's root has
// no openssl.
const prepare = `set -e
mount -t virtiofs %s %s /mnt
mkdir /tmp/suite
if ! command -v openssl >/dev/null; then
    printf '%%s\n' '#!/bin/sh' 'exec md5sum --tag' >/usr/local/bin/openssl
    chmod 755 /usr/local/bin/openssl
fi
test "$(echo | openssl md5 | awk '{print $NF}')" = 68b329da9893e34099c7d8ad5cb9c940`

// inGuests runs files of tests, in as many guests as it takes: one in which a test hangs is given up.
func inGuests(ctx context.Context, s *settings, assets *guest.Assets, share string, files []string) ([]*result, error) {
	var all []*result
	for n := 1; len(files) > 0; n++ {
		g, err := startGuest(ctx, s, assets, share, filepath.Join(s.out, "guests", fmt.Sprint(n)))
		if err != nil {
			return nil, err
		}
		results := g.runAll(ctx, s, files, len(all))
		if err := g.stop(); err != nil {
			return nil, fmt.Errorf("at the end of the guest: %w", err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, results...)
		done := map[string]bool{}
		for _, r := range results {
			done[r.name] = true
		}
		var left []string
		for _, f := range files {
			if !done[f] {
				left = append(left, f)
			}
		}
		files = left
	}
	return all, nil
}

// testGuest is a guest with the share at /mnt and the tests in /tmp.
type testGuest struct {
	dir    string // its logs
	daemon *guest.Daemon
	vm     *guest.VM
	socket string // its directory

	mu      sync.Mutex
	broken  bool // a test did not end
	results []*result
}

func startGuest(ctx context.Context, s *settings, assets *guest.Assets, share, dir string) (_ *testGuest, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g := &testGuest{dir: dir}
	if g.socket, err = os.MkdirTemp("", "virtiofsd-go-pjdfstest-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.kill()
			err = fmt.Errorf("%w (logs: %s)", err, dir)
		}
	}()
	socket := filepath.Join(g.socket, "socket")
	if g.daemon, err = guest.StartDaemon(ctx, guest.DaemonConfig{Command: s.daemon, Socket: socket, Dir: share, Tag: tag, Output: log}); err != nil {
		return nil, err
	}
	device := guest.Share{Tag: tag, Socket: socket, RequestQueues: s.queues, DAX: s.dax}
	if g.vm, err = guest.Start(ctx, assets, guest.Config{Shares: []guest.Share{device}, Dir: dir}); err != nil {
		return nil, err
	}
	options := ""
	if s.mount != "" {
		options = "-o " + s.mount
	}
	if _, err = g.vm.Run(ctx, fmt.Sprintf(prepare, options, tag)); err != nil {
		return nil, err
	}
	pack := exec.CommandContext(ctx, "tar", "-C", s.tree, "-c", program, "tests")
	archive, err := pack.Output()
	if err != nil {
		return nil, fmt.Errorf("pack the tests: %w", err)
	}
	if err = g.vm.Exec(ctx, guest.Command{Script: "tar -x", Dir: "/tmp/suite", Stdin: bytes.NewReader(archive)}); err != nil {
		return nil, fmt.Errorf("unpack the tests: %w", err)
	}
	return g, nil
}

// runAll runs files until all are done or one did not end, and shows how far it is.
func (g *testGuest) runAll(ctx context.Context, s *settings, files []string, before int) []*result {
	var group errgroup.Group
	group.SetLimit(s.jobs)
	for _, name := range files {
		group.Go(func() error {
			g.mu.Lock()
			broken := g.broken
			g.mu.Unlock()
			if broken || ctx.Err() != nil {
				return nil
			}
			r := g.runOne(ctx, s, name)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.results = append(g.results, r)
			fmt.Printf("%4d/%d %-10s %-24s %4d of %-4d %6.1fs\n", before+len(g.results), before+len(files), r.outcome(), r.name, len(r.passed), r.planned, r.took.Seconds())
			return nil
		})
	}
	group.Wait() // of functions that return no error
	return g.results
}

// script runs one file in a new directory below the one that it is started in, and leaves nothing there.
func script(suite, name string) string {
	directory := "pjd-" + filepath.Dir(name) + "-" + filepath.Base(name)
	return fmt.Sprintf("mkdir %[1]s && cd %[1]s && umask 022 && sh %[2]s/tests/%[3]s 2>&1; status=$?; cd .. && rm -rf %[1]s; exit $status", directory, suite, name)
}

func (g *testGuest) runOne(ctx context.Context, s *settings, name string) *result {
	var out bytes.Buffer
	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	err := g.vm.Exec(limited, guest.Command{Script: script("/tmp/suite", name), Dir: "/mnt", Stdout: &out})
	took := time.Since(begin)
	var status *guest.ExitError
	if err == nil || errors.As(err, &status) {
		r := parse(name, out.Bytes(), err)
		r.took = took
		return r
	}
	g.mu.Lock()
	first := !g.broken
	g.broken = true
	g.mu.Unlock()
	if first && ctx.Err() == nil {
		g.stacks()
	}
	// The command may write to out for as long as it lives: nothing of it is used.
	return &result{name: name, took: took, broken: fmt.Errorf("it did not end: %w", err)}
}

// stacks has the guest's tasks put on its console and the goroutines of the daemon into its log, if it is one in Go.
func (g *testGuest) stacks() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := g.vm.Run(ctx, "echo 8 >/proc/sys/kernel/printk; echo 1 >/proc/sys/kernel/sysrq; for key in w t; do echo $key >/proc/sysrq-trigger; done; sleep 5"); err != nil {
		fmt.Fprintln(os.Stderr, "pjdfstest: the guest's stacks:", err)
	}
	unix.Kill(g.daemon.PID(), unix.SIGQUIT) // it may have ended
	select {
	case <-g.daemon.Done():
	case <-ctx.Done():
	}
}

// stop ends the guest. What its kernel has to complain about is an error, unless a test did not end anyway.
func (g *testGuest) stop() error {
	defer g.kill()
	if g.broken {
		return nil
	}
	return g.vm.Stop(context.Background())
}

func (g *testGuest) kill() {
	if g.vm != nil {
		g.vm.Kill()
	}
	if g.daemon != nil {
		g.daemon.Kill()
	}
	os.RemoveAll(g.socket)
}

// onHost runs files in which something fails again, where the share is.
func onHost(ctx context.Context, s *settings, share string, results []*result) error {
	for _, r := range results {
		if len(r.failed) == 0 && r.broken == nil {
			continue
		}
		cmd := exec.CommandContext(ctx, "sh", "-c", script(s.tree, r.name))
		cmd.Dir = share
		out, err := cmd.Output()
		var status *exec.ExitError
		if err != nil && !errors.As(err, &status) {
			return fmt.Errorf("%s on the host: %w", r.name, err)
		}
		r.host = parse(r.name, out, err)
	}
	return ctx.Err()
}
