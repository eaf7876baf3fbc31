package guest_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// daxMounted boots a guest with dir at /mnt, every file of it mapped through a window of the given size.
func daxMounted(t *testing.T, dir, window string, options ...string) *guest.VM {
	t.Helper()
	if foreign() {
		t.Skip("the daemon under test may have no DAX window")
	}
	findAssets(t)
	_, socket := startDaemon(t, dir, append([]string{"--tag=" + tag, "--dax-window=" + window, "--queues=2"}, options...)...)
	vm := startVM(t, guest.Config{Shares: []guest.Share{{Tag: tag, Socket: socket, RequestQueues: 2, DAX: true}}})
	run(t, vm, time.Minute, "mount -t virtiofs -o dax=always "+tag+" /mnt && grep -q 'virtiofs .*dax=always' /proc/mounts")
	return vm
}

// TestDAXFilesOfEverySize reads, grows, shrinks and maps files around the sizes of pages and ranges in the guest, with
// a window that holds few of them, and compares them on both sides; and files that are special in other ways.
func TestDAXFilesOfEverySize(t *testing.T) {
	dir, control := t.TempDir(), controlSocket(t)
	vm := daxMounted(t, dir, "32M", "--dax-min-size=4M", "--xattr", "--control-socket="+control)
	var archive bytes.Buffer
	want, err := writeSourceTree(&archive, 2, 300)
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	if err := vm.Exec(t.Context(), guest.Command{Script: "tar -x", Dir: "/mnt", Stdin: &archive, Stderr: &complaint}); err != nil {
		t.Fatalf("unpack: %v\n%s", err, complaint.String())
	}
	want.same(t, onHost(t, dir), "on the host")
	want.same(t, inGuest(t, vm), "in the guest")

	const page, mapping = 4096, 2 << 20
	for _, size := range []int{0, 1, page - 1, page, page + 1, mapping - 1, mapping, mapping + 1, 3*mapping + 12345} {
		name := fmt.Sprintf("size-%d", size)
		out := run(t, vm, time.Minute, fmt.Sprintf(`set -e
cd /mnt
head -c %[2]d /dev/urandom >/tmp/reference
cp /tmp/reference %[1]s
echo 3 >/proc/sys/vm/drop_caches
cmp %[1]s /tmp/reference
python3 - <<'PY'
import mmap, os
fd = os.open("%[1]s", os.O_RDWR)
size = os.fstat(fd).st_size
if size:
    with mmap.mmap(fd, size) as m:
        m[size - 1] = m[size - 1] ^ 0xff
        m[0] = m[0] ^ 0xff
        m.flush()
    with mmap.mmap(fd, size) as m:
        m[size - 1] = m[size - 1] ^ 0xff
        m[0] = m[0] ^ 0xff
PY
cmp %[1]s /tmp/reference
echo tail >>%[1]s; echo tail >>/tmp/reference
cmp %[1]s /tmp/reference
truncate -s +5000 %[1]s; truncate -s +5000 /tmp/reference
cmp %[1]s /tmp/reference
truncate -s %[2]d %[1]s; truncate -s %[2]d /tmp/reference
cmp %[1]s /tmp/reference
rm %[1]s
md5sum /tmp/reference`, name, size))
		if !strings.Contains(out, "/tmp/reference") {
			t.Errorf("size %d: %s", size, out)
		}
	}
	t.Run("a program that the host runs", func(t *testing.T) { programOfTheHost(t, vm, dir) })
	t.Run("a hole, and no name", func(t *testing.T) { filesWithoutBlocksOrNames(t, vm) })
	t.Run("changes on the host", func(t *testing.T) { changesOnTheHost(t, vm, dir) })
	t.Run("writes that send nothing", func(t *testing.T) { writesThatSendNothing(t, vm) })
	run(t, vm, time.Minute, "umount /mnt")
	t.Run("chosen by the daemon", func(t *testing.T) {
		daemonChooses(t, vm, tag, "/mnt", dir, control, map[string]int{"mapped": 4 << 20, "mapped-tail": 5<<20 + 1, "small": 4<<20 - 1})
	})
}

