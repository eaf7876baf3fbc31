package fs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Requests of include/uapi/linux/{fs,fsverity}.h on 64-bit hosts, which is also
// how a 64-bit guest numbers them.
const (
	fsIocGetflags       = 0x80086601
	fsIocSetflags       = 0x40086602
	fsIoc32Getflags     = 0x80046601
	fsIoc32Setflags     = 0x40046602
	fsIocFsgetxattr     = 0x801c581f
	fsIocFssetxattr     = 0x401c5820
	fsIocGetversion     = 0x80087601
	fsIocEnableVerity   = 0x40806685
	fsIocMeasureVerity  = 0xc0046686
	fsxattrLen          = 28
	verityEnableLen     = 128
	verityDigestMax     = 64
	verityEnableVersion = 1
	veritySaltMax       = 32    // FS_VERITY_MAX_SALT_SIZE
	veritySigMax        = 16128 // FS_VERITY_MAX_SIGNATURE_SIZE

	ioctl32Bit = 1 << 3 // FUSE_IOCTL_32BIT

	// In struct fsverity_enable_arg.
	veritySaltSizeAt, veritySaltPtrAt = 12, 16
	veritySigSizeAt, veritySigPtrAt   = 24, 32
)

// ioctl serves FUSE_IOCTL for the requests that are about the inode itself and
// whose argument is plain data; any other gets ENOTTY and nothing of it reaches
// the host.
func (t *Thread) ioctl() (int, unix.Errno) {
	in := overlay[fuse.IoctlIn](t.in)
	data := t.in[sizeOf[fuse.IoctlIn]():]
	if uint64(in.InSize) > uint64(len(data)) {
		t.fs.bad("ioctl", "an IOCTL announces more data than it holds")
		return 0, unix.EINVAL
	}
	data = data[:in.InSize]
	if in.Flags&fuse.IOCTL_UNRESTRICTED != 0 {
		return 0, unix.ENOTTY
	}
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	cmd, ok := nativeIoctl(in)
	if !ok {
		return 0, unix.ENOTTY
	}
	if cmd == fsIocSetflags || cmd == fsIocFssetxattr || cmd == fsIocEnableVerity {
		if t.fs.opts.ReadOnly {
			return 0, unix.EROFS
		}
		return t.ioctlAsCaller(n, f, cmd, data)
	}
	room := t.payload()[sizeOf[fuse.IoctlOut]():]
	switch cmd {
	case fsIocGetflags:
		return t.ioctlReply(f, cmd, room[:8], min(int(in.OutSize), 4))
	case fsIocGetversion:
		return t.ioctlReply(f, cmd, room[:8], min(int(in.OutSize), 4))
	case fsIocFsgetxattr:
		if in.OutSize < fsxattrLen {
			return 0, unix.EINVAL
		}
		return t.ioctlReply(f, cmd, room[:fsxattrLen], fsxattrLen)
	case fsIocMeasureVerity:
		if len(data) < 4 {
			return 0, unix.EINVAL
		}
		// struct fsverity_digest: algorithm, size, and as many bytes as fit.
		size := min(int(binary.LittleEndian.Uint16(data[2:])), verityDigestMax)
		arg := room[:4+verityDigestMax]
		binary.LittleEndian.PutUint16(arg, 0)
		binary.LittleEndian.PutUint16(arg[2:], uint16(size))
		return t.ioctlReply(f, cmd, arg, min(int(in.OutSize), 4+size))
	}
	return 0, unix.ENOTTY
}

// nativeIoctl returns the request as a 64-bit host numbers it. A guest's kernel
// knows the requests that change flags by the numbers of its own width, checks who
// asks, and sends them itself; with those of the other width any process of the
// guest's gets past that.
func nativeIoctl(in *fuse.IoctlIn) (cmd uint32, ok bool) {
	narrow := in.Flags&ioctl32Bit != 0
	switch in.Cmd {
	case fsIocGetflags, fsIocSetflags:
		return in.Cmd, !narrow
	case fsIoc32Getflags:
		return fsIocGetflags, narrow
	case fsIoc32Setflags:
		return fsIocSetflags, narrow
	}
	return in.Cmd, true
}

