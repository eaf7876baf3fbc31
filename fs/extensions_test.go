package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// secctx is struct fuse_secctx_header with one security context.
func secctx(name, value string) []byte {
	body := le(uint32(len(value)), uint32(0), name, []byte(value))
	for len(body)%8 != 0 {
		body = append(body, 0)
	}
	return append(le(uint32(8+len(body)), uint32(1)), body...)
}

func TestNewFilesGetTheirSecurityContext(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const name, label = "security.virtiofsd-go-test", "system_u:object_r:test_t:s0\x00"
	file := le(uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "x")
	for _, c := range []struct {
		name string
		op   uint32
		body []byte
	}{
		{"CREATE", opCreate, file},
		{"TMPFILE", opTmpfile, file},
		{"MKNOD", opMknod, le(uint32(unix.S_IFREG|0o600), uint32(0), uint32(0), uint32(0), "x")},
		{"MKNOD of a fifo", opMknod, le(uint32(unix.S_IFIFO|0o600), uint32(0), uint32(0), uint32(0), "x")},
		{"MKDIR", opMkdir, le(uint32(0o700), uint32(0), "x")},
		{"SYMLINK", opSymlink, le("x", "target")},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			g := newGuest(t, Options{SharedDir: dir, Xattr: true, SecurityLabel: On})
			rep, e := g.callExt(c.op, rootID, c.body, secctx(name, label), replyRoom)
			g.must(c.name, e)
			got, e := g.call(opGetxattr, g.entry(rep).NodeId, le(uint32(100), uint32(0), name))
			if e != 0 || string(got) != label {
				t.Errorf("the label is %q, %v", got, e)
			}
			// No label at all, as a guest without a policy sends it.
			if c.op != opTmpfile {
				if err := os.Remove(filepath.Join(dir, "x")); err != nil {
					t.Fatal(err)
				}
			}
			rep, e = g.callExt(c.op, rootID, c.body, le(uint32(8), uint32(0)), replyRoom)
			g.must(c.name+" without a label", e)
			if _, e := g.call(opGetxattr, g.entry(rep).NodeId, le(uint32(100), uint32(0), name)); e != unix.ENODATA {
				t.Errorf("the label of a file that was given none: %v", e)
			}
		})
	}
}

func TestAFileThatCanNotBeLabelledIsNotMade(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, Xattr: true, SecurityLabel: On})
	ext := secctx("nonsense.name", "label")
	for op, body := range map[uint32][]byte{
		opCreate:  le(uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "x"),
		opMkdir:   le(uint32(0o700), uint32(0), "x"),
		opSymlink: le("x", "target"),
	} {
		if _, e := g.callExt(op, rootID, body, ext, replyRoom); e != unix.EOPNOTSUPP {
			t.Errorf("operation %d: %v", op, e)
		}
		if _, err := os.Lstat(filepath.Join(dir, "x")); !os.IsNotExist(err) {
			t.Errorf("operation %d has left the file behind: %v", op, err)
		}
	}
	if n := g.fs.inodes.byID.len(); n != 1 {
		t.Errorf("%d inodes are left", n)
	}
}

// FUSE_SETXATTR_EXT says whether a new access ACL takes the set-group-ID bit.
func TestAnACLTakesSetgidWhenTheGuestSaysSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	// user::rwx, group::r-x, mask::rwx, other::r-x
	acl := le(uint32(2), uint16(1), uint16(7), ^uint32(0), uint16(4), uint16(5), ^uint32(0), uint16(16), uint16(7), ^uint32(0), uint16(32), uint16(5), ^uint32(0))
	for _, c := range []struct {
		flags uint32
		want  uint32
	}{{0, 0o2775}, {fuse.SETXATTR_ACL_KILL_SGID, 0o775}} {
		dir := t.TempDir()
		g := newGuest(t, Options{SharedDir: dir, PosixACL: On})
		node, _ := g.create(rootID, "f", unix.O_RDWR, 0o755)
		path := filepath.Join(dir, "f")
		if err := unix.Chown(path, 1000, 2000); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(path, 0o2775); err != nil {
			t.Fatal(err)
		}
		_, e := g.call(opSetxattr, node, le(uint32(len(acl)), uint32(0), c.flags, uint32(0), "system.posix_acl_access", acl))
		g.must("SETXATTR", e)
		a, e := g.getattr(node)
		g.must("GETATTR", e)
		if got := a.Mode & 0o7777; got != c.want {
			t.Errorf("flags %#x: mode %04o, want %04o", c.flags, got, c.want)
		}
	}
}

// A guest that did not agree on FUSE_SETXATTR_EXT sends eight bytes less.
func TestShortSetxattr(t *testing.T) {
	g := newGuestRaw(t, Options{Xattr: true})
	g.mustInit(guestFlags &^ (fuse.CAP_SETXATTR_EXT | fuse.CAP_POSIX_ACL))
	node, _ := g.create(rootID, "f", unix.O_RDWR, 0o600)
	_, e := g.call(opSetxattr, node, le(uint32(5), uint32(0), "user.x", []byte("value")))
	g.must("SETXATTR", e)
	if got, e := g.call(opGetxattr, node, le(uint32(100), uint32(0), "user.x")); e != 0 || string(got) != "value" {
		t.Errorf("the value is %q, %v", got, e)
	}
}
