package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What overlayfs sends when it copies a file up, as a whole, is in integration/fusebridge.
func TestWhatAChangeOfOwnerKeeps(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	// struct vfs_cap_data, revision 2: effective, CAP_NET_RAW permitted
	capability := string([]byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	const (
		name  = "security.capability"
		mode  = 0o6755
		owner = fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_KILL_SUIDGID
	)
	set := func(g *guest, node uint64, valid, mode uint32, size uint64) {
		t.Helper()
		_, e := g.call(opSetattr, node, le(valid, uint32(0), uint64(0), size, [4]uint64{}, [3]uint32{}, mode, uint32(0), uint32(5), uint32(5), uint32(0)))
		g.must("SETATTR", e)
	}
	ask := func(g *guest, node uint64, name string) {
		if _, e := g.call(opGetxattr, node, le(uint32(64), uint32(0), name)); e != 0 && e != unix.ENODATA {
			t.Errorf("GETXATTR of %s: %v", name, e)
		}
	}
	for _, c := range []struct {
		what    string
		between func(g *guest, node uint64, path string)
		valid   uint32 // of the SETATTR of the owner, if not that of overlayfs
		guest   func(g *guest)
		keeps   bool
	}{
		{what: "right after the mode", keeps: true},
		{what: "without FUSE_HANDLE_KILLPRIV_V2", valid: fuse.FATTR_UID | fuse.FATTR_GID, keeps: true},
		{what: "after times, as a guest with a writeback cache sends them", keeps: true, between: func(g *guest, node uint64, _ string) {
			set(g, node, fuse.FATTR_MTIME|fuse.FATTR_CTIME, 0, 0)
		}},
		{what: "after another thread has asked for capabilities", keeps: true, between: func(g *guest, node uint64, _ string) {
			g.pid = 2
			ask(g, node, name)
			g.pid = 1
		}},
		{what: "after its thread has asked for another attribute", keeps: true, between: func(g *guest, node uint64, _ string) { ask(g, node, "user.a") }},
		{what: "chown(2), which asks for capabilities", between: func(g *guest, node uint64, _ string) { ask(g, node, name) }},
		{what: "by another thread", between: func(g *guest, _ uint64, _ string) { g.pid = 2 }},
		{what: "after another SETATTR", between: func(g *guest, node uint64, _ string) { set(g, node, fuse.FATTR_GID, 0, 0) }},
		{what: "after another file's mode", between: func(g *guest, _ uint64, _ string) {
			other, _ := g.create(rootID, "other", unix.O_RDWR, 0o600)
			set(g, other, fuse.FATTR_MODE, mode, 0)
		}},
		{what: "after the host has changed the mode", between: func(_ *guest, _ uint64, path string) {
			if err := unix.Chmod(path, mode&^unix.S_IXOTH); err != nil {
				t.Error(err)
			}
		}},
		{what: "of the user alone", valid: fuse.FATTR_UID | fuse.FATTR_KILL_SUIDGID},
		{what: "with something else", valid: owner | fuse.FATTR_MTIME},
		{what: "from a guest that has not offered FUSE_HANDLE_KILLPRIV_V2", guest: func(g *guest) { g.mustInit(guestFlags &^ fuse.CAP_HANDLE_KILLPRIV_V2) }},
		{what: "from a guest that another daemon may have told that there are no attributes", guest: func(g *guest) {
			s := *g.fs.session.Load()
			s.inherited = true
			g.fs.session.Store(&s)
		}},
		{what: "from a guest that was told so", guest: func(g *guest) { g.fs.opts.Xattr = false }},
		{what: "on a file system with other clients", guest: func(g *guest) { g.fs.rootInode.mnt.slow = true }},
	} {
		g := newGuest(t, Options{Xattr: true, KillprivV2: On})
		g.pid = 1
		if c.guest != nil {
			c.guest(g)
		}
		node, _ := g.create(rootID, "f", unix.O_RDWR, 0o600)
		path := filepath.Join(g.fs.opts.SharedDir, "f")
		set(g, node, fuse.FATTR_MODE, mode, 0)
		if err := unix.Setxattr(path, name, []byte(capability), 0); err != nil {
			t.Skipf("no capabilities of files here: %v", err)
		}
		if c.between != nil {
			c.between(g, node, path)
		}
		valid := c.valid
		if valid == 0 {
			valid = owner
		}
		for _, keeps := range []bool{c.keeps, false} {
			set(g, node, valid, 0, 0)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			value := make([]byte, 64)
			n, err := unix.Getxattr(path, name, value)
			if st.Uid != 5 || (st.Mode&0o7777 == mode) != keeps || keeps != (err == nil && string(value[:n]) == capability) || !keeps && st.Mode&setidBits != 0 {
				t.Errorf("%s: mode %o, of %d, capabilities %x (%v); want them kept: %v", c.what, st.Mode&0o7777, st.Uid, value[:max(n, 0)], err, keeps)
			}
			g.pid = 1
		}
		g.close()
	}

	// The size, from the thread that has set the attribute.
	for _, c := range []struct {
		what  string
		size  uint64
		pid   uint32
		ask   bool
		keeps bool
	}{
		{what: "the size that it has", size: 4, pid: 1, keeps: true},
		{what: "another size", size: 3, pid: 1},
		{what: "by another thread", size: 4, pid: 2},
		{what: "by a thread that has asked", size: 4, pid: 1, ask: true},
	} {
		g := newGuest(t, Options{Xattr: true, KillprivV2: On})
		g.pid = 1
		node, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
		path := filepath.Join(g.fs.opts.SharedDir, "f")
		_, e := g.write(node, fh, 0, []byte("data"))
		g.must("WRITE", e)
		_, e = g.call(opSetxattr, node, le(uint32(len(capability)), uint32(0), name, []byte(capability)))
		g.must("SETXATTR", e)
		if c.ask {
			ask(g, node, name)
		}
		past := []unix.Timespec{{Sec: 1}, {Sec: 1}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, past, 0); err != nil {
			t.Fatal(err)
		}
		g.pid = c.pid
		set(g, node, fuse.FATTR_SIZE, 0, c.size)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		_, err := unix.Getxattr(path, name, nil)
		if (err == nil) != c.keeps || st.Size != int64(c.size) || st.Mtim.Sec == 1 {
			t.Errorf("%s: capabilities kept: %v (%v), want %v; size %d; changed at %d", c.what, err == nil, err, c.keeps, st.Size, st.Mtim.Sec)
		}
		g.close()
	}
}

func TestSetNotesAreOfOneThreadAndFile(t *testing.T) {
	var s setNotes
	s.put(0, 7, 0o4755)
	if got := s.take(0, 7); got != setNothing {
		t.Errorf("a thread without a number has set %o", got)
	}
	s.put(1, 7, 0o4755)
	s.put(2, 7, 0o2755)
	for _, c := range []struct {
		pid  uint32
		node uint64
		want uint32
	}{{1, 7, 0o4755}, {1, 7, setNothing}, {2, 8, setNothing}, {2, 7, setNothing}} {
		if got := s.take(c.pid, c.node); got != c.want {
			t.Errorf("thread %d has set %o of %d, want %o", c.pid, got, c.node, c.want)
		}
	}
	s.put(1, 7, 0o4755)
	s.put(1+uint32(len(s)), 7, 0o2755)
	if got := s.take(1, 7); got != setNothing {
		t.Errorf("a note that had to go for another's says %o", got)
	}
}
