package fs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

func TestWhatAGuestMayRemember(t *testing.T) {
	const direct = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	for _, c := range []struct {
		name    string
		cache   CachePolicy
		names   time.Duration
		file    uint32 // FOPEN flags of a file open to read and write
		dir     uint32
		targets bool // of symbolic links
	}{
		{name: "auto", cache: CacheAuto, names: time.Second},
		{name: "always", cache: CacheAlways, names: day, file: fuse.FOPEN_KEEP_CACHE, dir: fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE, targets: true},
		{name: "never", cache: CacheNever, file: direct},
		{name: "metadata", cache: CacheMetadata, names: day, file: direct, dir: fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuestRaw(t, Options{Cache: c.cache})
			init := g.mustInit(guestFlags | fuse.CAP_CACHE_SYMLINKS)
			if got := init.Flags&fuse.CAP_CACHE_SYMLINKS != 0; got != c.targets {
				t.Errorf("targets of links are cached: %v", got)
			}
			rep, e := g.call(opCreate, rootID, le(uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "f"))
			g.must("CREATE", e)
			created := overlay[fuse.CreateOut](aligned(rep))
			looked, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			attr, e := g.getattr(looked.NodeId)
			g.must("GETATTR", e)
			sxRep, e := g.call(opStatx, looked.NodeId, le([6]uint32{}))
			g.must("STATX", e)
			sx := overlay[fuse.StatxOut](aligned(sxRep))
			seconds := func(s uint64, ns uint32) time.Duration { return time.Duration(s)*time.Second + time.Duration(ns) }
			for what, got := range map[string]time.Duration{
				"a name from CREATE":        created.EntryTimeout(),
				"attributes from CREATE":    created.AttrTimeout(),
				"a name from LOOKUP":        looked.EntryTimeout(),
				"attributes from LOOKUP":    looked.AttrTimeout(),
				"attributes from GETATTR":   attr.Timeout(),
				"attributes from STATX":     seconds(sx.AttrValid, sx.AttrValidNsec),
				"attributes from a SETATTR": g.setattrTimeout(looked.NodeId),
			} {
				if got != c.names {
					t.Errorf("%s may be kept for %v, want %v", what, got, c.names)
				}
			}
			// What takes set-id bits does not always tell the guest.
			if err := os.Chmod(filepath.Join(g.fs.opts.SharedDir, "f"), os.ModeSetuid|0o755); err != nil {
				t.Fatal(err)
			}
			looked, e = g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			attr, e = g.getattr(looked.NodeId)
			g.must("GETATTR", e)
			if looked.EntryTimeout() != c.names || looked.AttrTimeout() != 0 || attr.Timeout() != 0 {
				t.Errorf("of a set-id file names may be kept for %v, attributes for %v and %v", looked.EntryTimeout(), looked.AttrTimeout(), attr.Timeout())
			}
			const kept = direct | fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
			openRep, e := g.call(opOpen, looked.NodeId, le(uint32(unix.O_RDWR), uint32(0)))
			g.must("OPEN", e)
			if got := overlay[fuse.OpenOut](aligned(openRep)).OpenFlags & kept; got != c.file || created.OpenFlags&kept != c.file {
				t.Errorf("OPEN %#x, CREATE %#x, want %#x", got, created.OpenFlags&kept, c.file)
			}
			dirRep, e := g.call(opOpendir, rootID, le(uint32(0), uint32(0)))
			g.must("OPENDIR", e)
			if got := overlay[fuse.OpenOut](aligned(dirRep)).OpenFlags & kept; got != c.dir {
				t.Errorf("OPENDIR %#x, want %#x", got, c.dir)
			}
		})
	}
}

// What a store to a mapping changes no reply tells, so the guest must ask.
func TestAttributesOfAFileInTheWindowAreNotKept(t *testing.T) {
	const window, inode = fuse.CAP_MAP_ALIGNMENT, fuse.CAP_HAS_INODE_DAX
	for _, c := range []struct {
		name  string
		opts  Options
		flags uint64
		size  int64
		want  time.Duration
	}{
		{name: "a guest without a window", size: dax.RangeSize, want: time.Second},
		{name: "every file", flags: window, size: 1},
		{name: "a file that is to be mapped", flags: window | inode, size: dax.RangeSize},
		{name: "a file that is not to be mapped", flags: window | inode, size: 1, want: time.Second},
		{name: "a share that nobody in the guest changes", opts: Options{ReadOnly: true}, flags: window, size: 1, want: time.Second},
		{name: "a guest that trusts what it knows", opts: Options{Cache: CacheAlways}, flags: window, size: 1, want: day},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.DAX = newWindow(t)
			c.opts.WindowOffset = func(uint64) (uint64, bool) { return 0, false }
			g := newGuestRaw(t, c.opts)
			path := filepath.Join(g.fs.opts.SharedDir, "f")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, c.size); err != nil {
				t.Fatal(err)
			}
			g.mustInit(guestFlags&^(window|inode) | c.flags)
			looked, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			attr, e := g.getattr(looked.NodeId)
			g.must("GETATTR", e)
			if looked.AttrTimeout() != c.want || attr.Timeout() != c.want {
				t.Errorf("kept for %v after LOOKUP and %v after GETATTR, want %v", looked.AttrTimeout(), attr.Timeout(), c.want)
			}
		})
	}
}

func (g *guest) setattrTimeout(node uint64) time.Duration {
	g.t.Helper()
	out, e := g.setattr(node, fuse.FATTR_MTIME_NOW|fuse.FATTR_MTIME)
	g.must("SETATTR", e)
	return out.Timeout()
}

