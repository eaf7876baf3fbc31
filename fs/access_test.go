package fs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Linux does not send it over virtio-fs, for it checks by itself.
func TestAccess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const r, w, x = 4, 2, 1
	for _, c := range []struct {
		name     string
		uid, gid uint32
		mode     uint32
		mask     uint32
		readOnly bool
		want     unix.Errno
	}{
		{"that it is there", 7, 7, 0, 0, false, 0},
		{"the owner reads", 1000, 7, 0o400, r, false, 0},
		{"the owner writes what others may", 1000, 2000, 0o077, w, false, unix.EACCES},
		{"the group reads", 7, 2000, 0o040, r, false, 0},
		{"the group writes what others may", 7, 2000, 0o002, w, false, unix.EACCES},
		{"another reads", 7, 7, 0o004, r, false, 0},
		{"another reads and writes", 7, 7, 0o004, r | w, false, unix.EACCES},
		{"root writes", 0, 0, 0, r | w, false, 0},
		{"root executes what nobody may", 0, 0, 0o666, x, false, unix.EACCES},
		{"root executes what somebody may", 0, 0, 0o001, x, false, 0},
		{"somebody of whom the guest says nothing", invalidUID, invalidUID, 0, r | w, false, 0},
		{"root writes to a read-only share", 0, 0, 0o666, w, true, unix.EROFS},
		{"root reads a read-only share", 0, 0, 0o666, r, true, 0},
		{"a mask that there is not", 0, 0, 0o777, 8, false, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			for _, err := range []error{os.WriteFile(path, nil, 0o600), os.Chown(path, 1000, 2000), unix.Chmod(path, c.mode)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			g := newGuest(t, Options{SharedDir: dir, ReadOnly: c.readOnly})
			n, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			g.uid, g.gid = c.uid, c.gid
			if _, e := g.call(opAccess, n.NodeId, le(c.mask, uint32(0))); e != c.want {
				t.Errorf("ACCESS: %v, want %v", e, c.want)
			}
		})
	}
}