// TestDAXStoreShowsInTheTimes changes a file by a store to its mapping, right after its attributes were asked for.
func TestDAXStoreShowsInTheTimes(t *testing.T) {
	for _, backing := range []string{"managed", "passthrough"} {
		t.Run(backing, func(t *testing.T) {
			vm := daxMounted(t, t.TempDir(), "32M", "--dax-backing="+backing)
			run(t, vm, time.Minute, `python3 - <<'PY'
import mmap, os, time
with open("/mnt/f", "wb") as f: f.write(b"x" * 8192)
time.sleep(0.1)
before = os.stat("/mnt/f")
with open("/mnt/f", "r+b") as f, mmap.mmap(f.fileno(), 8192) as m:
    m[0] = 7
    m.flush()
after = os.stat("/mnt/f")
assert after.st_mtime_ns > before.st_mtime_ns, "mtime"
assert after.st_ctime_ns > before.st_ctime_ns, "ctime"
PY`)
		})
	}
}

// TestDAXFioVerifies works on more than the window holds, so that mappings come and go. That is slow in an emulator.
func TestDAXFioVerifies(t *testing.T) {
	vm := daxMounted(t, t.TempDir(), "32M")
	for _, engine := range []string{"mmap", "psync"} {
		t.Run(engine, func(t *testing.T) {
			run(t, vm, 5*time.Minute, fmt.Sprintf(
				"fio --name=%[1]s --directory=/mnt --ioengine=%[1]s --rw=randwrite --bs=4k --size=20m --numjobs=2 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --group_reporting && rm /mnt/%[1]s*", engine))
		})
	}
}

// TestDAXReboots resets a guest that reads, writes, maps and unmaps at that moment. What it has synced stays. (QEMU 11.1.2
// bears a reset with mappings with the managed backing only: TestDAXResetWithMappings.)
func TestDAXReboots(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may have no DAX window")
	}
	findAssets(t)
	control := controlSocket(t)
	daemon, socket := startDaemon(t, t.TempDir(), "--tag="+tag, "--dax-window=32M", "--reconnect", "--control-socket="+control)
	vm := startVM(t, guest.Config{Shares: []guest.Share{{Tag: tag, Socket: socket, DAX: true}}})
	for i := range 4 {
		before := lookAt(t, control).Setups
		run(t, vm, time.Minute, fmt.Sprintf(`set -e
mount -t virtiofs -o dax=always %[1]s /mnt
test %[2]d = 0 || md5sum -c --status /mnt/sum
head -c 10000000 /dev/urandom >/mnt/file
md5sum /mnt/file >/mnt/sum
sync
(while :; do md5sum /mnt/file; done) >/dev/null 2>&1 &
fio --name=load --directory=/mnt --ioengine=mmap --rw=randwrite --bs=4k --size=48m --time_based --runtime=1h >/dev/null 2>&1 &`, tag, i))
		for deadline := time.Now().Add(time.Minute); lookAt(t, control).Setups < before+100; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the guest maps nothing")
			}
		}
		if err := vm.Reset(t.Context()); err != nil {
			t.Fatalf("reboot %d: %v", i, err)
		}
	}
	select {
	case <-daemon.Done():
		t.Error("the daemon has ended")
	default:
	}
	t.Logf("%+v", lookAt(t, control))
}

