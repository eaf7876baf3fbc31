package guest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// TestTwoRequestQueuesOnTwoCPUs works on either CPU of the guest in turn and looks at which queue's interrupt counts.
func TestTwoRequestQueuesOnTwoCPUs(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may have one request queue only")
	}
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: 2})
	const files = 50
	var served [2]string // the queue that each CPU works on
	for cpu := range 2 {
		before := interrupts(t, vm)
		run(t, vm, time.Minute, fmt.Sprintf("taskset -c %d bash -c 'for i in $(seq %d); do echo $i >/mnt/file-%[1]d-$i; cat /mnt/file-%[1]d-$i; rm /mnt/file-%[1]d-$i; done'", cpu, files))
		after := interrupts(t, vm)
		if len(after) != 2 {
			t.Fatalf("the guest has interrupts for %d request queues: %v", len(after), after)
		}
		for queue := range after {
			if after[queue]-before[queue] >= files {
				served[cpu] += queue
			}
		}
		t.Logf("interrupts of work on CPU %d: before %v, after %v", cpu, before, after)
	}
	if len(served[0]) != len("requests.0") || len(served[1]) != len("requests.0") || served[0] == served[1] {
		t.Errorf("CPU 0 was served by %q and CPU 1 by %q; want one queue each", served[0], served[1])
	}
}

var requestInterrupt = regexp.MustCompile(`(?m)^ *\d+: +((?:\d+ +)+)\D.*(requests\.\d+|fasteoi +virtio\d+)$`)

// interrupts counts those of each request queue, over all CPUs, or of the whole device with a window, which has one in QEMU.
func interrupts(t *testing.T, vm *guest.VM) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, m := range requestInterrupt.FindAllStringSubmatch(run(t, vm, time.Minute, "cat /proc/interrupts"), -1) {
		for _, count := range strings.Fields(m[1]) {
			n, _ := strconv.Atoi(count)
			counts[m[2]] += n
		}
	}
	if len(counts) == 0 {
		t.Error("no device of ours in the guest's /proc/interrupts")
	}
	return counts
}

// TestTenReboots resets the guest ten times against one daemon, each time in the middle of writing.
func TestTenReboots(t *testing.T) {
	dir := t.TempDir()
	daemon, socket := startDaemon(t, dir, "--reconnect")
	vm := startVM(t, guest.Config{Shares: []guest.Share{{Tag: tag, Socket: socket}}})
	for i := range 10 {
		run(t, vm, time.Minute, "mount -t virtiofs "+tag+" /mnt")
		for j := range i {
			if got := run(t, vm, time.Minute, fmt.Sprintf("cat /mnt/boot%d", j)); got != fmt.Sprintln(j) {
				t.Fatalf("boot %d left %q", j, got)
			}
		}
		run(t, vm, time.Minute, fmt.Sprintf("echo %d >/mnt/boot%[1]d; (while :; do dd if=/dev/zero of=/mnt/busy bs=64k count=64 conv=fsync; ls -lR /mnt; done) >/dev/null 2>&1 &", i))
		if err := vm.Reset(t.Context()); err != nil {
			t.Fatalf("reboot %d: %v", i, err)
		}
	}
	select {
	case <-daemon.Done():
		t.Error("the daemon has ended")
	default:
	}
}

// TestGuestsComeAndGo starts one QEMU after the other on one daemon with --reconnect, the last ones killed at work.
func TestGuestsComeAndGo(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may end with its front-end")
	}
	findAssets(t)
	dir := t.TempDir()
	daemon, socket := startDaemon(t, dir, "--reconnect")
	for i := range 4 {
		vm := startVM(t, guest.Config{Shares: []guest.Share{{Tag: tag, Socket: socket}}})
		run(t, vm, time.Minute, fmt.Sprintf("mount -t virtiofs "+tag+" /mnt && ls /mnt && echo here >/mnt/guest%d", i))
		if i >= 2 {
			run(t, vm, time.Minute, "(while :; do dd if=/dev/zero of=/mnt/busy bs=64k count=64 conv=fsync; done) >/dev/null 2>&1 &")
			vm.Kill()
			continue
		}
		if err := vm.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-daemon.Done():
		t.Error("the daemon has ended")
	default:
	}
	for i := range 4 {
		if b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("guest%d", i))); err != nil || string(b) != "here\n" {
			t.Errorf("guest %d left %q, %v", i, b, err)
		}
	}
}

// TestDaemonEndsWithItsGuest is what libvirt expects of a daemon without --reconnect.
func TestDaemonEndsWithItsGuest(t *testing.T) {
	findAssets(t)
	daemon, socket := startDaemon(t, t.TempDir())
	vm := startVM(t, guest.Config{Shares: []guest.Share{{Tag: tag, Socket: socket}}})
	run(t, vm, time.Minute, "mount -t virtiofs "+tag+" /mnt && echo >/mnt/file")
	vm.Kill()
	if err := daemon.Wait(20 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestMountAgain mounts and unmounts many times, with files and directories still cached.
func TestMountAgain(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{})
	run(t, vm, 5*time.Minute, `set -e
for i in $(seq 20); do
    mkdir -p /mnt/dir$i/sub
    echo $i >/mnt/dir$i/sub/file
    umount /mnt
    mount -t virtiofs `+tag+` /mnt
    test "$(cat /mnt/dir*/sub/file | wc -l)" = $i
done`)
}

// TestPackedRings has the guest use packed virtqueues.
func TestPackedRings(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may not offer packed virtqueues")
	}
	findAssets(t)
	_, socket := startDaemon(t, t.TempDir(), "--queues=2")
	vm := startVM(t, guest.Config{Packed: true, Shares: []guest.Share{{Tag: tag, Socket: socket, RequestQueues: 2}}})
	run(t, vm, time.Minute, "mount -t virtiofs "+tag+" /mnt")
	const packed = 34 // VIRTIO_F_RING_PACKED
	for features := range strings.Lines(run(t, vm, time.Minute, "for d in /sys/bus/virtio/drivers/virtiofs/virtio*; do cat $d/features; done")) {
		if features[packed] != '1' {
			t.Fatalf("the guest did not negotiate packed virtqueues: %s", features)
		}
	}
	run(t, vm, 5*time.Minute, "fio --name=packed --directory=/mnt --verify=crc32c --verify_fatal=1 --rw=randwrite --bs=4k-256k --size=32m --numjobs=2 --ioengine=psync --group_reporting")
	run(t, vm, 5*time.Minute, "cp -a /usr/share/perl /mnt/copy && diff -r /usr/share/perl /mnt/copy && rm -r /mnt/copy")
}

// TestTwoSharesInOneGuest keeps two daemons' trees apart.
func TestTwoSharesInOneGuest(t *testing.T) {
	findAssets(t)
	var shares []guest.Share
	for i := range 2 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "name"), fmt.Appendf(nil, "share %d\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
		_, socket := startDaemon(t, dir)
		shares = append(shares, guest.Share{Tag: fmt.Sprintf("share%d", i), Socket: socket})
	}
	vm := startVM(t, guest.Config{Shares: shares})
	if got := run(t, vm, time.Minute, "mkdir /a /b && mount -t virtiofs share0 /a && mount -t virtiofs share1 /b && cat /a/name /b/name && cp /a/name /b/other && cat /b/other"); got != "share 0\nshare 1\nshare 0\n" {
		t.Errorf("the guest sees %q", got)
	}
}
