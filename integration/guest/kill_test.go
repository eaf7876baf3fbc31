package guest_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// killLimit is how long what was killed, and what goes with it, may take to be gone.
const killLimit = 10 * time.Second

// killDevices is how many daemons a virtual machine has, each killed once: with the managed backing it can't have more.
const killDevices = 3

// TestDAXKill kills daemons at a random moment while a guest writes, maps, punches and truncates through their windows and the
// host reclaims. A daemon, the process that serves its backing mount and that mount must be gone soon, and QEMU, which may
// be waiting for a page that nobody brings any more, must be killable. Every round is a new virtual machine: with QEMU 11.1 the
// guest's devices are dead after that, and so is QEMU when the guest touches a window.
//
// It kills for a minute, and fifty daemons with VIRTIOFSD_GO_LONG=1.
func TestDAXKill(t *testing.T) {
	if foreign() {
		t.Skip("the daemon under test may have no DAX window")
	}
	findAssets(t)
	control := "/sys/fs/fuse/connections"
	if l, err := os.ReadDir(control); err != nil || len(l) == 0 {
		control = t.TempDir()
		if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil {
			t.Skipf("fusectl can't be mounted: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(control, unix.MNT_DETACH) })
	}
	program := buildSeeds(t)
	limit := time.Hour
	if os.Getenv(longVariable) == "" {
		limit = 45 * time.Second // the last round is not cut off
	}
	start := time.Now()
	for i := 0; i*killDevices < 50 && time.Since(start) < limit; i++ {
		t.Run(strconv.Itoa(i), func(t *testing.T) { killRound(t, control, program) })
		if t.Failed() {
			return
		}
	}
}

// victim is a daemon with what belongs to it.
type victim struct {
	pid, server int
	connection  string // a directory of fusectl
	host        *reclaimer
}

func killRound(t *testing.T, control, program string) {
	var shares []guest.Share
	var daemons []*guest.Daemon
	var sockets []string
	for i := range killDevices {
		name, socket := fmt.Sprint(tag, i), controlSocket(t)
		d, share := startDaemon(t, t.TempDir(), "--tag="+name, "--dax-window=64M", "--control-socket="+socket)
		shares = append(shares, guest.Share{Tag: name, Socket: share, DAX: true})
		daemons, sockets = append(daemons, d), append(sockets, socket)
	}
	vm, err := guest.Start(t.Context(), findAssets(t), guest.Config{Dir: t.ArtifactDir(), MemoryMiB: 512, Shares: shares})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Kill)
	if err := vm.CopyIn(t.Context(), program, "/tmp/seeds"); err != nil {
		t.Fatal(err)
	}
	var victims []victim
	for i, seed := range [killDevices]string{"punch", "opentrunc", "copy"} {
		run(t, vm, time.Minute, fmt.Sprintf(`mkdir /mnt/%[1]d && mount -t virtiofs -o dax=always %[2]s /mnt/%[1]d
(/tmp/seeds %[3]s /mnt/%[1]d 1h serial; fio --name=kill --directory=/mnt/%[1]d --ioengine=mmap --rw=randwrite --bs=4k --size=96m --time_based --runtime=1h) >/dev/null 2>&1 &
fio --name=kill --directory=/mnt/%[1]d --ioengine=mmap --rw=randwrite --bs=4k --size=96m --time_based --runtime=1h >/dev/null 2>&1 &`, i, shares[i].Tag, seed))
		v := victim{pid: daemons[i].PID(), host: reclaimEvery(t, 20*time.Millisecond, sockets[i], "", "managed")}
		var connection string
		v.server, connection = backingOf(t, v.pid)
		v.connection = filepath.Join(control, connection)
		if _, err := os.Stat(v.connection); err != nil {
			t.Fatalf("the backing mount has no connection: %v", err)
		}
		victims = append(victims, v)
	}
	for _, socket := range sockets {
		for deadline := time.Now().Add(time.Minute); lookAt(t, socket).Setups == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the guest maps nothing")
			}
		}
	}
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)

	for _, v := range victims {
		unix.Kill(v.pid, unix.SIGKILL)
	}
	for _, v := range victims {
		if !within(func() bool { return dead(v.pid) && dead(v.server) }) {
			t.Errorf("after the kill: daemon %s; server %s", states(v.pid), states(v.server))
		}
	}
	if rand.IntN(2) == 0 {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // for QEMU to run into it
	}
	unix.Kill(vm.PID(), unix.SIGKILL)
	if !within(func() bool { return dead(vm.PID()) }) {
		t.Errorf("QEMU can't be killed: %s", states(vm.PID()))
	}
	for _, v := range victims {
		if !within(func() bool { _, err := os.Stat(v.connection); return err != nil }) {
			t.Error("a backing mount is still there")
		}
		if t.Failed() {
			os.WriteFile(filepath.Join(v.connection, "abort"), []byte("1"), 0) // leave no process stuck
		}
		v.host.cancel()
		<-v.host.ended // with an error: the daemon is gone
	}
}

// backingOf returns the process that serves the backing mount of a daemon, and the name of the mount's connection.
func backingOf(t *testing.T, daemon int) (server int, connection string) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(word)
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "dax-backing") {
				server = pid
			}
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := fmt.Sprintf("/proc/%d/fd/%s", daemon, f.Name())
		if target, err := os.Readlink(path); err != nil || target != "/s0" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil {
			connection = strconv.Itoa(int(unix.Minor(st.Dev)))
		}
	}
	if server == 0 || connection == "" {
		t.Fatalf("the daemon has no backing mount: server %d, connection %q", server, connection)
	}
	return server, connection
}

func within(done func() bool) bool {
	for deadline := time.Now().Add(killLimit); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// dead says whether a process has ended, or has no thread that is not a zombie.
func dead(pid int) bool {
	for _, s := range threads(pid) {
		if s != "Z" && s != "X" {
			return false
		}
	}
	return true
}

// threads returns the state of each thread of a process.
func threads(pid int) (all []string) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		all = append(all, rest[:1])
	}
	return all
}

// states is what a process that should be gone waits for.
func states(pid int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", pid)
	paths, _ := fs.Glob(os.DirFS("/proc"), fmt.Sprintf("%d/task/*", pid))
	for _, path := range paths {
		wchan, _ := os.ReadFile(filepath.Join("/proc", path, "wchan"))
		fmt.Fprintf(&b, " %s in %s", filepath.Base(path), wchan)
	}
	return fmt.Sprint(b.String(), " ", threads(pid))
}
