package guest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// TestSubmountsAreMountsInTheGuest has a mount below the shared directory.
func TestSubmountsAreMountsInTheGuest(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, c := range []struct{ option, want string }{
		{"--announce-submounts", "a mount\nother device\nother size\n"},
		{"--no-announce-submounts", "same device\nother size\n"},
	} {
		t.Run(c.option, func(t *testing.T) {
			dir := t.TempDir()
			sub := filepath.Join(dir, "sub")
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", sub, "tmpfs", 0, "size=1m"); err != nil {
				t.Skipf("no mount here: %v", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(sub, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			vm := mounted(t, dir, guest.Share{}, c.option)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var out bytes.Buffer
			err := vm.Exec(ctx, guest.Command{
				Script: `exec 2>&1; cd /mnt && mkdir sub/d && echo data > sub/d/f && sync -f sub/d/f && [ "$(cat sub/d/f)" = data ]
awk '$2 == "/mnt/sub" { print "a mount" }' /proc/mounts
[ $(stat -c %d .) = $(stat -c %d sub/d) ] && echo same device || echo other device
[ $(stat -f -c %b .) = $(stat -f -c %b sub/d) ] && echo same size || echo other size`,
				Stdout: &out,
			})
			if err != nil || out.String() != c.want {
				t.Errorf("%v: %q, want %q", err, out.String(), c.want)
			}
		})
	}
}