// TestDAXResetWithMappings resets a guest with files mapped by passthrough and directly, after a reset with none mapped. QEMU
// 11.1.2 would end with a segmentation fault when the new kernel starts a device (docs/compat.md); so there is none for it.
//
// To see it fail: in package vhostuser, let withdraw return at once.
func TestDAXResetWithMappings(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may have no DAX window")
	}
	assets := findAssets(t)
	type device struct {
		tag, dir, control string
		daemon            *guest.Daemon
	}
	var devices []device
	var shares []guest.Share
	for _, backing := range []string{"passthrough", "direct"} {
		d := device{tag: backing, dir: t.TempDir(), control: controlSocket(t)}
		var socket string
		d.daemon, socket = startDaemon(t, d.dir, "--tag="+d.tag, "--dax-window=32M", "--dax-min-size=4M", "--dax-backing="+backing, "--reconnect", "--control-socket="+d.control)
		devices = append(devices, d)
		shares = append(shares, guest.Share{Tag: d.tag, Socket: socket, DAX: true})
	}
	if err := os.WriteFile(filepath.Join(devices[0].dir, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	vm, err := guest.Start(t.Context(), assets, guest.Config{Dir: t.ArtifactDir(), Shares: shares})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Kill)
	const use = "mount -t virtiofs -o dax=always passthrough /mnt && md5sum /mnt/file"
	run(t, vm, time.Minute, use+" && umount /mnt")
	if err := vm.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, vm, time.Minute, use)
	// Of the others the direct backing could not map all.
	daemonChooses(t, vm, "direct", "/mnt2", devices[1].dir, devices[1].control, map[string]int{"mapped": 4 << 20, "mapped-more": 8 << 20, "small": 2 << 20, "tail": 5<<20 + 1})
	for _, d := range devices {
		if s := lookAt(t, d.control); s.Setups == s.Removes {
			t.Errorf("%s: nothing is mapped: %+v", d.tag, s)
		}
	}
	if err := vm.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Its kernel finds devices without a name.
	if err := vm.Fault(); err == nil || !strings.Contains(err.Error(), "virtiofs") || !strings.Contains(err.Error(), "error -22") {
		t.Errorf("the guest's kernel does not complain of a device: %v", err)
	}
	for _, d := range devices {
		if out := run(t, vm, time.Minute, "mount -t virtiofs "+d.tag+" /mnt 2>/dev/null || echo not there"); out != "not there\n" {
			t.Errorf("%s: the mount says %q", d.tag, out)
		}
		select {
		case <-d.daemon.Done():
			t.Errorf("%s: the daemon has ended", d.tag)
		default:
		}
	}
	select {
	case <-vm.Done():
		t.Error("QEMU has ended")
	default:
	}
}

// TestDAXPauses stops and continues a machine whose guest writes and verifies through a window that holds half of its
// files: requests, faults and mappings are cut off at any point, and the guest sees nothing of it. With passthrough a piece
// of the window is being mapped or unmapped nearly all the time; QEMU 11.1.2 ends with a segmentation fault if it reads such
// a request once it has stopped the device (docs/compat.md).
//
// To see it fail: in package vhostuser, send a request of the back-end channel whole at once.
func TestDAXPauses(t *testing.T) {
	for _, backing := range []string{"managed", "passthrough"} {
		t.Run(backing, func(t *testing.T) { pauses(t, backing) })
	}
}

func pauses(t *testing.T, backing string) {
	control := controlSocket(t)
	vm := daxMounted(t, t.TempDir(), "32M", "--dax-backing="+backing, "--control-socket="+control)
	ended := make(chan struct{})
	paused := make(chan int, 1)
	go func() {
		n := 0
		defer func() { paused <- n }()
		for {
			for _, command := range []string{"stop", "cont"} {
				if _, err := vm.QMP(command, nil); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
			}
			n++
			select {
			case <-ended:
				return
			default:
			}
		}
	}()
	stop := sync.OnceFunc(func() { close(ended) })
	t.Cleanup(stop)
	out := run(t, vm, 5*time.Minute, "fio --name=pause --directory=/mnt --ioengine=mmap --rw=randwrite --bs=4k --size=32m --numjobs=2 --runtime=8 --verify=crc32c --do_verify=1 --verify_backlog=32 --verify_fatal=1 --verify_state_save=0 --group_reporting && rm /mnt/pause*")
	stop()
	if n := <-paused; n < 10 {
		t.Errorf("paused only %d times", n)
	} else {
		t.Logf("paused %d times", n)
	}
	if strings.Contains(out, "err=") && !strings.Contains(out, "err= 0") {
		t.Errorf("fio complains:\n%s", out)
	}
	s := lookAt(t, control)
	t.Logf("%+v", s)
	if s.SetupErrors != 0 {
		t.Errorf("%d mappings failed", s.SetupErrors)
	}
}
