package fs

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// daxFlagGuest is a guest that leaves it to the daemon which files of dir it maps.
func daxFlagGuest(t *testing.T, dir string, c dax.Config) *guest {
	t.Helper()
	g := newGuestRaw(t, Options{SharedDir: dir, DAX: windowOf(t, c), WindowOffset: func(uint64) (uint64, bool) { return 0, false }})
	g.mustInit(guestFlags | fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX)
	return g
}

// rangeFile makes a file of one range on the host.
func rangeFile(t *testing.T, path string, flag bool) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, dax.RangeSize); err != nil {
		t.Fatal(err)
	}
	setDAXFlag(t, path, flag)
}

// setDAXFlag changes the flag on the host. Where it can't be set the test is skipped.
func setDAXFlag(t *testing.T, path string, on bool) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	e := setXflag(fd, on)
	if on && (e == unix.EOPNOTSUPP || e == unix.ENOTTY || e == unix.EINVAL) {
		t.Skip("the file system of the tests has no FS_XFLAG_DAX")
	}
	if on && e != 0 {
		t.Fatal(e)
	}
}

func setXflag(fd int, on bool) unix.Errno {
	arg := make([]byte, fsxattrLen)
	if _, e := sysIoctl(fd, fsIocFsgetxattr, arg); e != 0 {
		return e
	}
	flags := binary.NativeEndian.Uint32(arg) &^ fsXflagDAX
	if on {
		flags |= fsXflagDAX
	}
	binary.NativeEndian.PutUint32(arg, flags)
	_, e := sysIoctl(fd, fsIocFssetxattr, arg)
	return e
}

// daxByAttr says which replies about a file say that it is to be mapped.
func (g *guest) daxByAttr(name string) (replies map[string]bool, node uint64) {
	g.t.Helper()
	looked, e := g.lookup(rootID, name)
	g.must("LOOKUP", e)
	got, e := g.getattr(looked.NodeId)
	g.must("GETATTR", e)
	set, e := g.setattr(looked.NodeId, fuse.FATTR_MTIME|fuse.FATTR_MTIME_NOW)
	g.must("SETATTR", e)
	return map[string]bool{
		"LOOKUP":      looked.Attr.Flags&fuse.ATTR_DAX != 0,
		"GETATTR":     got.Flags&fuse.ATTR_DAX != 0,
		"SETATTR":     set.Flags&fuse.ATTR_DAX != 0,
		"READDIRPLUS": g.plusFlags(rootID)[name]&fuse.ATTR_DAX != 0,
	}, looked.NodeId
}

func (g *guest) wantDAX(name string, want bool) {
	g.t.Helper()
	replies, node := g.daxByAttr(name)
	for reply, dax := range replies {
		if dax != want {
			g.t.Errorf("%s: the %s reply says %v, want %v", name, reply, dax, want)
		}
	}
	g.call(opForget, node, le(uint64(2)))
}

// bothHosts runs a test as on a host with file_getattr(2) and on one without.
func bothHosts(t *testing.T, f func(t *testing.T, adapt func(*guest))) {
	t.Run("file_getattr", func(t *testing.T) { f(t, func(*guest) {}) })
	t.Run("ioctl", func(t *testing.T) { f(t, func(g *guest) { g.fs.noFileGetattr.Store(true) }) })
}

func TestFilesAreChosenByTheirFlag(t *testing.T) {
	bothHosts(t, func(t *testing.T, adapt func(*guest)) {
		dir := t.TempDir()
		rangeFile(t, filepath.Join(dir, "flag"), true)
		rangeFile(t, filepath.Join(dir, "none"), false)
		rangeFile(t, filepath.Join(dir, "small"), true)
		if err := os.Truncate(filepath.Join(dir, "small"), dax.RangeSize-1); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
			t.Fatal(err)
		}
		setDAXFlag(t, filepath.Join(dir, "dir"), true)
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("flag", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		g := daxFlagGuest(t, dir, dax.Config{ByFlag: true})
		adapt(g)
		for name, want := range map[string]bool{"flag": true, "none": false, "small": false, "dir": false, "fifo": false, "link": false} {
			g.wantDAX(name, want)
		}
		// By the host, and with an inode that the guest knows.
		setDAXFlag(t, filepath.Join(dir, "flag"), false)
		setDAXFlag(t, filepath.Join(dir, "none"), true)
		g.wantDAX("flag", false)
		g.wantDAX("none", true)
	})
}

func TestTheFlagDoesNotMatterWhereFilesAreChosenBySize(t *testing.T) {
	dir := t.TempDir()
	rangeFile(t, filepath.Join(dir, "none"), false)
	g := daxFlagGuest(t, dir, dax.Config{})
	g.wantDAX("none", true)
}

