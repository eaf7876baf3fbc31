package guest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// daxDevices boots a guest with several devices that have windows of the given size, each with a directory and a control
// socket of its own, and mounts them at /mnt/0, /mnt/1 and so on.
func daxDevices(t *testing.T, n int, window string, options ...string) (vm *guest.VM, dirs, controls []string) {
	t.Helper()
	if foreign() {
		t.Skip("the daemon under test may have no DAX window")
	}
	findAssets(t)
	var shares []guest.Share
	for i := range n {
		dir, control, name := t.TempDir(), controlSocket(t), fmt.Sprint(tag, i)
		_, socket := startDaemon(t, dir, append([]string{"--tag=" + name, "--dax-window=" + window, "--control-socket=" + control}, options...)...)
		shares = append(shares, guest.Share{Tag: name, Socket: socket, DAX: true})
		dirs, controls = append(dirs, dir), append(controls, control)
	}
	vm = startVM(t, guest.Config{Shares: shares})
	for i, s := range shares {
		run(t, vm, time.Minute, fmt.Sprintf("mkdir -p /mnt/%[1]d && mount -t virtiofs -o dax=always %[2]s /mnt/%[1]d", i, s.Tag))
	}
	return vm, dirs, controls
}

// TestDAXDevicesShareTheRegions has three devices with windows, and in each a file larger than the window and hundreds of
// small ones. None of it may fail. With VIRTIOFSD_GO_LONG=1 the windows take 384 of the 500 memory regions that a virtual
// machine may have, and there are ten thousand files; QEMU then takes a good part of a second for a mapping.
func TestDAXDevicesShareTheRegions(t *testing.T) {
	const devices = 3
	window, mib, files := 64, 96, 300
	if os.Getenv(longVariable) != "" {
		window, mib, files = 256, 320, 10_000
	}
	vm, dirs, controls := daxDevices(t, devices, fmt.Sprintf("%dM", window), "--dax-backing=passthrough")
	for _, dir := range dirs {
		f, err := os.Create(filepath.Join(dir, "large"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(mib) / 2 {
			if _, err := fmt.Fprintf(f, "piece %d", i); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Seek((i+1)<<21, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(int64(mib) << 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for i := range (files + devices - 1) / devices {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), fmt.Appendf(nil, "file %d\n", i), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := time.Now()
	out := run(t, vm, 2*time.Hour, fmt.Sprintf(`
for d in $(seq 0 %[1]d); do
    python3 - /mnt/$d %[2]d %[3]d <<'PY' &
import os, sys
dir, mib, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kept = []
with open(dir + "/large", "rb") as f:
    for i in range(mib // 2):
        f.seek(i << 21)
        want = b"piece %%d" %% i
        if f.read(len(want)) != want:
            sys.exit("%%s/large is wrong at piece %%d" %% (dir, i))
for i in range(files):
    fd = os.open("%%s/f%%d" %% (dir, i), os.O_RDONLY)
    kept.append(fd)
    if os.read(fd, 100) != b"file %%d\n" %% i:
        sys.exit("%%s/f%%d is wrong" %% (dir, i))
    if len(kept) == 1000:
        for fd in kept: os.close(fd)
        kept = []
print(dir, "is right")
PY
done
wait`, devices-1, mib, (files+devices-1)/devices))
	if n := strings.Count(out, "is right"); n != devices {
		t.Errorf("%d devices are right:\n%s", n, out)
	}
	for i, c := range controls {
		s := lookAt(t, c)
		t.Logf("device %d: %+v", i, s)
		if s.SetupErrors+s.SlotsRefused != 0 || s.Regions > 500 {
			t.Errorf("device %d: %d mappings failed, %d refused, %d regions", i, s.SetupErrors, s.SlotsRefused, s.Regions)
		}
	}
	t.Logf("%d files of %d devices in %v", files, devices, time.Since(start).Round(time.Second))
}

// TestDAXRegionsRunOut has three devices whose windows are too large for one virtual machine, although the guest keeps a
// fifth of each free. It is refused mappings, and goes on as soon as it has ended some. With VIRTIOFSD_GO_LONG=1 the limit is
// the default one, a little below that of QEMU, above which it ends itself; near it a mapping takes QEMU a good part of a second.
func TestDAXRegionsRunOut(t *testing.T) {
	window, limit := 64, 60
	if os.Getenv(longVariable) != "" {
		window, limit = 512, 500
	}
	vm, dirs, controls := daxDevices(t, 3, fmt.Sprintf("%dM", window), "--dax-backing=passthrough", fmt.Sprintf("--dax-max-regions=%d", limit))
	for _, dir := range dirs {
		f, err := os.Create(filepath.Join(dir, "large"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(window) << 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := os.WriteFile(filepath.Join(dir, "small"), []byte("here\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, vm, 20*time.Minute, fmt.Sprintf(`
touch() { for i in $(seq 0 %d); do dd if=$1 of=/dev/null bs=1 count=1 skip=$((i * 2097152)) status=none || echo refused; done | grep -c refused; }
touch /mnt/0/large & touch /mnt/1/large & touch /mnt/2/large & wait`, window/2-1))
	refused, regions := uint64(0), 0
	for i, c := range controls {
		s := lookAt(t, c)
		t.Logf("device %d: %+v", i, s)
		refused += s.SlotsRefused
		regions = max(regions, s.Regions)
	}
	if refused == 0 || regions < limit-10 || regions > limit+len(controls) {
		t.Errorf("%d mappings refused, %d regions; the guest says %q", refused, regions, out)
	}
	if got := run(t, vm, 20*time.Minute, "umount /mnt/1 /mnt/2 && cat /mnt/0/small"); got != "here\n" {
		t.Errorf("after the end of the other device's mappings the guest reads %q", got)
	}
}
