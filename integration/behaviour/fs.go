package behaviour

import "golang.org/x/sys/unix"

// Cred is a caller: the ids that the kernel would check and that new files get.
// A Cred with UID 0 has all capabilities, any other has none.
type Cred struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups, without GID
}

// FS is a tree of files as a process sees it: every method is the system call of its name, follows symbolic
// links where the system call does, and fails with a unix.Errno, nothing wrapped around it.
//
// Paths are relative to the root of the view and go through the full rules of path_resolution(7): an empty path
// is ENOENT, NAME_MAX and PATH_MAX (4096 with the NUL) and the limit of 40 symbolic links hold, trailing slashes
// count. The suite uses no absolute path, no absolute link target and no ".." above the root.
//
// All methods may be called by any number of goroutines.
type FS interface {
	// As is the same tree seen by another caller; a new FS runs as root. Umask is the same tree with another
	// file mode creation mask; a new FS has mask 0. Both keep what was set before.
	As(c Cred) FS
	Umask(mask uint32) FS

	// Sub is the tree below the directory path, as a directory descriptor is to openat(2): it stays that
	// directory when it is renamed or removed. It keeps caller and mask. Close releases what Sub took;
	// it is not called for the views that As and Umask made, nor are those used after it.
	Sub(path string) (FS, error)
	Close() error

	// Lacks says why the tree or this implementation has no such capability, or "" if it has it.
	Lacks(c Capability) string

	// Open is open(2) with all flags but O_PATH. mode counts for O_CREAT and O_TMPFILE.
	Open(path string, flags int, mode uint32) (File, error)
	Mkdir(path string, mode uint32) error
	Mknod(path string, mode uint32, dev uint64) error
	Symlink(target, path string) error
	// Link is linkat(2) with flags 0: oldpath is not followed.
	Link(oldpath, newpath string) error
	// Linkfd gives an open file a name, as linkat(2) with AT_SYMLINK_FOLLOW on /proc/self/fd does.
	Linkfd(f File, newpath string) error
	Unlink(path string) error
	Rmdir(path string) error
	// Rename is renameat2(2).
	Rename(oldpath, newpath string, flags uint) error
	Readlink(path string) (string, error)

	// Stat and Lstat are statx(2) with STATX_BASIC_STATS|STATX_BTIME.
	Stat(path string) (unix.Statx_t, error)
	Lstat(path string) (unix.Statx_t, error)
	// Mode is the mode by statx(2) with STATX_MODE alone, which a client may answer from what it remembers.
	Mode(path string) (uint32, error)
	Statfs(path string) (unix.Statfs_t, error)
	// Access is faccessat2(2) with AT_EACCESS.
	Access(path string, mode uint32) error
	Chmod(path string, mode uint32) error
	// Chown and Lchown leave alone an id that is -1.
	Chown(path string, uid, gid int) error
	Lchown(path string, uid, gid int) error
	// Utimens is utimensat(2); flags is 0 or AT_SYMLINK_NOFOLLOW. A nil ts means both now, which needs
	// less permission than any other value.
	Utimens(path string, ts *[2]unix.Timespec, flags int) error
	Truncate(path string, size int64) error

	// The calls on extended attributes return the size, and fill dst if it is not empty (else only ask
	// for the size). Listxattr gives NUL-terminated names. The L forms do not follow a last link.
	Getxattr(path, name string, dst []byte) (int, error)
	Lgetxattr(path, name string, dst []byte) (int, error)
	Setxattr(path, name string, value []byte, flags int) error
	Lsetxattr(path, name string, value []byte, flags int) error
	Listxattr(path string, dst []byte) (int, error)
	Llistxattr(path string, dst []byte) (int, error)
	Removexattr(path, name string) error
	Lremovexattr(path, name string) error

	// Syncfs is syncfs(2) on the root of the view.
	Syncfs() error
}

// File is an open file description and one descriptor for it. Errors are as those of FS.
type File interface {
	// As is the same open file used by another caller. Only one of the two is closed.
	As(c Cred) File
	Close() error

	// Read and Write use and move the file position; they return 0, nil at the end of the file.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Pread(p []byte, off int64) (int, error)
	Pwrite(p []byte, off int64) (int, error)
	// Lseek is lseek(2), on a directory too.
	Lseek(off int64, whence int) (int64, error)
	// Getdents is one getdents64(2) into a buffer of size bytes: no entries and no error mean the end.
	Getdents(size int) ([]Dirent, error)

	Ftruncate(size int64) error
	Fallocate(mode uint32, off, n int64) error
	// CopyTo is copy_file_range(2) with flags 0. A nil offset stands for the file position.
	CopyTo(dst File, srcOff, dstOff *int64, n int) (int, error)
	Fsync() error
	Fdatasync() error

	Fstat() (unix.Statx_t, error)
	Fchmod(mode uint32) error
	Fchown(uid, gid int) error
	Futimens(ts *[2]unix.Timespec) error
	Fgetxattr(name string, dst []byte) (int, error)
	Fsetxattr(name string, value []byte, flags int) error
	Flistxattr(dst []byte) (int, error)
	Fremovexattr(name string) error

	// Flock is flock(2): LOCK_SH, LOCK_EX, LOCK_UN, with LOCK_NB or without.
	Flock(how int) error
	// Fcntl is fcntl(2) with a lock: F_GETLK, F_SETLK, F_SETLKW and their F_OFD_ forms. All files of one
	// implementation belong to one process.
	Fcntl(cmd int, lk *unix.Flock_t) error

	// FS_IOC_GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR.
	GetFlags() (uint32, error)
	SetFlags(flags uint32) error
	GetFsxattr() (Fsxattr, error)
	SetFsxattr(x Fsxattr) error

	// Mmap is mmap(2).
	Mmap(off int64, length, prot, flags int) (Mapping, error)
}

// Mapping is a piece of mapped file. The suite touches no page that lies wholly past the end of the file.
type Mapping interface {
	Bytes() []byte
	// Msync is msync(2) with MS_SYNC over the whole mapping.
	Msync() error
	Close() error
}

// Dirent is one entry of a directory.
type Dirent struct {
	Ino  uint64
	Off  int64 // where Lseek(Off, SEEK_SET) goes on after this entry
	Type uint8 // DT_*
	Name string
}

// Fsxattr is struct fsxattr of linux/fs.h.
type Fsxattr struct {
	Xflags, Extsize, Nextents, Projid, Cowextsize uint32
	_                                             [8]byte
}
