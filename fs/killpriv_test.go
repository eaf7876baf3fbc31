package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// What a guest's kernel sends for one call that changes a file's data is in integration/behaviour, where the rest of what
// happens to set-id bits is tested. Here is what no well-behaved kernel sends, or not yet.
func TestSetidBitsGoByWhatTheGuestHasLookedAt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const nobody = invalidUID // no ids in the request, as with FUSE_ALLOW_IDMAP
	fallocate := func(g *guest, node, fh uint64) unix.Errno {
		_, e := g.call(opFallocate, node, le(fh, uint64(0), uint64(4096), uint32(0), uint32(0)))
		return e
	}
	write := func(flags uint32) func(g *guest, node, fh uint64) unix.Errno {
		return func(g *guest, node, fh uint64) unix.Errno {
			_, e := g.call(opWrite, node, le(fh, uint64(0), uint32(1), flags, uint64(0), uint32(0), uint32(0), []byte("x")))
			return e
		}
	}
	truncate := func(g *guest, node, fh uint64) unix.Errno {
		_, e := g.setattr(node, fuse.FATTR_SIZE|fuse.FATTR_KILL_SUIDGID)
		return e
	}
	chown := func(g *guest, node, fh uint64) unix.Errno {
		_, e := g.setattr(node, fuse.FATTR_UID|fuse.FATTR_KILL_SUIDGID)
		return e
	}
	for _, c := range []struct {
		name      string
		told, is  uint32 // the mode that the guest knows, and the one that the file has
		announced uint32 // the thread that sent a SETATTR of nothing
		uid, gid  uint32
		change    func(g *guest, node, fh uint64) unix.Errno
		cache     CachePolicy
		guestOwn  bool   // the guest takes the bits
		closed    bool   // nobody has the file open for writing when that is sent
		inherited bool   // the session is one that was taken over
		minor     uint32 // of the guest's protocol, if it is not ours
		want      uint32
	}{
		{name: "not announced", told: 0o6777, is: 0o6777, uid: nobody, change: fallocate, want: 0o6777},
		{name: "announced", told: 0o6777, is: 0o6777, announced: 1, uid: nobody, change: fallocate, want: 0o777},
		{name: "announced by another thread", told: 0o6777, is: 0o6777, announced: 2, uid: nobody, change: fallocate, want: 0o6777},
		{name: "announced and nothing done", told: 0o6777, is: 0o6777, announced: 1, uid: nobody, want: 0o6777},
		{name: "bits that the guest does not know of", told: 0o777, is: 0o6777, uid: nobody, change: fallocate, want: 0o777},
		{name: "setgid without execution that the guest does not know of", told: 0o666, is: 0o2666, uid: nobody, change: fallocate, want: 0o666},
		{name: "group execution that the guest does not know of", told: 0o2666, is: 0o2676, uid: nobody, change: fallocate, want: 0o676},
		{name: "root, who says so", told: 0o777, is: 0o6777, change: fallocate, want: 0o6777},
		{name: "a user, announced", told: 0o6777, is: 0o6777, announced: 1, uid: 7, gid: 7, change: fallocate, want: 0o777},
		{name: "a user of the group", told: 0o2666, is: 0o2666, uid: 7, gid: 7, change: fallocate, want: 0o2666},
		{name: "a user not of the group, announced", told: 0o2666, is: 0o2666, announced: 1, uid: 7, gid: 7, change: fallocate, want: 0o666},
		{name: "an old guest's root", minor: 36, told: 0o6777, is: 0o6777, change: fallocate, want: 0o6777},
		{name: "an old guest's user", minor: 36, told: 0o6777, is: 0o6777, uid: 7, gid: 7, change: fallocate, want: 0o777},
		{name: "an old guest's user of the group", minor: 36, told: 0o2666, is: 0o2666, uid: 7, gid: 2000, change: fallocate, want: 0o2666},
		{name: "an old guest's user not of the group", minor: 36, told: 0o2666, is: 0o2666, uid: 7, gid: 7, change: fallocate, want: 0o666},
		{name: "a write as root", told: 0o777, is: 0o6777, uid: nobody, change: write(0), want: 0o6777},
		{name: "a write as a user", told: 0o777, is: 0o6777, uid: nobody, change: write(writeKillSuidgid), want: 0o777},
		{name: "a write that the guest has let pass", told: 0o2666, is: 0o2666, uid: nobody, change: write(writeKillSuidgid), want: 0o2666},
		{name: "a write of which the guest did not know better", told: 0o666, is: 0o2666, uid: nobody, change: write(writeKillSuidgid), want: 0o2666},
		{name: "an announced write", told: 0o2666, is: 0o2666, announced: 1, uid: nobody, change: write(writeKillSuidgid), want: 0o666},
		{name: "a write announced for the other bit at least", told: 0o6666, is: 0o6666, announced: 1, uid: nobody, change: write(writeKillSuidgid), want: 0o2666},
		{name: "a write by a user not of the group, announced", told: 0o6666, is: 0o6666, announced: 1, uid: 7, gid: 7, change: write(writeKillSuidgid), want: 0o666},
		{name: "an allocation announced for the other bit at least", told: 0o6666, is: 0o6666, announced: 1, uid: nobody, change: fallocate, want: 0o666},
		{name: "a write before which the guest does not look", told: 0o2666, is: 0o2666, uid: nobody, change: write(writeKillSuidgid), cache: CacheNever, want: 0o2666},
		{name: "a truncation", told: 0o6666, is: 0o6666, uid: nobody, change: truncate, want: 0o2666},
		{name: "a truncation of what a group may execute", told: 0o6676, is: 0o6676, uid: nobody, change: truncate, want: 0o676},
		{name: "a truncation by a user not of the group", told: 0o2666, is: 0o2666, uid: 7, gid: 7, change: truncate, want: 0o666},
		{name: "a chown", told: 0o6666, is: 0o6666, uid: nobody, change: chown, want: 0o2666},
		{name: "a chown by a user not of the group", told: 0o6666, is: 0o6666, uid: 7, gid: 7, change: chown, want: 0o666},
		{name: "a truncation by a user of the group", told: 0o2666, is: 0o2666, uid: 7, gid: 2000, change: truncate, want: 0o2666},
		{name: "a write past the cache of a guest that takes the bits", told: 0o6777, is: 0o6777, uid: nobody, change: write(writeKillSuidgid), cache: CacheNever, guestOwn: true, want: 0o777},
		{name: "a guest that takes all it can", told: 0o2666, is: 0o2666, announced: 1, uid: nobody, guestOwn: true, want: 0o666},
		{name: "a guest that takes all it can, of a file that nobody writes", told: 0o2666, is: 0o2666, announced: 1, closed: true, uid: nobody, guestOwn: true, want: 0o2666},
		{name: "root without the capability", told: 0o6777, is: 0o6777, announced: 1, change: fallocate, want: 0o777},
		{name: "a session taken over, announced, where the guest leaves the bits to us and we do not know", told: 0o6777, is: 0o6777, announced: 1, inherited: true, uid: nobody, guestOwn: true, change: fallocate, want: 0o777},
		{name: "a session taken over from a user's old guest", told: 0o6777, is: 0o6777, inherited: true, uid: 7, gid: 7, change: fallocate, want: 0o777},
		{name: "a session taken over from a guest that looks", told: 0o6777, is: 0o6777, inherited: true, uid: nobody, change: fallocate, want: 0o6777},
		{name: "a guest that takes the bits", told: 0o6777, is: 0o6777, announced: 1, uid: nobody, guestOwn: true, want: 0o6777},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			opts := Options{SharedDir: dir, KillprivV2: On, Cache: c.cache}
			if c.guestOwn {
				opts.KillprivV2 = Off
			}
			g := newGuest(t, opts)
			if c.minor != 0 {
				g.fs.session.Load().minor = c.minor
			}
			node, fh := g.create(rootID, "f", unix.O_RDWR, 0o666)
			chmod := func(mode uint32) {
				if err := unix.Chown(path, 1000, 2000); err != nil {
					t.Fatal(err)
				}
				if err := unix.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
			}
			chmod(c.told)
			_, e := g.getattr(node)
			g.must("GETATTR", e)
			chmod(c.is)
			g.fs.session.Load().inherited = c.inherited
			if c.closed {
				_, e := g.call(opRelease, node, le(fh, uint32(0), uint32(0), uint64(0)))
				g.must("RELEASE", e)
			}
			g.uid, g.gid = c.uid, c.gid
			if c.uid == nobody {
				g.gid = nobody
			}
			if c.announced != 0 {
				g.pid = c.announced
				out, e := g.setattr(node, 0)
				g.must("SETATTR of nothing", e)
				if out.Timeout() != 0 && out.Mode&setidBits != 0 {
					t.Errorf("the guest may remember the mode for %v", out.Timeout())
				}
				g.pid = 1
			}
			if c.change != nil {
				g.must("change", c.change(g, node, fh))
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Mode & 0o7777; got != c.want {
				t.Errorf("mode %04o, want %04o", got, c.want)
			}
		})
	}
}