func TestAFlagThatTheGuestChangesTakesEffect(t *testing.T) {
	bothHosts(t, func(t *testing.T, adapt func(*guest)) {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		rangeFile(t, path, true)
		setDAXFlag(t, path, false)
		g := daxFlagGuest(t, dir, dax.Config{ByFlag: true})
		adapt(g)
		f, e := g.lookup(rootID, "f")
		g.must("LOOKUP", e)
		fh, e := g.open(f.NodeId, unix.O_RDONLY)
		g.must("OPEN", e)
		for _, on := range []bool{true, false} {
			flags := uint32(0)
			if on {
				flags = fsXflagDAX
			}
			g.must("FSSETXATTR", g.ioctlWith(0, f.NodeId, fh, fsIocFssetxattr, le(flags, [6]uint32{}), 0))
			g.wantDAX("f", on)
		}
	})
}

func TestAFileInheritsTheFlagOfItsDirectory(t *testing.T) {
	dir := t.TempDir()
	setDAXFlag(t, dir, true)
	g := daxFlagGuest(t, dir, dax.Config{ByFlag: true})
	node, _ := g.create(rootID, "f", unix.O_RDWR, 0o600)
	rep, e := g.call(opSetattr, node, le(uint32(fuse.FATTR_SIZE), uint32(0), uint64(0), uint64(dax.RangeSize), [16]uint32{}))
	g.must("SETATTR of the size", e)
	if overlay[fuse.AttrOut](aligned(rep)).Flags&fuse.ATTR_DAX == 0 {
		t.Error("a file made in a directory with the flag is not to be mapped")
	}
}

// Who looks a file up does not open it, and where he has to he does not wait.
func TestTheFlagIsReadWithoutWaitingForALease(t *testing.T) {
	bothHosts(t, func(t *testing.T, adapt func(*guest)) {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		rangeFile(t, path, true)
		g := daxFlagGuest(t, dir, dax.Config{ByFlag: true})
		adapt(g)
		host, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(host)
		if _, err := unix.FcntlInt(uintptr(host), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			t.Skipf("no leases here: %v", err)
		}
		g.inline = true
		looked, e := g.lookup(rootID, "f")
		g.must("LOOKUP", e)
		if g.again != 0 {
			t.Error("a LOOKUP went to a worker")
		}
		typ, err := unix.FcntlInt(uintptr(host), unix.F_GETLEASE, 0)
		if err != nil {
			t.Fatal(err)
		}
		if kept := typ == unix.F_WRLCK; kept != (looked.Attr.Flags&fuse.ATTR_DAX != 0) {
			t.Errorf("the lease is kept: %v; the flags are %#x", kept, looked.Attr.Flags)
		}
		if typ != unix.F_WRLCK && !g.fs.noFileGetattr.Load() {
			t.Error("the lease has been broken")
		}
	})
}

func TestReadingTheFlagDoesNotAllocate(t *testing.T) {
	bothHosts(t, func(t *testing.T, adapt func(*guest)) {
		dir := t.TempDir()
		rangeFile(t, filepath.Join(dir, "f"), true)
		g := daxFlagGuest(t, dir, dax.Config{ByFlag: true})
		adapt(g)
		f, e := g.lookup(rootID, "f")
		g.must("LOOKUP", e)
		for name, req := range map[string][]byte{
			"LOOKUP":  le(uint32(inHeaderLen+2), uint32(opLookup), uint64(1), uint64(rootID), [4]uint32{}, "f"),
			"GETATTR": le(uint32(inHeaderLen+16), uint32(opGetattr), uint64(1), f.NodeId, [4]uint32{}, make([]byte, 16)),
		} {
			if n := testing.AllocsPerRun(100, func() { g.send(req, replyRoom) }); n != 0 {
				t.Errorf("%s allocates %v times", name, n)
			}
		}
	})
}

func TestAFileSystemWithoutTheFlagIsWarnedOf(t *testing.T) {
	const says = "does not keep FS_XFLAG_DAX"
	keeps := t.TempDir()
	setDAXFlag(t, keeps, true)
	setDAXFlag(t, keeps, false)
	lacks := "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(lacks, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Skip("no tmpfs here")
	}
	for _, c := range []struct {
		name     string
		dir      string
		byFlag   bool
		readOnly bool
		want     bool
	}{
		{"a file system that keeps it", keeps, true, false, false},
		{"a share that nobody in the guest changes", keeps, true, true, false},
		{"a file system without it", lacks, true, false, true},
		{"a file system without it, of which nobody asks for it", lacks, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			f, err := New(Options{SharedDir: c.dir, ReadOnly: c.readOnly, DAX: windowOf(t, dax.Config{ByFlag: c.byFlag}),
				Logger: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := strings.Contains(said.String(), says); got != c.want {
				t.Errorf("said %q", said.String())
			}
		})
	}
}
