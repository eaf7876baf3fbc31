package guest_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// With VIRTIOFSD_GO_LONG=1 the test below works on 1 GiB and takes as long as that does; else on 128 MiB, and a minute for
// each backing or so. The window has 64 MiB.
const longVariable = "VIRTIOFSD_GO_LONG"

// rewritePages is a program for the guest: processes that rewrite and check pages of one mapped file, each its own pages,
// next to those of the others. A page is full of one value that only grows.
const rewritePages = `
import mmap, os, random, sys, time
path, size, seconds, processes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), 3
with open(path, "wb") as f:
    f.truncate(size)
def work(me):
    rand = random.Random(me)
    fd = os.open(path, os.O_RDWR)
    m = mmap.mmap(fd, size)
    pages = range(me, size // 4096, processes)
    value = {}
    def check(p):
        want = value.get(p, 0).to_bytes(4, "little") * 1024
        if m[p * 4096:p * 4096 + 4096] != want:
            print("process", me, "page", p, "has", m[p * 4096:p * 4096 + 16], "not", want[:16], flush=True)
            os._exit(1)
    n, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        p = pages[rand.randrange(len(pages))]
        check(p)
        n += 1
        value[p] = n
        m[p * 4096:p * 4096 + 4096] = n.to_bytes(4, "little") * 1024
    for p in value:
        check(p)
    print("process", me, "rewrote", n, flush=True)
    os._exit(0)
children = []
for me in range(processes):
    pid = os.fork()
    if pid == 0:
        work(me)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] != 0 for pid in children))
`

// TestDAXWhileTheHostReclaims takes everything back every 100 ms while the guest writes and verifies through a window
// that holds half of its files, or less, and compares the files on both sides afterwards. With passthrough nothing can be
// taken back, which the command has to say; there the host writes the files back and drops what it can of their pages.
//
// To see it fail: in server.Write of package dax drop the data.
func TestDAXWhileTheHostReclaims(t *testing.T) {
	for _, backing := range []string{"managed", "passthrough"} {
		t.Run(backing, func(t *testing.T) { hostReclaims(t, backing) })
	}
}

func hostReclaims(t *testing.T, backing string) {
	dir := t.TempDir()
	socket := controlSocket(t)
	vm := daxMounted(t, dir, "64M", "--dax-backing="+backing, "--control-socket="+socket)
	host := reclaimEvery(t, 100*time.Millisecond, socket, dir, backing)

	jobs, size, blocks, limit := 2, 64<<20, "4k", 12*time.Second
	if os.Getenv(longVariable) != "" {
		jobs, size, blocks, limit = 4, 256<<20, "4k-256k", 0
	}
	for _, engine := range []string{"mmap", "psync"} {
		t.Run(engine, func(t *testing.T) {
			options := ""
			if limit > 0 {
				// It ends the verification too, which therefore goes along with the writes.
				options = fmt.Sprintf("--runtime=%.0f", limit.Seconds())
			}
			before := host.stats(t)
			out := run(t, vm, time.Hour, fmt.Sprintf(
				"fio --name=%[1]s --directory=/mnt --ioengine=%[1]s --rw=randwrite --bs=%[5]s --size=%[2]d --numjobs=%[3]d --verify=crc32c --do_verify=1 --verify_backlog=32 --verify_fatal=1 --verify_state_save=0 --group_reporting %[4]s",
				engine, size, jobs, options, blocks))
			after := host.stats(t)
			if strings.Contains(out, "verify:") {
				t.Errorf("fio complains:\n%s", out)
			}
			if !strings.Contains(out, "read: IOPS=") {
				t.Errorf("fio verified nothing:\n%s", out)
			}
			for line := range strings.Lines(out) {
				if strings.Contains(line, "IOPS=") {
					t.Log(strings.TrimSpace(line))
				}
			}
			host.worked(t, before, after)
			sameOnBothSides(t, vm, dir, engine)
		})
	}
	t.Run("processes", func(t *testing.T) {
		before := host.stats(t)
		seconds := 60.0
		if limit > 0 {
			seconds = limit.Seconds()
		}
		out := run(t, vm, time.Hour, fmt.Sprintf("python3 - /mnt/pages %d %f <<'PY'\n%s\nPY", jobs*size, seconds, rewritePages))
		t.Log(strings.TrimSpace(out))
		host.worked(t, before, host.stats(t))
		sameOnBothSides(t, vm, dir, "pages")
	})
	host.stop(t)
	if err := vm.Fault(); err != nil {
		t.Error(err)
	}
}

// sameOnBothSides compares the files of a load as the guest and the host see them, and removes them.
func sameOnBothSides(t *testing.T, vm *guest.VM, dir, prefix string) {
	t.Helper()
	inside := run(t, vm, 10*time.Minute, "cd /mnt && md5sum "+prefix+"*")
	names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files of %s on the host: %v", prefix, err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := md5.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if line := hex.EncodeToString(sum.Sum(nil)) + "  " + filepath.Base(name) + "\n"; !strings.Contains(inside, line) {
			t.Errorf("the host has %sthe guest has\n%s", line, inside)
		}
	}
	run(t, vm, time.Minute, "rm /mnt/"+prefix+"*")
}
