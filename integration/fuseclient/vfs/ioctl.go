package vfs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

const (
	fsxattrSize  = 28
	fsGetFsxattr = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetFsxattr = 0x401c5820 // FS_IOC_FSSETXATTR
	fsGuarded    = 0x20 | 0x10
	fsxGuarded   = 0x8 | 0x10 // FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND
)

// ioctl is fuse_priv_ioctl: on a handle of its own.
func (f *file) ioctl(cmd uint32, in []byte, outSize int) ([]byte, error) {
	n := &f.o.node
	if !n.isReg() && !n.isDir() {
		return nil, unix.ENOTTY
	}
	c := f.v.t.c
	open, err := c.Open(f.v.caller(), n.id, unix.O_RDONLY, 0, n.isDir())
	if err != nil && err != unix.ENOSYS {
		return nil, err
	}
	if err == nil {
		defer c.CloseHandle(n.id, open.Fh, unix.O_RDONLY, 0, 0, n.isDir())
	}
	flags := uint32(0)
	if n.isDir() {
		flags = fuse.IOCTL_DIR
	}
	result, out, err := c.Ioctl(f.v.caller(), n.id, open.Fh, flags, cmd, 0, in, outSize)
	switch {
	case err == unix.ENOSYS:
		return nil, unix.ENOTTY
	case err != nil:
		return nil, err
	case result < 0:
		return nil, unix.Errno(-result)
	case len(out) < outSize:
		out = append(out, make([]byte, outSize-len(out))...)
	}
	return out, nil
}

func (f *file) GetFlags() (uint32, error) {
	out, err := f.ioctl(unix.FS_IOC_GETFLAGS, nil, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(out), nil
}

// SetFlags is vfs_fileattr_set: the owner may, but for two flags only root.
func (f *file) SetFlags(flags uint32) error {
	if err := f.mayChangeFlags(); err != nil {
		return err
	}
	old, err := f.GetFlags()
	if err != nil {
		return err
	}
	if (old^flags)&fsGuarded != 0 && !f.v.root() {
		return unix.EPERM
	}
	_, err = f.ioctl(unix.FS_IOC_SETFLAGS, binary.LittleEndian.AppendUint32(nil, flags), 0)
	return err
}

func (f *file) mayChangeFlags() error {
	n := node{id: f.o.node.id}
	if err := f.v.refresh(&n); err != nil {
		return err
	}
	if !f.v.owner(&n) {
		return unix.EPERM
	}
	return nil
}

func (f *file) GetFsxattr() (x behaviour.Fsxattr, err error) {
	out, err := f.ioctl(fsGetFsxattr, nil, fsxattrSize)
	if err != nil {
		return x, err
	}
	le := binary.LittleEndian
	x.Xflags, x.Extsize, x.Nextents = le.Uint32(out), le.Uint32(out[4:]), le.Uint32(out[8:])
	x.Projid, x.Cowextsize = le.Uint32(out[12:]), le.Uint32(out[16:])
	return x, nil
}

func (f *file) SetFsxattr(x behaviour.Fsxattr) error {
	if err := f.mayChangeFlags(); err != nil {
		return err
	}
	old, err := f.GetFsxattr()
	if err != nil {
		return err
	}
	if (old.Xflags^x.Xflags)&fsxGuarded != 0 && !f.v.root() {
		return unix.EPERM
	}
	le := binary.LittleEndian
	var in []byte
	for _, w := range []uint32{x.Xflags, x.Extsize, x.Nextents, x.Projid, x.Cowextsize, 0, 0} {
		in = le.AppendUint32(in, w)
	}
	_, err = f.ioctl(fsSetFsxattr, in, 0)
	return err
}
