package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// park takes the descriptor of the inode node away, as a budget without room
// does.
func (g *guest) park(node uint64) bool {
	g.t.Helper()
	n := g.fs.inodes.get(node)
	for range 2 {
		n.used.Store(false)
		g.fs.budget.sweep()
	}
	return stateFD(n.state.Load()) < 0
}

// handlesGuest shares a directory whose file system has file handles; kind is
// the file system.
func handlesGuest(t *testing.T, kind string) (g *guest, dir string) {
	t.Helper()
	dir = t.TempDir()
	if kind == "tmpfs" {
		var err error
		if dir, err = os.MkdirTemp("/dev/shm", "virtiofsd-go"); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	g = newGuest(t, Options{SharedDir: dir, Writeback: true, Xattr: true, FDLimit: 1000})
	if !g.fs.rootInode.mnt.handles.Load() {
		t.Skip("the file system of the test directory has no file handles that this user may open")
	}
	return g, dir
}

// strand gives the inode node a file handle that leads nowhere, as file systems
// do that don't find files without a link.
func (g *guest) strand(node uint64) {
	n := g.fs.inodes.get(node)
	if h := n.handle.Load(); h != nil {
		lost := []byte(h.data)
		for i := range lost {
			lost[i] ^= 0x55
		}
		n.handle.Store(&handleBytes{typ: h.typ, data: string(lost)})
	}
}

func setattrTimesOf(valid uint32, fh uint64) []byte {
	return le(valid, uint32(0), fh, uint64(0), uint64(0), uint64(0), uint64(1234567), uint64(1234567), [3]uint32{}, [5]uint32{})
}

func TestAnInodeKeptByHandleOutlivesItsLastLink(t *testing.T) {
	removals := []struct {
		name string
		dir  bool
		do   func(g *guest) unix.Errno
	}{
		{"UNLINK", false, func(g *guest) unix.Errno { _, e := g.call(opUnlink, rootID, le("f")); return e }},
		{"RMDIR", true, func(g *guest) unix.Errno { _, e := g.call(opRmdir, rootID, le("f")); return e }},
		{"RENAME", false, func(g *guest) unix.Errno {
			g.create(rootID, "other", unix.O_RDWR, 0o644)
			_, e := g.call(opRename, rootID, le(uint64(rootID), "other", "f"))
			return e
		}},
		{"RENAME2 with a whiteout", false, func(g *guest) unix.Errno {
			g.create(rootID, "other", unix.O_RDWR, 0o644)
			_, e := g.call(opRename2, rootID, le(uint64(rootID), uint32(unix.RENAME_WHITEOUT), uint32(0), "other", "f"))
			return e
		}},
	}
	for _, kind := range []string{"the file system of the tests", "tmpfs"} {
		for _, r := range removals {
			t.Run(r.name+" on "+kind, func(t *testing.T) {
				g, _ := handlesGuest(t, kind)
				var node uint64
				if r.dir {
					node = g.mkdir(rootID, "f")
				} else {
					var fh uint64
					node, fh = g.create(rootID, "f", unix.O_RDWR, 0o644)
					_, e := g.write(node, fh, 0, []byte("data"))
					g.must("WRITE", e)
					g.call(opRelease, node, le(fh, [2]uint64{}))
				}
				if !g.park(node) {
					t.Fatal("the inode kept its descriptor")
				}
				before := g.fs.budget.count.Load()
				if e := r.do(g); e == unix.EINVAL {
					t.Skip("the host has no whiteouts here")
				} else if e != 0 {
					t.Fatal(e)
				}
				// Neither the removal nor a budget without room ends it.
				for range 2 {
					a, e := g.getattr(node)
					g.must("GETATTR", e)
					if !r.dir && (a.Nlink != 0 || a.Size != 4) {
						t.Fatalf("%d links, %d bytes", a.Nlink, a.Size)
					}
					_, e = g.call(opSetattr, node, setattrTimesOf(fuse.FATTR_MTIME|fuse.FATTR_ATIME, 0))
					g.must("SETATTR", e)
					if g.park(node) {
						t.Fatal("a sweep took the descriptor of an inode without links")
					}
				}
				g.strand(node)
				if !r.dir {
					fh, e := g.open(node, unix.O_RDONLY)
					g.must("OPEN", e)
					if data, e := g.read(node, fh, 0, 10); e != 0 || string(data) != "data" {
						t.Errorf("READ: %q, %v", data, e)
					}
					g.call(opRelease, node, le(fh, [2]uint64{}))
				}
				g.call(opForget, node, le(uint64(1)))
				if g.fs.inodes.get(node) != nil {
					t.Fatal("the inode was not forgotten")
				}
				if n := g.fs.budget.count.Load() - before; n > 2 {
					t.Errorf("%d more descriptors than before", n)
				}
				if n := g.fs.budget.parked.Load(); n != 0 {
					t.Errorf("%d inodes without a descriptor are counted, there are none", n)
				}
			})
		}
	}
}

func TestABudgetThatRunsOutDuringARemovalLeavesTheVictimItsDescriptor(t *testing.T) {
	g, _ := handlesGuest(t, "")
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.call(opRelease, node, le(fh, [2]uint64{}))
	r := g.thread.beginRemoval(g.fs.rootFD, cstr("f\x00"))
	if !r.blind {
		t.Fatal("a removal looks for its victim though all inodes have their descriptors")
	}
	if g.park(node) {
		t.Error("a sweep during the removal took the descriptor")
	}
	if e := sysUnlinkat(g.fs.rootFD, cstr("f\x00"), 0); e != 0 {
		t.Fatal(e)
	}
	g.thread.endRemoval(r)
	if g.park(node) {
		t.Error("a sweep after the removal took the descriptor")
	}
	g.strand(node)
	_, e := g.getattr(node)
	g.must("GETATTR", e)
	// What is left is as it was.
	other, fh := g.create(rootID, "g", unix.O_RDWR, 0o644)
	g.call(opRelease, other, le(fh, [2]uint64{}))
	if !g.park(other) {
		t.Error("a sweep after all removals takes no descriptor")
	}
	if r := g.thread.beginRemoval(g.fs.rootFD, cstr("g\x00")); r.blind || r.victim == nil {
		t.Errorf("a removal after a sweep: %+v", r)
	} else {
		g.thread.endRemoval(r)
	}
	if b := &g.fs.budget; b.blind.Load() != 0 || b.parked.Load() != 0 {
		t.Errorf("%d removals and %d inodes without descriptors are counted", b.blind.Load(), b.parked.Load())
	}
}

func TestALinkedInodeGivesItsDescriptorUpAgain(t *testing.T) {
	g, dir := handlesGuest(t, "")
	rep, e := g.call(opTmpfile, rootID, le(uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "x"))
	g.must("TMPFILE", e)
	out := overlay[fuse.CreateOut](aligned(rep))
	node := out.NodeId
	g.call(opRelease, node, le(out.Fh, [2]uint64{}))
	if g.park(node) {
		t.Fatal("a sweep took the descriptor of a file without a name")
	}
	_, e = g.call(opLink, rootID, le(node, "named"))
	g.must("LINK", e)
	if !g.park(node) {
		t.Error("the inode keeps its descriptor though it has a name")
	}
	if g.fs.budget.parked.Load() != 1 {
		t.Errorf("%d inodes without a descriptor are counted", g.fs.budget.parked.Load())
	}
	if _, err := os.Stat(filepath.Join(dir, "named")); err != nil {
		t.Error(err)
	}
}

func TestTimesOfAnInodeRemovedOnTheHost(t *testing.T) {
	const late = fuse.FATTR_MTIME | fuse.FATTR_CTIME
	for _, c := range []struct {
		name   string
		valid  uint32
		open   bool // the guest has it open, and names the handle
		direct bool // the guest does not cache writes
		want   unix.Errno
	}{
		{"late times of an open file", late | fuse.FATTR_FH, true, false, 0},
		{"GETATTR alone of an open file", 0, true, false, 0},
		{"a mode of an open file", fuse.FATTR_MODE | fuse.FATTR_FH, true, false, 0},
		{"late times", late, false, false, 0},
		{"late times of a guest that keeps none", late, false, true, unix.ESTALE},
		{"access time", fuse.FATTR_ATIME | late, false, false, unix.ESTALE},
		{"a mode", fuse.FATTR_MODE | late, false, false, unix.ESTALE},
		{"a size", fuse.FATTR_SIZE, false, false, unix.ESTALE},
		{"nothing but a change time", fuse.FATTR_CTIME, false, false, unix.ESTALE},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, dir := handlesGuest(t, "tmpfs")
			if c.direct {
				g.fs.opts.Writeback = false
				g.mustInit(guestFlags)
			}
			node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
			g.call(opRelease, node, le(fh, [2]uint64{}))
			if !g.park(node) {
				t.Fatal("the inode kept its descriptor")
			}
			if c.open {
				var e unix.Errno
				fh, e = g.open(node, unix.O_RDWR)
				g.must("OPEN", e)
			}
			if err := os.Remove(filepath.Join(dir, "f")); err != nil {
				t.Fatal(err)
			}
			g.strand(node)
			if c.valid != 0 {
				if _, e := g.call(opSetattr, node, setattrTimesOf(c.valid, fh)); e != c.want {
					t.Errorf("got %v, want %v", e, c.want)
				}
			}
			rep, e := g.call(opGetattr, node, le(uint32(fuse.FUSE_GETATTR_FH), uint32(0), fh))
			if !c.open {
				if e == 0 {
					t.Error("GETATTR of an inode that is gone is answered")
				}
				return
			}
			g.must("GETATTR by the handle", e)
			if a := overlay[fuse.AttrOut](aligned(rep)); c.valid&fuse.FATTR_MTIME != 0 && a.Mtime != 1234567 {
				t.Errorf("the time of the open file is %d", a.Mtime)
			}
		})
	}
}

func TestStatxOfAnOpenFileRemovedOnTheHost(t *testing.T) {
	g, dir := handlesGuest(t, "tmpfs")
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.call(opRelease, node, le(fh, [2]uint64{}))
	if !g.park(node) {
		t.Fatal("the inode kept its descriptor")
	}
	fh, e := g.open(node, unix.O_RDWR)
	g.must("OPEN", e)
	if err := os.Remove(filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	g.strand(node)
	if _, e := g.call(opStatx, node, le(uint32(0), uint32(0), fh, uint32(0), uint32(unix.STATX_BTIME))); e != unix.ESTALE {
		t.Errorf("STATX without the handle: %v", e)
	}
	rep, e := g.call(opStatx, node, le(uint32(fuse.FUSE_GETATTR_FH), uint32(0), fh, uint32(0), uint32(unix.STATX_BTIME)))
	g.must("STATX by the handle", e)
	s := overlay[fuse.StatxOut](aligned(rep))
	if s.Nlink != 0 || s.Ino != g.fs.inodes.get(node).key.ino || s.Mask&unix.STATX_BTIME == 0 || s.Btime.Sec == 0 {
		t.Errorf("STATX: %+v", s)
	}
}
