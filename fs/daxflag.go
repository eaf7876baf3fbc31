package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// fsXflagDAX is FS_XFLAG_DAX, which a file inherits from the directory that it is
// made in.
const fsXflagDAX = 0x8000

// wantDAX says whether the regular file n, with its attributes in t.st, is to be
// mapped by a guest that leaves the choice to the daemon.
func (t *Thread) wantDAX(n *inode) bool {
	d := t.fs.opts.DAX
	return d.Want(uint32(t.st.Mode), t.st.Size) && (!d.ByFlag() || t.hasDAXFlag(n))
}

// hasDAXFlag says whether the host's file n has FS_XFLAG_DAX. One that can't be
// asked has not. It is asked each time, for the host may change the flag too, and
// what statx(2) tells of DAX is the state of the host's inode instead.
func (t *Thread) hasDAXFlag(n *inode) bool {
	if !t.fs.noFileGetattr.Load() {
		fd, e := n.hold()
		if e != 0 {
			return false
		}
		e = sysFileGetattr(t.fdName(fd), &t.attr)
		n.drop()
		switch e {
		case 0:
			return t.attr.xflags&fsXflagDAX != 0
		case unix.EOPNOTSUPP:
			return false
		case unix.ENOSYS:
			t.fs.noFileGetattr.Store(true)
		}
	}
	// Linux up to 6.16 asks for an open file. Who only looks a file up must not
	// wait for a lease of the host's, which this ends.
	fd, e := n.openFile(t, unix.O_RDONLY|unix.O_NONBLOCK)
	if e != 0 {
		return false
	}
	defer unix.Close(fd)
	var arg [fsxattrLen]byte
	_, e = sysIoctl(fd, fsIocFsgetxattr, arg[:])
	return e == 0 && binary.NativeEndian.Uint32(arg[:])&fsXflagDAX != 0
}

// checkDAXFlag warns where files are to be chosen by a flag that the file system of
// the shared directory does not keep.
func (f *FS) checkDAXFlag() {
	if f.opts.DAX.ByFlag() && !f.keepsDAXFlag() {
		f.log.Warn("the file system of the shared directory does not keep FS_XFLAG_DAX, so a guest that leaves the choice to the daemon maps no file; "+
			"use --dax-files=size, or mount with dax=always in the guest", "dir", f.opts.SharedDir)
	}
}

// keepsDAXFlag tries it with a file that has no name. Where there can be none it is
// enough that the directory has flags.
func (f *FS) keepsDAXFlag() bool {
	fd, e := -1, unix.EROFS
	if !f.opts.ReadOnly {
		fd, e = sysOpenat(f.rootFD, dotName, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	}
	made := e == 0
	if !made {
		if fd, e = sysOpenat(f.rootFD, dotName, unix.O_RDONLY|unix.O_DIRECTORY, 0); e != 0 {
			return true // which nobody can tell
		}
	}
	defer unix.Close(fd)
	var arg [fsxattrLen]byte
	if _, e := sysIoctl(fd, fsIocFsgetxattr, arg[:]); e != 0 || !made {
		return e == 0
	}
	binary.NativeEndian.PutUint32(arg[:], binary.NativeEndian.Uint32(arg[:])|fsXflagDAX)
	if _, e := sysIoctl(fd, fsIocFssetxattr, arg[:]); e != 0 {
		return false
	}
	_, e = sysIoctl(fd, fsIocFsgetxattr, arg[:])
	return e == 0 && binary.NativeEndian.Uint32(arg[:])&fsXflagDAX != 0
}
