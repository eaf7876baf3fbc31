package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

func newWindow(t *testing.T) *dax.Manager {
	t.Helper()
	return windowOf(t, dax.Config{})
}

// windowOf is a window for files of whole ranges.
func windowOf(t *testing.T, c dax.Config) *dax.Manager {
	t.Helper()
	c.Window, c.Backing = 4*dax.RangeSize, dax.Direct
	m, err := dax.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// Direct writes that end on their own leave pages behind that were read meanwhile.
func TestDirectWritesAreWaitedForWhereTheGuestTrustsItsPages(t *testing.T) {
	for _, c := range []struct {
		name      string
		cache     CachePolicy
		writeback bool
		want      bool
	}{
		{name: "auto", cache: CacheAuto, want: true},
		{name: "auto with writeback", cache: CacheAuto, writeback: true},
		{name: "always", cache: CacheAlways},
		{name: "metadata", cache: CacheMetadata, want: true},
		{name: "never", cache: CacheNever, want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newGuestRaw(t, Options{Cache: c.cache, Writeback: c.writeback}).fs
			flags, e := f.negotiate(^uint64(0))
			if async := flags&fuse.CAP_ASYNC_DIO != 0; e != 0 || async != c.want {
				t.Errorf("asynchronous direct I/O: %v, %v", async, e)
			}
		})
	}
}

func TestWhatINITAgreesOn(t *testing.T) {
	const (
		all      = ^uint64(0)
		inodeDAX = fuse.CAP_HAS_INODE_DAX
		window   = fuse.CAP_MAP_ALIGNMENT
		inval    = fuse.CAP_AUTO_INVAL_DATA
		explicit = fuse.CAP_EXPLICIT_INVAL_DATA
		killpriv = fuse.CAP_HANDLE_KILLPRIV_V2
		trunc    = fuse.CAP_ATOMIC_O_TRUNC
		acl      = fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT
		// What the rows below speak of; the rest is what the guest offers.
		spoken = window | inodeDAX | inval | explicit | killpriv | trunc | acl | fuse.CAP_SECURITY_CTX |
			fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_SUBMOUNTS
	)
	for _, c := range []struct {
		name    string
		dax     bool
		opts    Options
		offered uint64
		want    uint64
		e       unix.Errno
	}{
		{name: "no DAX", opts: Options{KillprivV2: IfOffered}, offered: all, want: inval | killpriv | trunc},
		{name: "no DAX and no killpriv", offered: all, want: inval},
		{name: "no DAX and a guest without killpriv", opts: Options{KillprivV2: IfOffered}, offered: all &^ killpriv, want: inval},
		{name: "killpriv asked for, and a guest without", opts: Options{KillprivV2: On}, offered: all &^ killpriv, want: inval},
		{name: "DAX for some files", dax: true, offered: all, want: window | inodeDAX},
		{name: "DAX for some files, with killpriv", dax: true, opts: Options{KillprivV2: IfOffered}, offered: all, want: window | inodeDAX | killpriv | trunc},
		{name: "DAX for all files", dax: true, opts: Options{KillprivV2: IfOffered}, offered: all &^ inodeDAX, want: window | explicit | killpriv | trunc},
		{name: "DAX for all files in an old guest", dax: true, offered: all &^ inodeDAX &^ explicit, want: window},
		{name: "a guest that mounts without DAX", dax: true, opts: Options{KillprivV2: IfOffered}, offered: all &^ inodeDAX &^ window, want: inval | killpriv | trunc},
		{name: "locks", opts: Options{PosixLock: true, Flock: true}, offered: all, want: inval | fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS},
		{name: "writeback and submounts", opts: Options{Writeback: true, AnnounceSubmounts: true}, offered: all, want: inval | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_SUBMOUNTS},
		{name: "ACLs", opts: Options{PosixACL: IfOffered}, offered: all, want: inval | acl},
		{name: "ACLs of which a guest lacks a part", opts: Options{PosixACL: IfOffered}, offered: all &^ fuse.CAP_SETXATTR_EXT, want: inval},
		{name: "ACLs asked for, and a guest without", opts: Options{PosixACL: On}, offered: all &^ fuse.CAP_DONT_MASK, e: unix.EPROTO},
		{name: "labels asked for, and a guest without", opts: Options{SecurityLabel: On}, offered: all &^ fuse.CAP_SECURITY_CTX, e: unix.EPROTO},
		{name: "a guest that offers nothing", dax: true, opts: Options{KillprivV2: IfOffered}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.SharedDir = t.TempDir()
			if c.dax {
				c.opts.DAX = newWindow(t)
			}
			g := newGuestRaw(t, c.opts)
			g.fs.opts.AnnounceSubmounts = c.opts.AnnounceSubmounts
			rep, e := g.call(opInit, 0, le(uint32(7), uint32(45), uint32(1<<20), uint32(c.offered|fuse.CAP_INIT_EXT), uint32(c.offered>>32), [11]uint32{}))
			if e != c.e {
				t.Fatalf("INIT: %v, want %v", e, c.e)
			}
			if e != 0 {
				return
			}
			out := overlay[fuse.InitOut](aligned(rep))
			flags := uint64(out.Flags) | uint64(out.Flags2)<<32
			if got := flags & spoken; got != c.want {
				t.Errorf("flags %#x, want %#x: too many %#x, too few %#x", got, c.want, got&^c.want, c.want&^got)
			}
			if extra := flags &^ c.offered &^ fuse.CAP_INIT_EXT; extra != 0 {
				t.Errorf("the guest did not offer %#x", extra)
			}
			if want := flags&window != 0; (out.MapAlignment == mapAlignment) != want {
				t.Errorf("alignment of mappings %d", out.MapAlignment)
			}
			if s := g.fs.session.Load(); s.flags != flags {
				t.Errorf("the session has %#x, the reply %#x", s.flags, flags)
			}
		})
	}
}

