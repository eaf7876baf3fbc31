package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sys/unix"
)

// makeDisk makes a disk image of an installed xfstests, for the guest to mount read-only.
func makeDisk(ctx context.Context, xfstests, path string) error {
	var size int64 // MiB
	err := filepath.WalkDir(xfstests, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()/4096 + 1
		}
		return err
	})
	if err != nil {
		return err
	}
	size = size*4096*5/4>>20 + 32
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", xfstests, path, fmt.Sprintf("%dM", size))
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk of %s: %w\n%s", xfstests, err, out)
	}
	return nil
}

// machine is a guest with its daemons.
type machine struct {
	vm      *guest.VM
	daemons []*guest.Daemon
	dead    chan string // holds which daemon ended first
	work    string      // sockets and served directories
	logs    string
}

// startMachine boots a guest on empty directories and prepares it for check.
func startMachine(ctx context.Context, s *settings, disk string, libraries map[string]string, logs string) (_ *machine, err error) {
	assets, err := guest.FindAssets()
	if err != nil {
		return nil, err
	}
	m := &machine{logs: logs, dead: make(chan string, len(shares))}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	if m.work, err = os.MkdirTemp(s.work, "xfstests-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.kill()
		}
	}()
	config := guest.Config{
		MemoryMiB: s.memory, Packed: s.packed, Dir: logs, NoReboot: true,
		QEMUArgs: []string{"-drive", "if=none,id=tests,format=raw,readonly=on,file=" + disk, "-device", "virtio-blk-pci,drive=tests"},
	}
	for i, name := range shares {
		share := guest.Share{Tag: tag(name), Socket: filepath.Join(m.work, name+".sock"), RequestQueues: s.queues, QueueSize: 1024, DAX: s.dax}
		if err := m.startDaemon(ctx, s, i, share.Socket); err != nil {
			return nil, err
		}
		config.Shares = append(config.Shares, share)
	}
	if m.vm, err = guest.Start(ctx, assets, config); err != nil {
		return nil, err
	}
	if _, err := m.vm.Run(ctx, prepareScript(s.dax)); err != nil {
		return nil, err
	}
	return m, addLibraries(libraries,
		func(script string) (string, error) { return m.vm.Run(ctx, script) },
		func(from, to string) error { return m.vm.CopyIn(ctx, from, to) })
}

func (m *machine) startDaemon(ctx context.Context, s *settings, i int, socket string) error {
	dir := filepath.Join(m.work, shares[i])
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(m.daemonLog(i))
	if err != nil {
		return err
	}
	defer log.Close()
	d, err := guest.StartDaemon(ctx, guest.DaemonConfig{Command: s.daemon, Socket: socket, Dir: dir, Tag: tag(shares[i]), Output: log})
	if err != nil {
		return fmt.Errorf("%w (see %s)", err, log.Name())
	}
	m.daemons = append(m.daemons, d)
	go func() {
		<-d.Done()
		m.dead <- "the daemon of " + shares[i] + " ended"
	}()
	return nil
}

func (m *machine) daemonLog(i int) string {
	return filepath.Join(m.logs, "daemon-"+shares[i]+".log")
}

func prepareScript(dax bool) string {
	options := ""
	if dax {
		options = "-o dax=always"
	}
	return fmt.Sprintf(`set -e
mkdir -p %[1]s %[1]s.disk %[1]s.new %[1]s.work
# Writable: some tests choose among lists of expected output by a link beside them.
mount -t ext4 -o ro /dev/vdb %[1]s.disk
mount -t overlay -o lowerdir=%[1]s.disk,upperdir=%[1]s.new,workdir=%[1]s.work overlay %[1]s
`, testsDir) + optionScript("virtiofs", options)
}

func (m *machine) check(ctx context.Context, script string, output io.Writer) error {
	err := m.vm.Exec(ctx, guest.Command{Script: script, Stdout: output})
	var status *guest.ExitError
	if err == nil || errors.As(err, &status) || ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the guest ended: %s", firstLine(err.Error()))
}

func (m *machine) trouble() <-chan string { return m.dead }

// stacks asks the guest's kernel; the daemons end with theirs, as Go's runtime prints them to the log on SIGQUIT.
func (m *machine) stacks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var errs []error
	for key, name := range map[string]string{"w": "guest-blocked.txt", "t": "guest-tasks.txt"} {
		out, err := m.vm.Run(ctx, "dmesg -C; echo 1 >/proc/sys/kernel/sysrq; echo "+key+" >/proc/sysrq-trigger; dmesg")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.WriteFile(filepath.Join(m.logs, name), []byte(out), 0o644))
	}
	for _, d := range m.daemons {
		errs = append(errs, d.Abort())
	}
	return errors.Join(errs...)
}

func (m *machine) copyOut(ctx context.Context, path string) ([]byte, error) {
	var out strings.Builder
	err := m.vm.Exec(ctx, guest.Command{Script: fmt.Sprintf("tail -c %d %s 2>/dev/null || true", keptBytes, path), Stdout: &out, Stderr: io.Discard})
	return []byte(out.String()), err
}

// stop powers the guest off; its kernel's complaints are trouble too.
func (m *machine) stop(ctx context.Context) error {
	err := m.vm.Stop(ctx)
	m.kill()
	return err
}

func (m *machine) kill() {
	if m.vm != nil {
		m.vm.Kill()
	}
	for _, d := range m.daemons {
		d.Kill()
	}
	// Tests leave immutable files behind when they are killed; those stay where they are, with a word about it.
	if err := os.RemoveAll(m.work); err != nil && !errors.Is(err, unix.ENOENT) {
		fmt.Fprintln(os.Stderr, "xfstests:", err)
	}
}
