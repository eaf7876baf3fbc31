package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// handleBytes is the file handle of an inode, as name_to_handle_at(2) gave it.
type handleBytes struct {
	typ  int32
	data string
}

func (h *handleBytes) equal(o *handleBytes) bool { return h.typ == o.typ && h.data == o.data }

// mount is a mount that some inode of the guest is on.
type mount struct {
	id      uint64
	dev     uint64
	dir     bool        // it was first seen by a directory, which the guest may have been told to be a mount
	fd      int         // a descriptor on it that is not O_PATH, for open_by_handle_at and syncfs; -1 for none
	handles atomic.Bool // its file system has file handles that work
	nowait  atomic.Bool // preadv2 takes RWF_NOWAIT there
	slow    bool        // every operation may wait for a network or another process
	memory  bool        // files lie in memory, and reads wait for nothing but swapping
	refs    int         // inodes on it, guarded by mountTable.mu
}

// open opens the file that h names on this mount.
func (m *mount) open(h *handleBytes, flags int) (int, unix.Errno) {
	var buf handleBuf
	buf.typ = h.typ
	buf.bytes = uint32(copy(buf.data[:], h.data))
	for {
		fd, e := sysOpenByHandleAt(m.fd, &buf, flags)
		if e != unix.EINTR {
			return fd, e
		}
	}
}

// mountTable holds the mounts in use by their mount id.
type mountTable struct {
	mu   sync.Mutex
	m    map[uint64]*mount
	lost map[uint64]unix.Errno // by mount id, what of the window could not be written and no SYNCFS has told
}

// get returns the mount of the inode k, that the O_PATH descriptor fd is of, with
// one more reference.
func (mt *mountTable) get(f *FS, k inodeKey, fd int, isDir bool) *mount {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if m := mt.m[k.mnt]; m != nil {
		m.refs++
		return m
	}
	m := &mount{id: k.mnt, dev: k.dev, dir: isDir, fd: -1, refs: 1}
	var st unix.Statfs_t
	if sysFstatfs(fd, &st) == 0 {
		m.slow = isSlow(st.Type)
		m.memory = st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
		if m.slow {
			waits.Store(true)
		}
	}
	m.nowait.Store(!m.slow)
	if isDir {
		// Only a directory shows a new mount here: a mount on a file has no
		// descriptor that could be opened without side effects.
		if mfd, e := sysOpenat(fd, dotName, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); e == 0 {
			m.fd = mfd
			m.handles.Store(f.opts.InodeFileHandles != FileHandlesNever && handlesWork(m, fd))
		}
	}
	if mt.m == nil {
		mt.m = make(map[uint64]*mount)
	}
	mt.m[m.id] = m
	return m
}

// drop gives one reference back. The mount's descriptor goes with the last, so
// that the host can unmount it.
func (mt *mountTable) drop(m *mount) {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	m.refs--
	if m.refs > 0 {
		return
	}
	delete(mt.m, m.id)
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
}

// handleOf returns the file handle of the open descriptor fd, or nil where its
// file system has none that can be opened.
func (f *FS) handleOf(fd int, m *mount) (*handleBytes, unix.Errno) {
	if !m.handles.Load() {
		return nil, 0
	}
	return makeHandle(fd)
}

func makeHandle(fd int) (*handleBytes, unix.Errno) {
	var buf handleBuf
	if _, e := sysNameToHandleAt(fd, emptyPath, &buf, unix.AT_EMPTY_PATH); e != 0 {
		if e == unix.EOPNOTSUPP || e == unix.EOVERFLOW {
			return nil, 0
		}
		return nil, e
	}
	if buf.bytes > uint32(len(buf.data)) {
		return nil, unix.EIO
	}
	return &handleBytes{typ: buf.typ, data: string(buf.data[:buf.bytes])}, 0
}

// handlesWork makes a handle of fd and opens it again, for there are file
// systems that make handles and cannot open them, and processes that may not.
func handlesWork(m *mount, fd int) bool {
	h, e := makeHandle(fd)
	if e != 0 || h == nil {
		return false
	}
	got, e := m.open(h, unix.O_PATH)
	if e != 0 {
		return false
	}
	defer unix.Close(got)
	var a, b unix.Statx_t
	return sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, unix.STATX_INO, &a) == 0 &&
		sysStatx(got, emptyPath, unix.AT_EMPTY_PATH, unix.STATX_INO, &b) == 0 && a.Ino == b.Ino
}

// isSlow tells file systems whose every operation may wait for a network or for
// another process.
func isSlow(magic int64) bool {
	switch magic {
	case unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.V9FS_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return true
	}
	return false
}
