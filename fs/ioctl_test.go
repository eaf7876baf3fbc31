package fs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// ioctlWith is ioctl with flags, FUSE_IOCTL_32BIT for one.
func (g *guest) ioctlWith(flags uint32, node, fh uint64, cmd uint32, data []byte, room uint32) unix.Errno {
	g.t.Helper()
	_, e := g.call(opIoctl, node, le(fh, flags, cmd, uint64(0), uint32(len(data)), room, data))
	return e
}

func TestWhoMayChangeFlags(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the owners of files need root")
	}
	const nodump, immutable, owner = 0x40, 0x10, 1000 // FS_NODUMP_FL, FS_IMMUTABLE_FL
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, owner, owner); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	fh, e := g.open(f.NodeId, unix.O_RDONLY)
	g.must("OPEN", e)
	if g.ioctlWith(0, f.NodeId, fh, fsIocGetflags, nil, 4) != 0 {
		t.Skip("the file system of the tests has no flags")
	}
	fsx := func(flags uint32) []byte { return le(flags, [6]uint32{}) }
	for _, c := range []struct {
		name string
		uid  uint32
		wide uint32
		cmd  uint32
		arg  []byte
		want unix.Errno
	}{
		{"the owner", owner, 0, fsIocSetflags, le(uint32(nodump)), 0},
		{"the owner, of what takes root", owner, 0, fsIocSetflags, le(uint32(immutable)), unix.EPERM},
		{"another", owner + 1, 0, fsIocSetflags, le(uint32(nodump)), unix.EPERM},
		{"root", 0, 0, fsIocSetflags, le(uint32(0)), 0},
		{"nobody whom the guest names", invalidUID, 0, fsIocSetflags, le(uint32(nodump)), 0},
		{"another, by xflags", owner + 1, 0, fsIocFssetxattr, fsx(0x80), unix.EPERM}, // FS_XFLAG_NODUMP
		{"the owner, by xflags", owner, 0, fsIocFssetxattr, fsx(0), 0},
		{"a kernel of 32 bits", 0, ioctl32Bit, fsIoc32Setflags, le(uint32(0)), 0},
		{"a process that gets past a kernel of 64 bits", invalidUID, 0, fsIoc32Setflags, le(uint32(immutable)), unix.ENOTTY},
		{"a process that gets past a kernel of 32 bits", invalidUID, ioctl32Bit, fsIocSetflags, le(uint64(immutable)), unix.ENOTTY},
	} {
		g.uid = c.uid
		if e := g.ioctlWith(c.wide, f.NodeId, fh, c.cmd, c.arg, 0); e != c.want {
			t.Errorf("%s: %v, want %v", c.name, e, c.want)
		}
	}
	if fd, err := unix.Open(path, unix.O_WRONLY, 0); err != nil {
		t.Errorf("the file can't be written to any more: %v", err)
		if r, err := unix.Open(path, unix.O_RDONLY, 0); err == nil {
			unix.IoctlSetPointerInt(r, unix.FS_IOC_SETFLAGS, 0) // to be removed
			unix.Close(r)
		}
	} else {
		unix.Close(fd)
	}
}

func TestWhoMayTurnOnVerity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the owners of files need root")
	}
	const owner = 1000
	dir := t.TempDir()
	if !hasVerity(t, dir) {
		mountImage(t, dir, "mkfs.ext4", "-q", "-O", "verity")
	}
	verity := hasVerity(t, dir) // the kernel's
	acl := le(uint32(2), uint16(1), uint16(6), ^uint32(0), uint16(2), uint16(4), uint32(7), uint16(4), uint16(4), ^uint32(0),
		uint16(0x10), uint16(6), ^uint32(0), uint16(0x20), uint16(0), ^uint32(0))
	g := newGuest(t, Options{SharedDir: dir, PosixACL: IfOffered})
	for _, c := range []struct {
		name string
		uid  uint32
		mode uint32
		acl  []byte
		may  bool
	}{
		{"the owner", owner, 0o644, nil, true},
		{"root", 0, 0o644, nil, true},
		{"another", owner + 1, 0o644, nil, false},
		{"another, who may write", owner + 1, 0o666, nil, true},
		{"somebody, who may be one that may only read", invalidUID, 0o644, nil, false},
		{"somebody, in a group that may only read", invalidUID, 0o640, nil, false},
		{"somebody, who may write as he could read", invalidUID, 0o660, nil, true},
		{"somebody, who is the owner as he could read", invalidUID, 0o600, nil, true},
		{"somebody, who may be one with an entry to read", invalidUID, 0o600, acl, false},
	} {
		path := filepath.Join(dir, c.name)
		if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, os.FileMode(c.mode)); err != nil {
			t.Fatal(err)
		}
		if c.acl != nil {
			if err := unix.Setxattr(path, "system.posix_acl_access", c.acl, 0); err != nil {
				t.Fatal(err)
			}
		}
		f, e := g.lookup(rootID, c.name)
		g.must("LOOKUP", e)
		fh, e := g.open(f.NodeId, unix.O_RDONLY)
		g.must("OPEN", e)
		g.uid = c.uid
		e = g.ioctlWith(0, f.NodeId, fh, fsIocEnableVerity, verityArg(1, 4096, 0, 0), 0)
		if refused := e == unix.EACCES; refused == c.may && (verity || c.uid == invalidUID) {
			t.Errorf("%s: %v", c.name, e)
		}
		if c.may && verity && e != 0 {
			t.Errorf("%s: %v", c.name, e)
		}
		g.uid = 0
	}
}
