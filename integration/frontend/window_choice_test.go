package frontend_test

import (
	"encoding/binary"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestDaemonChoosesFilesByTheirFlag has the guest set FS_XFLAG_DAX on a directory, make files in it, and change theirs.
//
// To see it fail: in package main, don't pass the option on to the window's owner.
func TestDaemonChoosesFilesByTheirFlag(t *testing.T) {
	ownWindow(t)
	const getXflags, setXflags, daxXflag = 0x801c581f, 0x401c5820, 0x8000 // FS_IOC_FS[GS]ETXATTR, FS_XFLAG_DAX
	dir := t.TempDir()
	d := daemontest.Start(t, dir, "--tag=test", "--dax-window=64M", "--dax-files=flag")
	c := daemontest.Mount(t, d, frontend.Options{Device: frontend.GenericDevice}, fuseclient.Options{Offer: daxFlags})
	set := func(node, fh uint64, on bool) {
		t.Helper()
		_, arg, err := c.Ioctl(root, node, fh, 0, getXflags, 0, nil, 28)
		if err == unix.ENOTTY || err == unix.EOPNOTSUPP {
			t.Skip("the file system of the tests has no flags")
		}
		must(t, err)
		flags := binary.LittleEndian.Uint32(arg) &^ daxXflag
		if on {
			flags |= daxXflag
		}
		binary.LittleEndian.PutUint32(arg, flags)
		_, _, err = c.Ioctl(root, node, fh, 0, setXflags, 0, arg, 0)
		if on && err == unix.EOPNOTSUPP {
			t.Skip("the file system of the tests has no FS_XFLAG_DAX")
		}
		must(t, err)
	}
	want := func(what string, attr fuse.Attr, dax bool) {
		t.Helper()
		if got := attr.Flags&fuse.ATTR_DAX != 0; got != dax {
			t.Errorf("%s: in the window: %v, want %v", what, got, dax)
		}
	}
	const fileMode, noFlags = 0o600, 0
	made, err := c.Create(root, 1, "before", unix.O_RDWR, fileMode, 0, noFlags, nil)
	must(t, err)
	want("a new file", made.Attr, false)
	top, err := c.Open(root, 1, unix.O_RDONLY, 0, true)
	must(t, err)
	set(1, top.Fh, true)
	inherited, err := c.Create(root, 1, "behind", unix.O_RDWR, fileMode, 0, noFlags, nil)
	must(t, err)
	want("a new file in a directory with the flag", inherited.Attr, true)
	must(t, c.Setupmapping(inherited.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
	before, err := c.Lookup(root, 1, "before")
	must(t, err)
	want("a file older than its directory's flag", before.Attr, false)
	set(made.NodeId, made.Fh, true)
	set(inherited.NodeId, inherited.Fh, false)
	before, err = c.Lookup(root, 1, "before")
	must(t, err)
	want("a file that has been given the flag", before.Attr, true)
	behind, err := c.Lookup(root, 1, "behind")
	must(t, err)
	want("a file that has lost the flag", behind.Attr, false)
}
