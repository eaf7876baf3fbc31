package vfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

const maxOffset = 1<<63 - 1

func (f *file) readable() bool { return f.o.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (f *file) writable() bool { return f.o.flags&unix.O_ACCMODE != unix.O_RDONLY }

func (f *file) Read(p []byte) (int, error) {
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	n, err := f.read(p, f.o.offset)
	f.o.offset += int64(n)
	return n, err
}

func (f *file) Pread(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	return f.read(p, off)
}

func (f *file) read(p []byte, off int64) (int, error) {
	switch {
	case !f.readable():
		return 0, unix.EBADF
	case f.o.node.isDir():
		return 0, unix.EISDIR
	}
	done := 0
	for done < len(p) && off <= maxOffset-int64(done) {
		step := min(len(p)-done, f.v.t.c.MaxData())
		n, err := f.v.t.c.Read(f.v.caller(), f.o.node.id, f.o.fh, p[done:done+step], off+int64(done), uint32(f.o.flags&^notSent))
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		done += n
		if n < step {
			break
		}
	}
	return done, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	n, at, err := f.write(p, f.o.offset)
	if n > 0 {
		f.o.offset = at + int64(n)
	}
	return n, err
}

func (f *file) Pwrite(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	n, _, err := f.write(p, off)
	return n, err
}

// write is fuse_file_write_iter; at is where the first byte went.
func (f *file) write(p []byte, off int64) (done int, at int64, err error) {
	if !f.writable() {
		return 0, 0, unix.EBADF
	}
	if len(p) == 0 {
		return 0, off, nil
	}
	mu := f.v.t.inode(f.o.node.id)
	mu.Lock()
	defer mu.Unlock()
	if f.o.flags&unix.O_APPEND != 0 {
		a, err := f.v.getattr(f.o.node.id)
		if err != nil {
			return 0, 0, err
		}
		off = int64(a.Size)
	}
	if off > maxOffset-int64(len(p)) {
		if off >= maxOffset {
			return 0, 0, unix.EFBIG
		}
		p = p[:maxOffset-off]
	}
	if err := f.v.removePrivileges(f.o.node.id); err != nil {
		return 0, 0, err
	}
	flags := uint32(0)
	if f.v.killprivV2() && !f.v.root() {
		flags = fuse.WRITE_KILL_SUIDGID
	}
	for done < len(p) {
		n, err := f.v.t.c.Write(f.v.caller(), f.o.node.id, f.o.fh, p[done:], off+int64(done), uint32(f.o.flags&^notSent), flags)
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			if done > 0 {
				break
			}
			return 0, 0, err
		}
		done += n
	}
	return done, off, nil
}

func (f *file) Lseek(off int64, whence int) (int64, error) {
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	var at int64
	switch whence {
	case unix.SEEK_SET:
		at = off
	case unix.SEEK_CUR:
		at = f.o.offset + off
	case unix.SEEK_END:
		a, err := f.v.getattr(f.o.node.id)
		if err != nil {
			return 0, err
		}
		at = int64(a.Size) + off
	case unix.SEEK_DATA, unix.SEEK_HOLE:
		if f.o.node.isDir() {
			return 0, unix.EINVAL
		}
		n, err := f.v.t.c.Lseek(f.v.caller(), f.o.node.id, f.o.fh, off, uint32(whence))
		if err != nil {
			return 0, err
		}
		at = n
	default:
		return 0, unix.EINVAL
	}
	if at < 0 {
		return 0, unix.EINVAL
	}
	if at != f.o.offset {
		f.o.dir.reset()
	}
	f.o.offset = at
	return at, nil
}

func (f *file) Ftruncate(size int64) error {
	if size < 0 || !f.writable() || !f.o.node.isReg() {
		return unix.EINVAL
	}
	return f.v.setSize(f.o.node.id, &f.o.fh, size)
}

// Fallocate is vfs_fallocate and fuse_file_fallocate.
func (f *file) Fallocate(mode uint32, off, n int64) error {
	const punch, keep, zero = unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE
	switch {
	case off < 0 || n <= 0:
		return unix.EINVAL
	case mode&^(unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_INSERT_RANGE|unix.FALLOC_FL_UNSHARE_RANGE|punch|keep|zero) != 0,
		mode&punch != 0 && mode&zero != 0, mode&punch != 0 && mode&keep == 0:
		return unix.EOPNOTSUPP
	case !f.writable():
		return unix.EBADF
	case f.o.node.isDir():
		return unix.EISDIR
	case !f.o.node.isReg():
		return unix.ENODEV
	case off > maxOffset-n:
		return unix.EFBIG
	case mode&^(punch|keep|zero) != 0:
		return unix.EOPNOTSUPP
	}
	mu := f.v.t.inode(f.o.node.id)
	mu.Lock()
	defer mu.Unlock()
	if err := f.v.removePrivileges(f.o.node.id); err != nil {
		return err
	}
	err := f.v.t.c.Fallocate(f.v.caller(), f.o.node.id, f.o.fh, mode, off, n)
	return unsupported(err)
}

