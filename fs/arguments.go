package fs

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// node returns the inode that the request is about.
func (t *Thread) node() (*inode, unix.Errno) { return t.nodeByID(t.hdr.NodeId) }

func (t *Thread) nodeByID(id uint64) (*inode, unix.Errno) {
	n := t.fs.inodes.get(id)
	if n == nil && t.session.inherited {
		// The guest looks the path up again.
		return nil, unix.ESTALE
	}
	if n == nil {
		t.fs.bad("nodeid", "a request names an inode that the guest does not have")
		return nil, unix.EBADF
	}
	return n, 0
}

// holdNode returns the inode id and a descriptor of it. The inode must be dropped.
func (t *Thread) holdNode(id uint64) (*inode, int, unix.Errno) {
	n, e := t.nodeByID(id)
	if e != 0 {
		return nil, -1, e
	}
	fd, e := n.hold()
	return n, fd, e
}

// holdDir is holdNode for a directory.
func (t *Thread) holdDir(id uint64) (*inode, int, unix.Errno) {
	n, e := t.nodeByID(id)
	if e != 0 {
		return nil, -1, e
	}
	if n.typ != unix.S_IFDIR {
		return nil, -1, unix.ENOTDIR
	}
	fd, e := n.hold()
	return n, fd, e
}

// names returns the count NUL-terminated strings that begin at offset from of
// the request, and what follows them.
func (t *Thread) names(from, count int) (s [2]cstr, rest []byte, e unix.Errno) {
	b := t.in[from:]
	for i := range count {
		n := 0
		for n < len(b) && b[n] != 0 {
			n++
		}
		if n == len(b) {
			t.fs.bad("string", "a request holds a name without an end")
			return s, nil, unix.EINVAL
		}
		s[i] = cstr(b[:n+1])
		b = b[n+1:]
	}
	return s, b, 0
}

// name returns the single name at offset from of the request, if it is one
// that a directory can hold: nothing else ever reaches a system call.
func (t *Thread) name(from int) (cstr, unix.Errno) {
	s, _, e := t.names(from, 1)
	if e != 0 {
		return nil, e
	}
	return s[0], t.checkName(s[0])
}

var dotName = cstr{'.', 0}

func (t *Thread) checkName(s cstr) unix.Errno {
	n := len(s) - 1
	switch {
	case n == 0, n == 1 && s[0] == '.', n == 2 && s[0] == '.' && s[1] == '.':
		t.fs.bad("name", "a request names \"\", \".\" or \"..\"")
		return unix.EINVAL
	case n > guestNameMax:
		t.fs.bad("name", "a name is longer than a guest lets any be")
		return unix.ENAMETOOLONG
	}
	// How long a name may be the host knows: some file systems count characters.
	for _, c := range s[:n] {
		if c == '/' {
			t.fs.bad("name", "a name has a slash")
			return unix.EINVAL
		}
	}
	return 0
}

// fdName is the name of descriptor fd in /proc/self/fd, which is the thread's
// working directory. It is valid until the next call.
func (t *Thread) fdName(fd int) cstr {
	b := strconv.AppendInt(t.path[:0], int64(fd), 10)
	return cstr(append(b, 0))
}
