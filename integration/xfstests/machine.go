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

// Where things are in the guest.
const (
	guestTests   = "/run/xfstests"
	guestResults = "/run/results"
	guestOptions = "/run/local.config"
)

// shares are what the two directories, their daemons and logs are called.
var shares = []string{"test", "scratch"}

// tag is the device's name in the guest. Tests take it for one that occurs in their output for nothing else.
func tag(share string) string { return "virtiofs-" + share }

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
	dead    chan int // holds the index of the first daemon that ended
	work    string   // sockets and served directories
	logs    string
}

// startMachine boots a guest on empty directories and prepares it for check.
func startMachine(ctx context.Context, s *settings, disk string, libraries map[string]string, logs string) (_ *machine, err error) {
	assets, err := guest.FindAssets()
	if err != nil {
		return nil, err
	}
	m := &machine{logs: logs, dead: make(chan int, len(shares))}
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
	return m, addLibraries(ctx, m.vm, libraries)
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
		m.dead <- i
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
mkdir -p %[1]s %[1]s.disk %[1]s.new %[1]s.work %[2]s /mnt/test /mnt/scratch
# Writable: some tests choose among lists of expected output by a link beside them.
mount -t ext4 -o ro /dev/vdb %[1]s.disk
mount -t overlay -o lowerdir=%[1]s.disk,upperdir=%[1]s.new,workdir=%[1]s.work overlay %[1]s
# su includes these, and the root disk's maker leaves them out.
for stack in auth account password session; do
    [ -e /etc/pam.d/common-$stack ] || echo "$stack required pam_permit.so" >/etc/pam.d/common-$stack
done
cat >%[3]s <<END
export FSTYP=virtiofs TEST_DEV=%[5]s TEST_DIR=/mnt/test SCRATCH_DEV=%[6]s SCRATCH_MNT=/mnt/scratch
export RESULT_BASE=%[2]s MOUNT_OPTIONS="%[4]s" TEST_FS_MOUNT_OPTS="%[4]s"
END
`, guestTests, guestResults, guestOptions, options, tag(shares[0]), tag(shares[1]))
}

// checkScript runs check on the tests in the order given.
func checkScript(tests []string) string {
	return fmt.Sprintf("cd %s && HOST_OPTIONS=%s exec ./check -virtiofs --exact-order %s 2>&1", guestTests, guestOptions, strings.Join(tests, " "))
}

// stacks keeps what all tasks of the guest do, and makes the daemons end with theirs: Go's runtime prints them to the
// log on SIGQUIT.
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

// keep copies what check kept about a test.
func (m *machine) keep(ctx context.Context, test, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, suffix := range []string{"full", "out.bad", "dmesg"} {
		content, err := m.copyOut(ctx, guestResults+"/"+test+"."+suffix)
		if err != nil {
			return err
		}
		if len(content) == 0 {
			continue
		}
		path := filepath.Join(dir, strings.ReplaceAll(test, "/", "-")+"."+suffix)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyOut returns the end of a file, or nothing if there is none: some tests write hundreds of megabytes.
func (m *machine) copyOut(ctx context.Context, path string) ([]byte, error) {
	var out strings.Builder
	err := m.vm.Exec(ctx, guest.Command{Script: "tail -c 1000000 " + path + " 2>/dev/null || true", Stdout: &out, Stderr: io.Discard})
	return []byte(out.String()), err
}

// stop powers the guest off; the error is what its kernel complained about.
func (m *machine) stop(ctx context.Context) error {
	err := m.vm.Stop(ctx)
	m.kill()
	return err
}

// kill ends everything at once. It may be called more than once.
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
