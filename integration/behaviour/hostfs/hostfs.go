package hostfs

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

// FS is a tree of files below one directory.
type FS struct {
	dir   int // of New to read, of Sub O_PATH
	owned bool
	as    caller
	lacks map[behaviour.Capability]string
}

var _ behaviour.FS = (*FS)(nil)

// New opens the directory dir, which must be empty or hold nothing that matters, and finds out by trying what the
// tree can do. If the process may not change its ids, every caller is the process.
func New(dir string) (*FS, error) {
	unix.Umask(0)
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := &FS{dir: fd, owned: true}
	f.lacks, err = probe(f)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return f, nil
}

// Close closes the directory. Open files stay open.
func (f *FS) Close() error {
	if !f.owned {
		return nil
	}
	return unix.Close(f.dir)
}

// As implements behaviour.FS.
func (f *FS) As(c behaviour.Cred) behaviour.FS {
	g := *f
	g.as.cred, g.owned = c, false
	return &g
}

// Umask implements behaviour.FS.
func (f *FS) Umask(mask uint32) behaviour.FS {
	g := *f
	g.as.umask, g.owned = mask, false
	return &g
}

// Sub implements behaviour.FS. It opens nothing for reading: a file system with servers behind it gets no open
// directory to hold on to, as with a working directory.
func (f *FS) Sub(path string) (behaviour.FS, error) {
	g := *f
	g.owned = true
	err := f.as.do(func() (err error) {
		g.dir, err = unix.Openat(f.dir, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &g, nil
}

// Lacks implements behaviour.FS.
func (f *FS) Lacks(c behaviour.Capability) string { return f.lacks[c] }

// Open implements behaviour.FS.
func (f *FS) Open(path string, flags int, mode uint32) (behaviour.File, error) {
	h := &file{as: f.as}
	err := f.as.do(func() (err error) {
		h.fd, err = unix.Openat(f.dir, path, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Mkdir implements behaviour.FS.
func (f *FS) Mkdir(path string, mode uint32) error {
	return f.as.do(func() error { return unix.Mkdirat(f.dir, path, mode) })
}

// Mknod implements behaviour.FS.
func (f *FS) Mknod(path string, mode uint32, dev uint64) error {
	return f.as.do(func() error { return unix.Mknodat(f.dir, path, mode, int(dev)) })
}

// Symlink implements behaviour.FS.
func (f *FS) Symlink(target, path string) error {
	return f.as.do(func() error { return unix.Symlinkat(target, f.dir, path) })
}

// Link implements behaviour.FS.
func (f *FS) Link(oldpath, newpath string) error {
	return f.as.do(func() error { return unix.Linkat(f.dir, oldpath, f.dir, newpath, 0) })
}

// Linkfd implements behaviour.FS.
func (f *FS) Linkfd(h behaviour.File, newpath string) error {
	hf, ok := h.(*file)
	if !ok {
		return unix.EXDEV
	}
	return f.as.do(func() error {
		return unix.Linkat(unix.AT_FDCWD, fdPath(hf.fd), f.dir, newpath, unix.AT_SYMLINK_FOLLOW)
	})
}

// Unlink implements behaviour.FS.
func (f *FS) Unlink(path string) error {
	return f.as.do(func() error { return unix.Unlinkat(f.dir, path, 0) })
}

// Rmdir implements behaviour.FS.
func (f *FS) Rmdir(path string) error {
	return f.as.do(func() error { return unix.Unlinkat(f.dir, path, unix.AT_REMOVEDIR) })
}

// Rename implements behaviour.FS.
func (f *FS) Rename(oldpath, newpath string, flags uint) error {
	return f.as.do(func() error { return unix.Renameat2(f.dir, oldpath, f.dir, newpath, flags) })
}

// Readlink implements behaviour.FS.
func (f *FS) Readlink(path string) (string, error) {
	b := make([]byte, unix.PathMax+1)
	var n int
	err := f.as.do(func() (err error) {
		n, err = unix.Readlinkat(f.dir, path, b)
		return err
	})
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// Stat implements behaviour.FS.
func (f *FS) Stat(path string) (st unix.Statx_t, err error) {
	err = f.as.do(func() error { return unix.Statx(f.dir, path, 0, statxMask, &st) })
	return st, err
}

// Lstat implements behaviour.FS.
func (f *FS) Lstat(path string) (st unix.Statx_t, err error) {
	err = f.as.do(func() error { return unix.Statx(f.dir, path, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st) })
	return st, err
}

// Mode implements behaviour.FS.
func (f *FS) Mode(path string) (uint32, error) {
	var st unix.Statx_t
	err := f.as.do(func() error { return unix.Statx(f.dir, path, 0, unix.STATX_MODE, &st) })
	return uint32(st.Mode), err
}

// Statfs implements behaviour.FS.
func (f *FS) Statfs(path string) (st unix.Statfs_t, err error) {
	err = f.as.do(func() error { return unix.Statfs(f.path(path), &st) })
	return st, err
}

// Access implements behaviour.FS.
func (f *FS) Access(path string, mode uint32) error {
	return f.as.do(func() error { return unix.Faccessat2(f.dir, path, mode, unix.AT_EACCESS) })
}

// Chmod implements behaviour.FS.
func (f *FS) Chmod(path string, mode uint32) error {
	return f.as.do(func() error { return unix.Fchmodat(f.dir, path, mode, 0) })
}

// Chown implements behaviour.FS.
func (f *FS) Chown(path string, uid, gid int) error {
	return f.as.do(func() error { return unix.Fchownat(f.dir, path, uid, gid, 0) })
}

// Lchown implements behaviour.FS.
func (f *FS) Lchown(path string, uid, gid int) error {
	return f.as.do(func() error { return unix.Fchownat(f.dir, path, uid, gid, unix.AT_SYMLINK_NOFOLLOW) })
}

// Utimens implements behaviour.FS.
func (f *FS) Utimens(path string, ts *[2]unix.Timespec, flags int) error {
	return f.as.do(func() error { return utimensat(f.dir, path, ts, flags) })
}

// Truncate implements behaviour.FS.
func (f *FS) Truncate(path string, size int64) error {
	return f.as.do(func() error { return unix.Truncate(f.path(path), size) })
}

// Syncfs implements behaviour.FS.
func (f *FS) Syncfs() error {
	return f.as.do(func() error {
		fd, err := unix.Openat(f.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Syncfs(fd)
	})
}

// path serves the system calls that take no directory descriptor. An empty path must stay one.
func (f *FS) path(path string) string {
	if path == "" {
		return ""
	}
	return fdPath(f.dir) + "/" + path
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
