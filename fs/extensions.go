package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// extensions is what a request that creates a file may carry behind its name.
// The slices alias the request.
type extensions struct {
	groups     []uint32
	groupsBuf  [1]uint32
	labelName  cstr
	labelValue []byte
}

// parseExtensions reads the extensions in rest, the end of a request, into t.ext:
// a security context (struct fuse_secctx_header) and supplementary groups
// (struct fuse_ext_header with fuse_supp_groups), as negotiated.
func (t *Thread) parseExtensions(rest []byte) unix.Errno {
	t.ext = extensions{}
	size := int(t.hdr.TotalExtlen) * 8
	if size > len(rest) {
		t.fs.bad("extensions", "a request announces more extensions than it holds")
		return unix.EINVAL
	}
	b := rest[len(rest)-size:]
	for len(b) > 0 {
		if len(b) < 8 {
			return t.badExtension()
		}
		n := binary.LittleEndian.Uint32(b)
		typ := binary.LittleEndian.Uint32(b[4:])
		if n < 8 || uint64(n) > uint64(len(b)) {
			return t.badExtension()
		}
		body := b[8:n]
		ok := true
		switch {
		case typ <= maxSecctx && t.session.has(fuse.CAP_SECURITY_CTX):
			ok = t.ext.parseSecctx(body, typ)
		case typ == extGroups && t.session.has(fuse.CAP_CREATE_SUPP_GROUP):
			ok = t.ext.parseGroups(body)
		default:
			ok = false
		}
		if !ok {
			return t.badExtension()
		}
		b = b[min(len(b), (int(n)+7)&^7):]
	}
	return 0
}

func (t *Thread) badExtension() unix.Errno {
	t.fs.bad("extensions", "a request holds an extension that is malformed or was not negotiated")
	return unix.EINVAL
}

// parseSecctx reads count fuse_secctx entries; Linux sends none or one.
func (x *extensions) parseSecctx(b []byte, count uint32) bool {
	if count > 1 {
		return false
	}
	if count == 0 {
		return true
	}
	if len(b) < 8 {
		return false
	}
	size := binary.LittleEndian.Uint32(b)
	b = b[8:]
	end := 0
	for end < len(b) && b[end] != 0 {
		end++
	}
	if end == 0 || end > nameMax || end == len(b) || uint64(size) > uint64(len(b)-end-1) {
		return false
	}
	x.labelName = cstr(b[:end+1])
	x.labelValue = b[end+1:][:size]
	return true
}

// parseGroups reads struct fuse_supp_groups; Linux sends one group.
func (x *extensions) parseGroups(b []byte) bool {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != 1 {
		return false
	}
	x.groupsBuf[0] = binary.LittleEndian.Uint32(b[4:])
	x.groups = x.groupsBuf[:]
	return true
}

// applySecurityContext labels the new file open as fd.
func (t *Thread) applySecurityContext(fd int) unix.Errno {
	if t.ext.labelName == nil {
		return 0
	}
	return t.setXattrFD(fd, t.ext.labelName, t.ext.labelValue, 0)
}