// A store through the window sends nothing but the announcement; an allocation, and a write past the end, a request after it.
func TestWithAWindowAnAnnouncementTakesTheBitsThatItSurelyMeans(t *testing.T) {
	dir := t.TempDir()
	g := newGuestRaw(t, Options{SharedDir: dir, KillprivV2: On, DAX: windowOf(t, dax.Config{}), WindowOffset: func(uint64) (uint64, bool) { return 0, false }})
	g.mustInit(guestFlags | fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HANDLE_KILLPRIV_V2)
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o666)
	g.uid, g.gid = invalidUID, invalidUID
	store := func() unix.Errno { return 0 }
	allocate := func() unix.Errno {
		_, e := g.call(opFallocate, node, le(fh, uint64(0), uint64(4096), uint32(0), uint32(0)))
		return e
	}
	write := func() unix.Errno {
		_, e := g.call(opWrite, node, le(fh, uint64(0), uint32(1), uint32(writeKillSuidgid), uint64(0), uint32(0), uint32(0), []byte("x")))
		return e
	}
	for i, c := range []struct {
		is     uint32
		change func() unix.Errno
		want   uint32
	}{
		{0o6777, store, 0o777}, {0o2777, store, 0o777}, {0o4777, store, 0o777}, {0o4666, store, 0o666}, {0o6676, store, 0o676},
		{0o6777, allocate, 0o777}, {0o6777, write, 0o777},
		{0o2666, store, 0o666}, {0o2666, allocate, 0o666}, {0o2666, write, 0o666}, // one of the group announces nothing
		{0o6666, store, 0o2666}, // one of the group announces that too
		{0o6666, allocate, 0o666},
		{0o6666, write, 0o2666},
	} {
		if err := unix.Chmod(filepath.Join(dir, "f"), c.is); err != nil {
			t.Fatal(err)
		}
		_, e := g.setattr(node, 0)
		g.must("SETATTR of nothing", e)
		g.must("change", c.change())
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Mode & 0o7777; got != c.want {
			t.Errorf("change %d: mode %04o became %04o, want %04o", i, c.is, got, c.want)
		}
	}
	// Where nobody has the file open for writing it is somebody's chown(2) of nothing.
	_, e := g.call(opRelease, node, le(fh, uint32(0), uint32(0), uint64(0)))
	g.must("RELEASE", e)
	_, e = g.open(node, unix.O_RDONLY)
	g.must("OPEN", e)
	if err := unix.Chmod(filepath.Join(dir, "f"), 0o6777); err != nil {
		t.Fatal(err)
	}
	out, e := g.setattr(node, 0)
	g.must("SETATTR of nothing", e)
	if got := out.Mode & 0o7777; got != 0o6777 {
		t.Errorf("mode 6777 of a file that nobody writes became %04o", got)
	}
}

