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

// TestAnEntryForAGroupLetsItsMembersCreate: the guest has let the caller into the directory by an entry for one of its
// groups, and says which only if that is the directory's own.
func TestAnEntryForAGroupLetsItsMembersCreate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	g := newGuest(t, Options{PosixACL: On})
	dir := filepath.Join(g.fs.opts.SharedDir, "d")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	// user::rwx, group::r-x, group:7:rwx, mask::rwx, other::---
	acl := le(uint32(2), uint16(1), uint16(7), ^uint32(0), uint16(4), uint16(5), ^uint32(0), uint16(8), uint16(7), uint32(7),
		uint16(0x10), uint16(7), ^uint32(0), uint16(0x20), uint16(0), ^uint32(0))
	if err := unix.Setxattr(dir, "system.posix_acl_access", acl, 0); err != nil {
		t.Skipf("no ACLs here: %v", err)
	}
	d, e := g.lookup(rootID, "d")
	g.must("LOOKUP", e)
	g.uid, g.gid = 1000, 1000
	g.create(d.NodeId, "f", unix.O_RDWR, 0o644)
	g.mkdir(d.NodeId, "sub")
	for _, name := range []string{"f", "sub"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Error(err)
		} else if st.Uid != 1000 || st.Gid != 1000 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
}