// ioctlAsCaller does an ioctl that changes f. It has the host judge a request
// whose caller the guest names, for not every guest does.
func (t *Thread) ioctlAsCaller(n *inode, f *file, cmd uint32, data []byte) (size int, e unix.Errno) {
	t.ext = extensions{}
	t.asCaller(0)
	t.id.keep = 0
	e = t.withIdentity(func() (e unix.Errno) {
		size, e = t.changeByIoctl(n, f, cmd, data)
		return e
	})
	return size, e
}

// changeByIoctl does one of the ioctls that change f.
func (t *Thread) changeByIoctl(n *inode, f *file, cmd uint32, data []byte) (int, unix.Errno) {
	room := t.payload()[sizeOf[fuse.IoctlOut]():]
	switch cmd {
	case fsIocSetflags:
		if len(data) < 4 {
			return 0, unix.EINVAL
		}
		var arg [8]byte
		copy(arg[:], data[:4])
		return t.ioctlReply(f, cmd, append(room[:0], arg[:]...), 0)
	case fsIocFssetxattr:
		if len(data) < fsxattrLen {
			return 0, unix.EINVAL
		}
		return t.ioctlReply(f, cmd, append(room[:0], data[:fsxattrLen]...), 0)
	default: // fsIocEnableVerity
		if t.hdr.Uid == invalidUID && !t.readersMayWrite(n) {
			return 0, unix.EACCES
		}
		return t.enableVerity(f, data)
	}
}

// readersMayWrite says whether who has opened n for reading may write to it, too,
// for a caller whom the guest neither names nor checks: who turns on fs-verity has
// to have that right, and Linux leaves it to us (7.2, fuse_do_ioctl).
func (t *Thread) readersMayWrite(n *inode) bool {
	fd, e := n.hold()
	if e != 0 {
		return false
	}
	defer n.drop()
	if e := sysStatx(fd, emptyPath, unix.AT_EMPTY_PATH, unix.STATX_MODE, &t.st); e != 0 {
		return false
	}
	const readers, writers = 0o044, 0o022
	if mode := uint32(t.st.Mode); mode&readers>>1&^(mode&writers) != 0 {
		return false
	}
	if !t.session.has(fuse.CAP_POSIX_ACL) {
		return true
	}
	got, e := sysGetxattr(t.fdName(fd), aclAccess, nil)
	return e == unix.ENODATA || e == unix.EOPNOTSUPP || e == 0 && got == 0
}

// enableVerity turns on fs-verity for an inode. The structure's pointers, to a
// salt and to a signature, mean nothing here: Linux puts what they point to
// behind it, and their lengths are in it.
func (t *Thread) enableVerity(f *file, data []byte) (int, unix.Errno) {
	if len(data) < verityEnableLen {
		return 0, unix.EINVAL
	}
	var arg [verityEnableLen]byte
	copy(arg[:], data)
	saltSize := binary.LittleEndian.Uint32(arg[veritySaltSizeAt:])
	sigSize := binary.LittleEndian.Uint32(arg[veritySigSizeAt:])
	if binary.LittleEndian.Uint32(arg[:]) != verityEnableVersion || saltSize > veritySaltMax || sigSize > veritySigMax ||
		uint64(saltSize)+uint64(sigSize) > uint64(len(data)-verityEnableLen) {
		return 0, unix.EINVAL
	}
	salt := data[verityEnableLen:][:saltSize]
	sig := data[verityEnableLen+saltSize:][:sigSize]
	if e := sysEnableVerity(f.fd, &arg, salt, sig); e != 0 {
		return 0, e
	}
	out := overlay[fuse.IoctlOut](t.payload())
	*out = fuse.IoctlOut{}
	return sizeOf[fuse.IoctlOut](), 0
}

// ioctlReply does the ioctl on arg, which lies in the payload behind where the
// reply goes, and answers with the first n bytes of it.
func (t *Thread) ioctlReply(f *file, cmd uint32, arg []byte, n int) (int, unix.Errno) {
	if _, e := sysIoctl(f.fd, cmd, arg); e != 0 {
		return 0, e
	}
	out := overlay[fuse.IoctlOut](t.payload())
	*out = fuse.IoctlOut{}
	return sizeOf[fuse.IoctlOut]() + n, 0
}
