package hostfs

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

type file struct {
	fd int
	as caller
}

var _ behaviour.File = (*file)(nil)

func (h *file) As(c behaviour.Cred) behaviour.File {
	g := *h
	g.as.cred = c
	return &g
}

func (h *file) Close() error { return h.as.do(func() error { return unix.Close(h.fd) }) }

func (h *file) Read(p []byte) (int, error) {
	return h.as.count(func() (int, error) { return unix.Read(h.fd, p) })
}

func (h *file) Write(p []byte) (int, error) {
	return h.as.count(func() (int, error) { return unix.Write(h.fd, p) })
}

func (h *file) Pread(p []byte, off int64) (int, error) {
	return h.as.count(func() (int, error) { return unix.Pread(h.fd, p, off) })
}

func (h *file) Pwrite(p []byte, off int64) (int, error) {
	return h.as.count(func() (int, error) { return unix.Pwrite(h.fd, p, off) })
}

func (h *file) Lseek(off int64, whence int) (pos int64, err error) {
	err = h.as.do(func() (err error) {
		pos, err = unix.Seek(h.fd, off, whence)
		return err
	})
	return pos, err
}

func (h *file) Getdents(size int) ([]behaviour.Dirent, error) {
	b := make([]byte, size)
	n, err := h.as.count(func() (int, error) { return unix.Getdents(h.fd, b) })
	if err != nil {
		return nil, err
	}
	return parseDirents(b[:n]), nil
}

// parseDirents reads a row of struct linux_dirent64.
func parseDirents(b []byte) (ents []behaviour.Dirent) {
	const nameOff = 19
	for len(b) > nameOff {
		reclen := int(binary.NativeEndian.Uint16(b[16:]))
		name, _, _ := bytes.Cut(b[nameOff:reclen], []byte{0})
		ents = append(ents, behaviour.Dirent{
			Ino:  binary.NativeEndian.Uint64(b),
			Off:  int64(binary.NativeEndian.Uint64(b[8:])),
			Type: b[18],
			Name: string(name),
		})
		b = b[reclen:]
	}
	return ents
}

func (h *file) Ftruncate(size int64) error {
	return h.as.do(func() error { return unix.Ftruncate(h.fd, size) })
}

func (h *file) Fallocate(mode uint32, off, n int64) error {
	return h.as.do(func() error { return unix.Fallocate(h.fd, mode, off, n) })
}

func (h *file) CopyTo(dst behaviour.File, srcOff, dstOff *int64, n int) (int, error) {
	d, ok := dst.(*file)
	if !ok {
		return 0, unix.EXDEV
	}
	return h.as.count(func() (int, error) { return unix.CopyFileRange(h.fd, srcOff, d.fd, dstOff, n, 0) })
}

func (h *file) Fsync() error { return h.as.do(func() error { return unix.Fsync(h.fd) }) }

func (h *file) Fdatasync() error { return h.as.do(func() error { return unix.Fdatasync(h.fd) }) }

func (h *file) Fstat() (st unix.Statx_t, err error) {
	err = h.as.do(func() error { return unix.Statx(h.fd, "", unix.AT_EMPTY_PATH, statxMask, &st) })
	return st, err
}

func (h *file) Fchmod(mode uint32) error {
	return h.as.do(func() error { return unix.Fchmod(h.fd, mode) })
}

func (h *file) Fchown(uid, gid int) error {
	return h.as.do(func() error { return unix.Fchown(h.fd, uid, gid) })
}

func (h *file) Futimens(ts *[2]unix.Timespec) error {
	return h.as.do(func() error { return futimens(h.fd, ts) })
}

func (h *file) Flock(how int) error {
	return h.as.do(func() error {
		for {
			// The Go runtime interrupts long calls of its own threads.
			if err := unix.Flock(h.fd, how); err != unix.EINTR {
				return err
			}
		}
	})
}

func (h *file) Fcntl(cmd int, lk *unix.Flock_t) error {
	return h.as.do(func() error {
		for {
			if err := unix.FcntlFlock(uintptr(h.fd), cmd, lk); err != unix.EINTR {
				return err
			}
		}
	})
}

func (h *file) GetFlags() (flags uint32, err error) {
	err = h.as.do(func() (err error) {
		flags, err = unix.IoctlGetUint32(h.fd, unix.FS_IOC_GETFLAGS)
		return err
	})
	return flags, err
}

func (h *file) SetFlags(flags uint32) error {
	return h.as.do(func() error { return unix.IoctlSetPointerInt(h.fd, unix.FS_IOC_SETFLAGS, int(flags)) })
}

func (h *file) GetFsxattr() (x behaviour.Fsxattr, err error) {
	err = h.as.do(func() error { return ioctlFsxattr(h.fd, false, &x) })
	return x, err
}

func (h *file) SetFsxattr(x behaviour.Fsxattr) error {
	return h.as.do(func() error { return ioctlFsxattr(h.fd, true, &x) })
}

func (h *file) Mmap(off int64, length, prot, flags int) (behaviour.Mapping, error) {
	var m mapping
	err := h.as.do(func() (err error) {
		m, err = mmap(h.fd, off, length, prot, flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

type mapping []byte

func (m mapping) Bytes() []byte { return m }
func (m mapping) Msync() error  { return unix.Msync(m, unix.MS_SYNC) }
func (m mapping) Close() error  { return munmap(m) }
