package guest_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// useChosen checks in the guest which files of a directory it maps: those named "mapped...", and so they stay after they have
// been closed and asked for their time of birth. It adds one to the first byte of each page of all of them, twice.
const useChosen = `
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, STATX_BASIC_STATS, STATX_BTIME, STATX_ATTR_DAX = -100, 0x7ff, 0x800, 0x200000
def isdax(path):
    b = ctypes.create_string_buffer(256)
    if libc.statx(AT_FDCWD, path.encode(), 0, STATX_BASIC_STATS | STATX_BTIME, b):
        raise OSError(ctypes.get_errno(), path)
    return bool(int.from_bytes(b[8:16], "little") & STATX_ATTR_DAX)
for name in sorted(os.listdir(sys.argv[1])):
    path = sys.argv[1] + "/" + name
    want = name.startswith("mapped")
    for _ in range(2):
        assert isdax(path) == want, "%s: in the window: %s" % (name, not want)
        fd = os.open(path, os.O_RDWR)
        size = os.fstat(fd).st_size
        with mmap.mmap(fd, size) as m:
            for at in range(0, size, 4096):
                m[at] = m[at] + 1
            m.flush()
        os.close(fd)
print("right")
`

// daemonChooses mounts a share without the option, for its daemon to say which files the guest maps, and leaves it mounted
// and the files mapped. The daemon has --dax-min-size=4M. A mapping must outlive the last close and the question for the time
// of birth, which could make the guest's kernel let go of it.
//
// To see it fail: in package fs, serve STATX always; in package dax, let Want return true for all regular files.
func daemonChooses(t *testing.T, vm *guest.VM, tag, mountpoint, dir, control string, sizes map[string]int) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "chosen"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range sizes {
		if err := os.WriteFile(filepath.Join(dir, "chosen", name), bytes.Repeat([]byte{7}, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := lookAt(t, control)
	out := run(t, vm, 5*time.Minute, fmt.Sprintf("mkdir -p %[2]s && mount -t virtiofs %[1]s %[2]s && python3 - %[2]s/chosen <<'PY'\n%[3]s\nPY", tag, mountpoint, useChosen))
	if out != "right\n" {
		t.Errorf("the guest says %q", out)
	}
	s := lookAt(t, control)
	t.Logf("%+v", s)
	if s.Setups == before.Setups || s.SetupErrors != 0 || s.Removes != before.Removes {
		t.Errorf("%d mappings made, %d failed, %d ended", s.Setups-before.Setups, s.SetupErrors, s.Removes-before.Removes)
	}
	for name, size := range sizes {
		want := bytes.Repeat([]byte{7}, size)
		for at := 0; at < size; at += 4096 {
			want[at] = 9
		}
		if got, err := os.ReadFile(filepath.Join(dir, "chosen", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("on the host %s has not what the guest stored (%v)", name, err)
		}
	}
}
