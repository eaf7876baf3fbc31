package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	xattrSizeMax = 1 << 16 // XATTR_SIZE_MAX, and XATTR_LIST_MAX
	xattrNameMax = 255     // XATTR_NAME_MAX
)

// xattrName returns the attribute name at offset from of the request and what
// follows it.
func (t *Thread) xattrName(from int) (cstr, []byte, unix.Errno) {
	if !t.fs.opts.Xattr {
		return nil, nil, never
	}
	s, rest, e := t.names(from, 1)
	if e != 0 {
		return nil, nil, e
	}
	if n := len(s[0]) - 1; n == 0 || n > xattrNameMax {
		return nil, nil, unix.ERANGE
	}
	if !t.session.has(fuse.CAP_POSIX_ACL) && isACLName(s[0]) {
		// A guest that does not know of ACLs would not see the mode change.
		return nil, nil, unix.EOPNOTSUPP
	}
	return s[0], rest, 0
}

var aclAccess = cstr("system.posix_acl_access\x00")

func isACLName(name []byte) bool {
	return bytes.HasPrefix(name, aclAccess) || bytes.HasPrefix(name, []byte("system.posix_acl_default\x00"))
}

// setxattr serves FUSE_SETXATTR.
func (t *Thread) setxattr() (int, unix.Errno) {
	size := sizeOf[setxattrCompatIn]()
	in := fuse.SetXAttrIn{}
	if t.session.has(fuse.CAP_SETXATTR_EXT) {
		ext := overlay[fuse.SetXAttrIn](t.in)
		if ext == nil {
			return 0, unix.EINVAL
		}
		in, size = *ext, sizeOf[fuse.SetXAttrIn]()
	} else {
		compat := overlay[setxattrCompatIn](t.in)
		in.Size, in.Flags = compat.Size, compat.Flags
	}
	name, rest, e := t.xattrName(size)
	if e != 0 {
		return 0, e
	}
	if uint64(in.Size) > uint64(len(rest)) {
		t.fs.bad("xattr", "a SETXATTR announces a longer value than it holds")
		return 0, unix.EINVAL
	}
	if in.Size > xattrSizeMax {
		return 0, unix.E2BIG
	}
	n, fd, e := t.holdNode(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		defer t.restorePriv()
		t.cred.dropFsetid()
		if own := t.cred.gid; t.stat(n, unix.STATX_GID) == 0 && t.st.Gid == own {
			// The guest has found that its caller is not in the file's
			// group, so the thread must not be either.
			t.cred.joinGroup(own ^ 1)
		}
	}
	e = t.setXattrFD(fd, name, rest[:in.Size], in.Flags)
	if e == 0 && bytes.Equal(name, capabilityName) {
		t.noteSet(n, setCapability)
	}
	return 0, e
}

// setXattrFD sets an attribute of the inode that fd, O_PATH or not, is open on.
// The calls on descriptors refuse O_PATH ones, so the attributes of inodes are
// reached by the name of the descriptor in /proc/self/fd.
func (t *Thread) setXattrFD(fd int, name cstr, value []byte, flags uint32) unix.Errno {
	return sysSetxattr(t.fdName(fd), name, value, flags)
}

// getxattr serves FUSE_GETXATTR; a size of 0 asks for the length.
func (t *Thread) getxattr() (int, unix.Errno) {
	in := overlay[fuse.GetXAttrIn](t.in)
	name, _, e := t.xattrName(sizeOf[fuse.GetXAttrIn]())
	if e != 0 {
		return 0, e
	}
	t.looksForCapability(name)
	n, fd, e := t.holdNode(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	buf := t.payload()[:min(int(in.Size), xattrSizeMax)]
	got, e := sysGetxattr(t.fdName(fd), name, buf)
	return t.xattrReply(in.Size, got, e)
}

// listxattr serves FUSE_LISTXATTR.
func (t *Thread) listxattr() (int, unix.Errno) {
	if !t.fs.opts.Xattr {
		return 0, never
	}
	in := overlay[fuse.GetXAttrIn](t.in)
	n, fd, e := t.holdNode(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	// The list is read whole, for hidden names do not count.
	got, e := sysListxattr(t.fdName(fd), t.payload()[:xattrSizeMax])
	if e != 0 {
		return 0, e
	}
	if !t.session.has(fuse.CAP_POSIX_ACL) {
		got = dropACLNames(t.payload()[:got])
	}
	if in.Size != 0 && got > int(in.Size) {
		return 0, unix.ERANGE
	}
	return t.xattrReply(in.Size, got, 0)
}

// dropACLNames takes the ACLs out of a list of names, in place.
func dropACLNames(list []byte) int {
	kept := 0
	for len(list[kept:]) > 0 {
		end := bytes.IndexByte(list[kept:], 0)
		if end < 0 {
			break
		}
		if isACLName(list[kept : kept+end+1]) {
			list = append(list[:kept], list[kept+end+1:]...)
			continue
		}
		kept += end + 1
	}
	return kept
}

// xattrReply answers with got bytes of the payload, or with their number where
// the guest asked for that.
func (t *Thread) xattrReply(asked uint32, got int, e unix.Errno) (int, unix.Errno) {
	if e != 0 {
		return 0, e
	}
	if asked != 0 {
		return got, 0
	}
	out := overlay[fuse.GetXAttrOut](t.payload())
	*out = fuse.GetXAttrOut{Size: uint32(got)}
	return sizeOf[fuse.GetXAttrOut](), 0
}

// removexattr serves FUSE_REMOVEXATTR.
func (t *Thread) removexattr() (int, unix.Errno) {
	name, _, e := t.xattrName(inHeaderLen)
	if e != 0 {
		return 0, e
	}
	n, fd, e := t.holdNode(t.hdr.NodeId)
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	return 0, sysRemovexattr(t.fdName(fd), name)
}