func TestOptionsThatINITCarries(t *testing.T) {
	const all = ^uint64(0)
	for _, c := range []struct {
		name string
		flag uint64
		set  func(o *Options, on bool)
	}{
		{"allow-mmap", fuse.CAP_DIRECT_IO_ALLOW_MMAP, func(o *Options, on bool) { o.AllowMmap = on }},
		{"writeback", fuse.CAP_WRITEBACK_CACHE, func(o *Options, on bool) { o.Writeback = on }},
		{"announce-submounts", fuse.CAP_SUBMOUNTS, func(o *Options, on bool) { o.AnnounceSubmounts = on }},
		{"readdirplus", fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO, func(o *Options, on bool) { o.ReaddirPlus = on }},
		{"posix-lock", fuse.CAP_POSIX_LOCKS, func(o *Options, on bool) { o.PosixLock = on }},
		{"flock", fuse.CAP_FLOCK_LOCKS, func(o *Options, on bool) { o.Flock = on }},
	} {
		for _, on := range []bool{false, true} {
			for _, offered := range []uint64{all, all &^ c.flag} {
				g := newGuestRaw(t, Options{})
				c.set(&g.fs.opts, on)
				out := g.mustInit(offered)
				got := uint64(out.Flags) | uint64(out.Flags2)<<32
				want := uint64(0)
				if on {
					want = c.flag & offered
				}
				if got&c.flag != want {
					t.Errorf("%s=%v, offered %#x: agreed on %#x of %#x", c.name, on, offered&c.flag, got&c.flag, c.flag)
				}
			}
		}
	}
	// What no option takes away.
	g := newGuestRaw(t, Options{})
	out := g.mustInit(all)
	got := uint64(out.Flags) | uint64(out.Flags2)<<32
	for name, flag := range map[string]uint64{
		"CREATE_SUPP_GROUP": fuse.CAP_CREATE_SUPP_GROUP, "ALLOW_IDMAP": fuse.CAP_ALLOW_IDMAP, "PARALLEL_DIROPS": fuse.CAP_PARALLEL_DIROPS,
		"ASYNC_READ": fuse.CAP_ASYNC_READ, "ASYNC_DIO": fuse.CAP_ASYNC_DIO, "MAX_PAGES": fuse.CAP_MAX_PAGES, "BIG_WRITES": fuse.CAP_BIG_WRITES,
		"INIT_EXT": fuse.CAP_INIT_EXT,
	} {
		if got&flag == 0 {
			t.Errorf("%s is not agreed on", name)
		}
	}
}

func TestODirectReachesTheHostWhereItIsAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		g := newGuest(t, Options{AllowDirectIO: allowed})
		rep, e := g.call(opCreate, rootID, le(uint32(unix.O_RDWR|unix.O_DIRECT), uint32(0o600), uint32(0), uint32(0), "f"))
		if e == unix.EINVAL {
			t.Skip("the file system of the test directory has no O_DIRECT")
		}
		g.must("CREATE", e)
		created := overlay[fuse.CreateOut](aligned(rep))
		opened, e := g.open(created.NodeId, unix.O_RDWR|unix.O_DIRECT)
		g.must("OPEN", e)
		for _, fh := range []uint64{created.Fh, opened} {
			flags, err := unix.FcntlInt(uintptr(g.fs.files.get(fh).fd), unix.F_GETFL, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := flags&unix.O_DIRECT != 0; got != allowed {
				t.Errorf("allowed %v: O_DIRECT on the host is %v", allowed, got)
			}
		}
	}
}

func TestONoatimeThatTheHostRefuses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, preserve := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 1000, 1000); err != nil {
			t.Fatal(err)
		}
		g := newGuest(t, Options{SharedDir: dir, PreserveNoatime: preserve})
		n, e := g.lookup(rootID, "f")
		g.must("LOOKUP", e)
		// The daemon of a user who is not root, as far as this goes.
		caps := g.thread.cred.caps
		caps[0].Effective &^= 1 << unix.CAP_FOWNER
		if e := setCaps(&caps); e != 0 {
			t.Fatal(e)
		}
		_, e = g.open(n.NodeId, unix.O_RDONLY|unix.O_NOATIME)
		setCaps(&g.thread.cred.caps)
		want := unix.Errno(0)
		if preserve {
			want = unix.EPERM
		}
		if e != want {
			t.Errorf("preserved %v: OPEN %v, want %v", preserve, e, want)
		}
		// Where the host lets the daemon have it, it is passed on.
		fh, e := g.open(n.NodeId, unix.O_RDONLY|unix.O_NOATIME)
		g.must("OPEN", e)
		if flags, _ := unix.FcntlInt(uintptr(g.fs.files.get(fh).fd), unix.F_GETFL, 0); flags&unix.O_NOATIME == 0 {
			t.Error("O_NOATIME is not passed on")
		}
	}
}

func TestMandatoryFileHandles(t *testing.T) {
	if _, err := New(Options{SharedDir: "/proc", InodeFileHandles: FileHandlesMandatory}); err == nil || !strings.Contains(err.Error(), "--inode-file-handles=prefer") {
		t.Errorf("a file system without handles: %v", err)
	}
	f, err := New(Options{SharedDir: "/proc", InodeFileHandles: FileHandlesPrefer})
	if err != nil {
		t.Fatalf("preferred: %v", err)
	}
	f.Close()
}