func TestAnAnnouncementHoldsOnce(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, KillprivV2: On})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o666)
	g.uid, g.gid = invalidUID, invalidUID
	for i, want := range []string{"-rwxrwxrwx", "ugrwxrwxrwx"} {
		if err := os.Chmod(filepath.Join(dir, "f"), os.ModeSetuid|os.ModeSetgid|0o777); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_, e := g.setattr(node, 0)
			g.must("SETATTR", e)
		} else {
			_, e := g.getattr(node)
			g.must("GETATTR", e)
		}
		_, e := g.call(opFallocate, node, le(fh, uint64(0), uint64(4096), uint32(0), uint32(0)))
		g.must("FALLOCATE", e)
		st, err := os.Stat(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(st.Mode()); got != want {
			t.Errorf("FALLOCATE %d: mode %s, want %s", i, got, want)
		}
	}
}

func TestTheDaemonsOwnGroupsAreNoCallers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	runtime.LockOSThread() // as newGuest does
	if e := sysSetgroups([]uint32{2000}); e != 0 {
		t.Fatal(e)
	}
	g := newGuest(t, Options{SharedDir: dir})
	if err := unix.Chown(dir, 1, 2000); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(dir, 0o2777); err != nil {
		t.Fatal(err)
	}
	g.uid, g.gid = 1000, 1000
	node, _ := g.create(rootID, "f", unix.O_RDWR, 0o2775)
	out, e := g.getattr(node)
	g.must("GETATTR", e)
	if out.Mode&unix.S_ISGID != 0 || out.Gid != 2000 {
		t.Errorf("one outside group %d made a file of mode %04o", out.Gid, out.Mode&0o7777)
	}
}