// CopyTo is vfs_copy_file_range and fuse_copy_file_range.
func (f *file) CopyTo(dst behaviour.File, srcOff, dstOff *int64, n int) (int, error) {
	d := dst.(*file)
	for _, x := range []*file{f, d} {
		if x.o.node.isDir() {
			return 0, unix.EISDIR
		}
		if !x.o.node.isReg() {
			return 0, unix.EINVAL
		}
	}
	if !f.readable() || !d.writable() || d.o.flags&unix.O_APPEND != 0 {
		return 0, unix.EBADF
	}
	from, to := offsetOf(f, srcOff), offsetOf(d, dstOff)
	if from < 0 || to < 0 {
		return 0, unix.EINVAL
	}
	a, err := f.v.getattr(f.o.node.id)
	if err != nil {
		return 0, err
	}
	if to > maxOffset-int64(n) {
		return 0, unix.EFBIG
	}
	if from >= int64(a.Size) {
		n = 0
	} else {
		n = int(min(int64(n), int64(a.Size)-from))
	}
	if f.o.node.id == d.o.node.id && from < to+int64(n) && to < from+int64(n) {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return 0, nil
	}
	done, err := f.copyRange(d, from, to, n)
	if err != nil {
		return 0, err
	}
	moveOffset(f, srcOff, done)
	moveOffset(d, dstOff, done)
	return done, nil
}

func offsetOf(f *file, off *int64) int64 {
	if off != nil {
		return *off
	}
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	return f.o.offset
}

func moveOffset(f *file, off *int64, n int) {
	if off != nil {
		*off += int64(n)
		return
	}
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	f.o.offset += int64(n)
}

// copyRange asks the daemon, and copies itself if that can't.
func (f *file) copyRange(d *file, from, to int64, n int) (int, error) {
	t := f.v.t
	if err := d.v.removePrivileges(d.o.node.id); err != nil {
		return 0, err
	}
	mu := t.inode(d.o.node.id)
	for !t.noCopy.Load() {
		long := !t.noLong.Load()
		size := n
		if !long {
			size = min(n, 1<<32-4096)
		}
		mu.Lock()
		done, err := t.c.CopyFileRange(f.v.caller(), f.o.node.id, f.o.fh, from, d.o.node.id, d.o.fh, to, uint64(size), long)
		mu.Unlock()
		switch {
		case err == unix.ENOSYS && long:
			t.noLong.Store(true)
			continue
		case err == unix.ENOSYS:
			t.noCopy.Store(true)
		case err == unix.EOPNOTSUPP || err == unix.EXDEV:
		default:
			return int(done), err
		}
		break
	}
	buf := make([]byte, min(n, 1<<20))
	got, err := f.read(buf, from)
	if err != nil {
		return 0, err
	}
	done, _, err := d.write(buf[:got], to)
	return done, err
}

func (f *file) Fsync() error { return f.fsync(false) }

func (f *file) Fdatasync() error { return f.fsync(true) }

func (f *file) fsync(data bool) error {
	err := f.v.t.c.Fsync(f.v.caller(), f.o.node.id, f.o.fh, data, f.o.node.isDir())
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

func (f *file) Fstat() (unix.Statx_t, error) {
	if f.o.node.isDir() {
		return f.v.statx(f.o.node.id, nil)
	}
	return f.v.statx(f.o.node.id, &f.o.fh)
}

func (f *file) Fchmod(mode uint32) error { return f.v.chmod(f.o.node.id, mode) }

func (f *file) Fchown(uid, gid int) error { return f.v.chown(f.o.node.id, uid, gid) }

func (f *file) Futimens(ts *[2]unix.Timespec) error {
	if ts != nil && ts[0].Nsec == unix.UTIME_OMIT && ts[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	return f.v.utimes(f.o.node.id, ts)
}

func (f *file) Fgetxattr(name string, dst []byte) (int, error) {
	return f.v.getxattr(f.o.node.id, name, dst)
}

func (f *file) Fsetxattr(name string, value []byte, flags int) error {
	return f.v.setxattr(f.o.node.id, name, value, flags)
}

func (f *file) Flistxattr(dst []byte) (int, error) { return f.v.listxattr(f.o.node.id, dst) }

func (f *file) Fremovexattr(name string) error { return f.v.removexattr(f.o.node.id, name) }

func (f *file) Mmap(off int64, length, prot, flags int) (behaviour.Mapping, error) {
	return nil, unix.ENODEV
}
