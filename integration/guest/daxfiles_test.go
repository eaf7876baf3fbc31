package guest_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// programOfTheHost has the guest run a program that the host is running, which nobody may write meanwhile.
func programOfTheHost(t *testing.T, vm *guest.VM, dir string) {
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := run(t, vm, time.Minute, "echo guest | /mnt/program; (echo >>/mnt/program) 2>&1 | grep -o 'Text file busy'; echo again | /mnt/program")
	if got != "guest\nText file busy\nagain\n" {
		t.Errorf("the guest says %q", got)
	}
	fmt.Fprintln(in, "host")
	in.Close()
	if err := cmd.Wait(); err != nil || out.String() != "host\n" {
		t.Errorf("the program said %q on the host: %v", out.String(), err)
	}
	run(t, vm, time.Minute, "rm /mnt/program")
}

// filesWithoutBlocksOrNames maps a file that is mostly a hole and larger than the window, and one that has been removed.
func filesWithoutBlocksOrNames(t *testing.T, vm *guest.VM) {
	out := run(t, vm, 5*time.Minute, `cd /mnt && truncate -s 40M sparse && python3 - <<'PY'
import mmap, os
size = 40 << 20
fd = os.open("sparse", os.O_RDWR)
with mmap.mmap(fd, size) as m:
    m[size - 1] = 1
    m[13 << 20] = 2
    m.flush()
want = bytearray(size)
want[size - 1], want[13 << 20] = 1, 2
with open("sparse", "rb") as f:
    assert f.read() == want, "the hole"
os.unlink("sparse")
with mmap.mmap(fd, size) as m:
    assert m[:] == want, "removed"
    m[5] = 3
    m.flush()
want[5] = 3
os.lseek(fd, 0, 0)
assert os.write(fd, b"\4") == 1
want[0] = 4
os.ftruncate(fd, 30 << 20)
os.lseek(fd, 0, 0)
assert os.read(fd, 40 << 20) == want[:30 << 20], "removed and changed"
print("right")
PY`)
	if out != "right\n" {
		t.Errorf("the guest says %q", out)
	}
}

// writesThatSendNothing overwrites a file in the window. The guest must not ask for its security.capability each time.
func writesThatSendNothing(t *testing.T, vm *guest.VM) {
	const writes = 500
	sent := func() (n int) {
		for _, count := range interrupts(t, vm) {
			n += count
		}
		return n
	}
	run(t, vm, time.Minute, "head -c 64K /dev/zero >/mnt/written && sync /mnt/written")
	before := sent()
	run(t, vm, time.Minute, fmt.Sprintf("dd if=/dev/zero of=/mnt/written bs=64 count=%d conv=notrunc status=none && rm /mnt/written", writes))
	if n := sent() - before; n > writes/5 {
		t.Errorf("%d interrupts for %d writes", n, writes)
	}
}

// changesOnTheHost changes, replaces and cuts a file on the host while a process of the guest has it mapped. It is cut when it
// has no name in the guest any more: a kernel that asks for its size then complains (docs/compat.md).
func changesOnTheHost(t *testing.T, vm *guest.VM, dir string) {
	path := filepath.Join(dir, "watched")
	if err := os.WriteFile(path, bytes.Repeat([]byte("a"), 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, vm, time.Minute, `python3 - >/tmp/watched 2>&1 <<'PY' &
import mmap, time
with open("/mnt/watched", "rb") as f, mmap.mmap(f.fileno(), 3 << 20, prot=mmap.PROT_READ) as m:
    seen = None
    while True:
        if m[:12] != seen:
            seen = m[:12]
            print(seen, flush=True)
        time.sleep(0.02)
PY
echo $! >/tmp/watcher`)
	sees := func(want string) {
		t.Helper()
		run(t, vm, time.Minute, fmt.Sprintf("until tail -n 1 /tmp/watched | grep -qF \"%s\"; do kill -0 $(cat /tmp/watcher) || { cat /tmp/watched; exit 1; }; sleep 0.05; done", strings.ReplaceAll(want, `\`, `\\`)))
	}
	sees("b'aaaaaaaaaaaa'")
	change := func(command string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	change("printf changed | dd of=watched conv=notrunc status=none")
	sees("b'changedaaaaa'")
	change("ln watched kept; echo new >other; mv other watched")
	run(t, vm, time.Minute, "until test \"$(cat /mnt/watched)\" = new; do sleep 0.05; done; rm /mnt/watched")
	change("truncate -s 4 kept")
	sees(`b'chan\x00\x00\x00\x00\x00\x00\x00\x00'`)
	run(t, vm, time.Minute, "kill $(cat /tmp/watcher)")
	change("rm kept")
}
