package vfs

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

// Flags of open(2) that the guest's kernel keeps to itself.
const notSent = unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_CLOEXEC

func (v *view) Open(path string, flags int, mode uint32) (behaviour.File, error) {
	if flags&unix.O_ACCMODE == unix.O_ACCMODE {
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	var f *file
	err := retryStale(func() (err error) {
		f, err = v.openOnce(path, flags, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (v *view) openOnce(path string, flags int, mode uint32) (*file, error) {
	switch {
	case flags&unix.O_TMPFILE == unix.O_TMPFILE:
		if flags&unix.O_ACCMODE == unix.O_RDONLY {
			return nil, unix.EINVAL
		}
		return v.openTmpfile(path, flags, mode)
	case flags&unix.O_CREAT == 0:
		return v.openExisting(path, flags)
	case flags&unix.O_DIRECTORY != 0:
		return nil, unix.EINVAL
	}
	return v.openCreate(path, flags, mode)
}

func (v *view) openExisting(path string, flags int) (*file, error) {
	w := v.walk()
	defer w.close()
	if err := w.to(path, flags&unix.O_NOFOLLOW == 0); err != nil {
		return nil, err
	}
	return v.open(w, flags)
}

// open is do_open and fuse_open of the last node of a walk.
func (v *view) open(w *walk, flags int) (*file, error) {
	n := w.top()
	if flags&unix.O_DIRECTORY != 0 && !n.isDir() {
		return nil, unix.ENOTDIR
	}
	if err := v.mayOpen(n, flags); err != nil {
		return nil, err
	}
	sent := uint32(flags &^ notSent)
	truncate := flags&unix.O_TRUNC != 0 && n.isReg()
	openFlags := uint32(0)
	if v.t.c.Flags&fuse.CAP_ATOMIC_O_TRUNC == 0 {
		sent &^= unix.O_TRUNC
	} else if truncate && v.killprivV2() && !v.root() {
		openFlags = fuse.OPEN_KILL_SUIDGID
	}
	out, err := v.t.c.Open(v.caller(), n.id, sent, openFlags, n.isDir())
	if err != nil && err != unix.ENOSYS {
		return nil, err
	}
	f := v.newFile(w.keep(), out, flags)
	f.o.noOpen = err == unix.ENOSYS
	if truncate && v.t.c.Flags&fuse.CAP_ATOMIC_O_TRUNC == 0 {
		if err := v.setSize(f.o.node.id, nil, 0); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func (v *view) mayOpen(n *node, flags int) error {
	acc := flags & unix.O_ACCMODE
	var mask uint32
	if acc != unix.O_WRONLY {
		mask |= unix.R_OK
	}
	if acc != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		mask |= unix.W_OK
	}
	switch n.attr.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return unix.ELOOP
	case unix.S_IFDIR:
		if mask&unix.W_OK != 0 {
			return unix.EISDIR
		}
	case unix.S_IFSOCK, unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		if err := v.permission(n, mask); err != nil {
			return err
		}
		return unix.ENXIO
	}
	if err := v.permission(n, mask); err != nil {
		return err
	}
	if flags&unix.O_NOATIME != 0 && !v.owner(n) {
		return unix.EPERM
	}
	return nil
}

// openCreate is lookup_open for O_CREAT.
func (v *view) openCreate(path string, flags int, mode uint32) (*file, error) {
	w := v.walk()
	defer w.close()
	l, err := w.toParent(path)
	for {
		if err != nil {
			return nil, err
		}
		if l.slash || l.special() {
			return nil, unix.EISDIR
		}
		f, err := v.findOrCreate(w, l.name, flags, mode)
		if f != nil || err != nil {
			return f, err
		}
		n := w.top()
		switch {
		case flags&unix.O_EXCL != 0:
			return nil, unix.EEXIST
		case n.isDir():
			return nil, unix.EISDIR
		case !n.isLink():
			return v.open(w, flags&^unix.O_CREAT)
		case flags&unix.O_NOFOLLOW != 0:
			return nil, unix.ELOOP
		}
		target, err := w.follow()
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			w.toRoot()
		}
		if l, err = w.run(target, false, true); err != nil {
			return nil, err
		}
	}
}

// findOrCreate pushes the node of that name, or makes and opens it.
func (v *view) findOrCreate(w *walk, name string, flags int, mode uint32) (*file, error) {
	mu := v.t.dir(w.top().id)
	mu.Lock()
	defer mu.Unlock()
	if err := w.stepLocked(name); err != unix.ENOENT {
		return nil, err
	}
	return v.create1(w.top(), name, flags, mode)
}

func (v *view) create1(dir *node, name string, flags int, mode uint32) (*file, error) {
	if err := v.mayCreate(dir); err != nil {
		return nil, err
	}
	mode = v.newMode(dir, unix.S_IFREG|mode&0o7777)
	sent := uint32(flags &^ (unix.O_NOCTTY | unix.O_CLOEXEC))
	openFlags := uint32(0)
	if flags&unix.O_TRUNC != 0 && v.killprivV2() && !v.root() {
		openFlags = fuse.OPEN_KILL_SUIDGID
	}
	out, err := v.t.c.Create(v.creator(), dir.id, name, sent, mode, v.umask, openFlags, v.extensions(dir))
	if err != nil {
		return nil, err
	}
	return v.newFile(node{id: out.NodeId, attr: out.Attr, owned: true}, out.OpenOut, flags), nil
}

func (v *view) openTmpfile(path string, flags int, mode uint32) (*file, error) {
	w := v.walk()
	defer w.close()
	if err := w.to(path, flags&unix.O_NOFOLLOW == 0); err != nil {
		return nil, err
	}
	dir := w.top()
	if !dir.isDir() {
		return nil, unix.ENOTDIR
	}
	if err := v.permission(dir, unix.W_OK|unix.X_OK); err != nil {
		return nil, err
	}
	if v.t.noTmp.Load() {
		return nil, unix.EOPNOTSUPP
	}
	mode = v.newMode(dir, unix.S_IFREG|mode&0o7777)
	out, err := v.t.c.Tmpfile(v.creator(), dir.id, uint32(flags&^(unix.O_NOCTTY|unix.O_CLOEXEC)), mode, v.umask, v.extensions(dir))
	if err == unix.ENOSYS {
		v.t.noTmp.Store(true)
		return nil, unix.EOPNOTSUPP
	}
	if err != nil {
		return nil, err
	}
	f := v.newFile(node{id: out.NodeId, attr: out.Attr, owned: true}, out.OpenOut, flags)
	f.o.tmp = true
	return f, nil
}

// openFile is an open file description.
type openFile struct {
	node   node
	fh     uint64
	flags  int
	owner  uint64 // of flock and OFD locks
	noOpen bool   // the daemon needs no OPEN, and gets no RELEASE
	tmp    bool   // by O_TMPFILE

	pos    sync.Mutex // held while the position is in use
	offset int64
	dir    dirStream

	closed   atomic.Bool
	lockMu   sync.Mutex
	flocked  bool
	ofdLocks bool
}

// file is a behaviour.File.
type file struct {
	v *view
	o *openFile
}

var _ behaviour.File = (*file)(nil)

func (v *view) newFile(n node, out fuse.OpenOut, flags int) *file {
	return &file{v, &openFile{node: n, fh: out.Fh, flags: flags, owner: 1<<32 + v.t.handles.Add(1)}}
}

func (f *file) As(c behaviour.Cred) behaviour.File {
	v := *f.v
	v.cred = c
	return &file{&v, f.o}
}

// Close is close(2) of the only descriptor: FLUSH, whose error is seen, and RELEASE.
func (f *file) Close() error {
	c, o := f.v.t.c, f.o
	if o.closed.Swap(true) {
		return unix.EBADF
	}
	defer f.v.t.forget(o.node)
	var err error
	if !o.node.isDir() {
		if err = c.Flush(f.v.caller(), o.node.id, o.fh, processID); err == unix.ENOSYS {
			err = nil
		}
	}
	if o.ofdLocks {
		c.Setlk(f.v.caller(), o.node.id, o.fh, o.owner, fuse.FileLock{End: maxOffset, Typ: unix.F_UNLCK, Pid: processID}, 0, false)
	}
	if o.noOpen {
		return err
	}
	releaseFlags, owner := uint32(0), uint64(0)
	if o.flocked {
		const flockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
		releaseFlags, owner = flockUnlock, o.owner
	}
	c.CloseHandle(o.node.id, o.fh, uint32(o.flags&^notSent), releaseFlags, owner, o.node.isDir())
	return err
}

func (v *view) Linkfd(bf behaviour.File, newpath string) error {
	f := bf.(*file)
	n := node{id: f.o.node.id}
	if err := v.refresh(&n); err != nil {
		return err
	}
	if n.attr.Nlink == 0 && (!f.o.tmp || f.o.flags&unix.O_EXCL != 0) {
		return unix.ENOENT
	}
	return v.link(&n, newpath)
}