func TestAnACLTakesSetgidWhereTheGuestSaysSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the groups of files need root")
	}
	// struct posix_acl_xattr_header and entries: user, group and others.
	acl := le(uint32(2), uint16(1), uint16(7), ^uint32(0), uint16(4), uint16(5), ^uint32(0), uint16(0x20), uint16(5), ^uint32(0))
	for _, gid := range []int{0, 100} {
		for _, kill := range []uint32{0, fuse.SETXATTR_ACL_KILL_SGID} {
			g := newGuest(t, Options{PosixACL: On})
			path := filepath.Join(g.fs.opts.SharedDir, "f")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, 1000, gid); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(path, 0o2755); err != nil {
				t.Fatal(err)
			}
			f, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			g.uid, g.gid = 1000, 1000
			_, e = g.call(opSetxattr, f.NodeId, le(uint32(len(acl)), uint32(0), kill, uint32(0), "system.posix_acl_access", acl))
			g.must("SETXATTR", e)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			if has := st.Mode&unix.S_ISGID != 0; has != (kill == 0) {
				t.Errorf("group %d, flags %d: the mode is %o after", gid, kill, st.Mode)
			}
		}
	}
}

func TestANetworkFileSystemIsNotTrustedToTakeSetidBits(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	g := newGuest(t, Options{KillprivV2: On})
	for _, c := range []struct{ mode, want uint32 }{{0o4644, 0o644}, {0o6755, 0o755}, {0o2755, 0o755}, {0o644, 0o644}} {
		name := fmt.Sprintf("%o", c.mode)
		node, fh := g.create(rootID, name, unix.O_RDWR, 0o600)
		path := filepath.Join(g.fs.opts.SharedDir, name)
		if err := unix.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		n := g.fs.inodes.get(node)
		m := &mount{id: n.mnt.id, fd: -1, slow: true}
		n.mnt, m = m, n.mnt
		// A thread whose capabilities can't be changed is to the host what the daemon is to a server.
		caps := g.thread.cred.caps
		g.thread.cred.caps[0].Permitted = 0
		g.call(opWrite, node, le(fh, uint64(0), uint32(1), uint32(writeKillSuidgid), uint64(0), uint32(0), uint32(0), []byte("x")))
		g.thread.cred.caps, g.thread.unfit = caps, false
		n.mnt = m
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != 1 {
			t.Errorf("%o: nothing was written", c.mode)
		}
		if got := st.Mode & 0o7777; got != c.want {
			t.Errorf("%o: the mode is %o after, want %o", c.mode, got, c.want)
		}
	}
}