func TestASessionTakenOver(t *testing.T) {
	for _, c := range []struct {
		name  string
		dax   bool
		flags uint64
	}{
		{"without DAX", false, fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC},
		{"with DAX", true, fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			before := newGuest(t, Options{SharedDir: dir})
			node, handle := before.create(rootID, "g", unix.O_RDWR, 0o644)
			opts := Options{SharedDir: dir, KillprivV2: IfOffered}
			if c.dax {
				opts.DAX = newWindow(t)
			}
			g := newGuestRaw(t, opts)
			g.fs.TakeOver()
			const spoken = fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX | fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_EXPLICIT_INVAL_DATA |
				fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC
			if got := g.fs.session.Load().flags & spoken; got != c.flags {
				t.Errorf("flags %#x, want %#x", got, c.flags)
			}
			n, e := g.lookup(rootID, "f")
			g.must("LOOKUP", e)
			fh, e := g.open(n.NodeId, unix.O_RDWR)
			g.must("OPEN", e)
			// The guest would take one for the other, and write to it.
			if n.NodeId == node || fh == handle {
				t.Errorf("inode %#x and handle %#x are those of another file for the guest", n.NodeId, fh)
			}
			// ESTALE has the guest look the path up again.
			if _, e := g.getattr(node); e != unix.ESTALE {
				t.Errorf("an inode of the daemon before: %v", e)
			}
			if _, e := g.read(node, handle, 0, 10); e != unix.ESTALE {
				t.Errorf("a file of an inode of the daemon before: %v", e)
			}
			if _, e := g.read(n.NodeId, handle, 0, 10); e != unix.EBADF {
				t.Errorf("a file of the daemon before: %v", e)
			}
			g.call(opForget, node, le(uint64(1)))
			if bad := g.fs.Stats().BadRequests.Load(); bad != 0 {
				t.Errorf("%d requests of a guest that can't know better count as bad", bad)
			}
			if _, e := g.getattr(rootID); e != 0 {
				t.Errorf("the root: %v", e)
			}
			// A ring that goes on in a session of our own changes nothing.
			g.mustInit(fuse.CAP_INIT_EXT)
			mine := g.fs.session.Load()
			g.fs.TakeOver()
			if g.fs.session.Load() != mine {
				t.Error("the guest's own session was replaced")
			}
		})
	}
}

// What a daemon that was killed may have done already is not done again where that would undo it.
func TestRepeatedRenameIsNotUndone(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags uint32
		want  unix.Errno
		a, b  string // what the two files hold afterwards
	}{
		{"exchange", unix.RENAME_EXCHANGE, unix.EIO, "a", "b"},
		{"whiteout", unix.RENAME_WHITEOUT, unix.EIO, "a", "b"},
		{"plain", 0, 0, "", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			g := newGuest(t, Options{SharedDir: dir})
			rename := le(uint64(rootID), c.flags, uint32(0), "a", "b")
			g.thread.Repeat()
			if _, e := g.call(opRename2, rootID, rename); e != c.want {
				t.Errorf("the repeated request: %v, want %v", e, c.want)
			}
			for name, want := range map[string]string{"a": c.a, "b": c.b} {
				if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
					t.Errorf("%s holds %q, want %q", name, got, want)
				}
			}
			// It is said of one request only.
			if c.flags == unix.RENAME_EXCHANGE {
				_, e := g.call(opRename2, rootID, rename)
				g.must("the next exchange", e)
			}
		})
	}
}
