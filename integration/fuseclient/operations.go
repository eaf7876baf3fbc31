package fuseclient

import (
	"github.com/hanwen/go-fuse/v2/fuse"
)

// The methods here are one request each. Errors of the daemon are unix.Errno.

// finish sends r, lets get copy the reply out, and frees r.
func (c *Client) finish(r *Request, get func()) error {
	err := r.do()
	if err == nil && get != nil {
		get()
	}
	if err != errTimeout {
		c.Release(r)
	}
	return err
}

// Init negotiates; what both sides said is kept in Sent, Got and Flags.
func (c *Client) Init() error {
	r := c.begin(OpInit, 0, Caller{})
	in := body[fuse.InitIn](r)
	in.Major, in.Minor, in.MaxReadAhead = 7, 45, 128<<10
	in.Flags, in.Flags2 = uint32(c.opts.Offer), uint32(c.opts.Offer>>32)
	r.Expect(sizeOf[fuse.InitOut](), true)
	clear(r.Reply())
	c.Sent.Major, c.Sent.Minor, c.Sent.MaxReadahead, c.Sent.Flags = 7, 45, in.MaxReadAhead, c.opts.Offer
	return c.finish(r, func() {
		out := *reply[fuse.InitOut](r)
		c.Got.Major, c.Got.Minor, c.Got.MaxReadahead, c.Got.Reply = out.Major, out.Minor, out.MaxReadAhead, out
		c.Got.Flags = uint64(out.Flags)
		if out.Flags&fuse.CAP_INIT_EXT != 0 {
			c.Got.Flags |= uint64(out.Flags2) << 32
		}
		c.Flags = c.Got.Flags & c.Sent.Flags
		c.checkInit(out)
	})
}

// checkInit holds the reply against the rules of process_init_reply.
func (c *Client) checkInit(out fuse.InitOut) {
	switch extra := c.Got.Flags &^ c.Sent.Flags; {
	case out.Major != 7:
		c.fe.Fault("INIT: major version is not 7")
	case extra != 0:
		c.fe.Fault("INIT: flags in the reply that were not offered")
	case out.TimeGran > 1e9:
		c.fe.Fault("INIT: time granularity above a second")
	case c.Flags&fuse.CAP_MAP_ALIGNMENT != 0 && out.MapAlignment > 21:
		c.fe.Fault("INIT: map_alignment above 21")
	case out.MaxWrite < 4096:
		c.fe.Fault("INIT: max_write below a page")
	}
}

// Raw sends any body to any operation, and takes a reply of up to room bytes.
func (c *Client) Raw(op Opcode, node uint64, args []byte, room int) error {
	r := c.begin(op, node, Caller{})
	r.Append(args)
	r.Expect(room, true)
	return c.finish(r, nil)
}

// Destroy is the last unmount.
func (c *Client) Destroy() error {
	return c.finish(c.begin(OpDestroy, 0, Caller{}), nil)
}

func (c *Client) entry(r *Request) (e fuse.EntryOut, err error) {
	r.Expect(sizeOf[fuse.EntryOut](), false)
	err = c.finish(r, func() { e = *reply[fuse.EntryOut](r) })
	return e, err
}

// Lookup takes one reference on the node it finds. Nodeid 0 in a reply without error is a negative entry.
func (c *Client) Lookup(who Caller, parent uint64, name string) (fuse.EntryOut, error) {
	r := c.begin(OpLookup, parent, who)
	r.AppendString(name)
	return c.entry(r)
}

// Forget gives n references back, on the hiprio queue, without waiting for anything but its buffer.
func (c *Client) Forget(node, n uint64) error {
	r := c.beginOn(0, OpForget, node, Caller{})
	body[fuse.ForgetIn](r).Nlookup = n
	r.NoReply()
	return c.finish(r, nil)
}

// ForgetOne is an element of BatchForget.
type ForgetOne struct{ Node, N uint64 }

// BatchForget is Forget of many. Linux sends none over virtio-fs.
func (c *Client) BatchForget(list []ForgetOne) error {
	r := c.beginOn(0, OpBatchForget, 0, Caller{})
	r.Append(le32(uint32(len(list)), 0))
	for _, f := range list {
		r.Append(le64(f.Node, f.N))
	}
	r.NoReply()
	return c.finish(r, nil)
}

// Getattr asks by handle if fh is not nil.
func (c *Client) Getattr(who Caller, node uint64, fh *uint64) (fuse.AttrOut, error) {
	r := c.begin(OpGetattr, node, who)
	in := body[fuse.GetAttrIn](r)
	if fh != nil {
		in.Flags_, in.Fh_ = fuse.FUSE_GETATTR_FH, *fh
	}
	return c.attr(r)
}

func (c *Client) attr(r *Request) (a fuse.AttrOut, err error) {
	r.Expect(sizeOf[fuse.AttrOut](), false)
	err = c.finish(r, func() { a = *reply[fuse.AttrOut](r) })
	return a, err
}

// Setattr sends in, whose header is ignored.
func (c *Client) Setattr(who Caller, node uint64, in fuse.SetAttrInCommon) (fuse.AttrOut, error) {
	r := c.begin(OpSetattr, node, who)
	b := body[fuse.SetAttrInCommon](r)
	in.InHeader = b.InHeader
	*b = in
	return c.attr(r)
}

// Statx asks by handle if fh is not nil.
func (c *Client) Statx(who Caller, node uint64, fh *uint64, flags, mask uint32) (s fuse.StatxOut, err error) {
	r := c.begin(OpStatx, node, who)
	in := body[fuse.StatxIn](r)
	in.SxFlags, in.SxMask = flags, mask
	if fh != nil {
		in.GetattrFlags, in.Fh = fuse.FUSE_GETATTR_FH, *fh
	}
	r.Expect(sizeOf[fuse.StatxOut](), false)
	err = c.finish(r, func() { s = *reply[fuse.StatxOut](r) })
	return s, err
}

func (c *Client) Readlink(who Caller, node uint64) (target string, err error) {
	r := c.begin(OpReadlink, node, who)
	r.ExpectData(min(4096-1, c.opts.MaxData))
	err = c.finish(r, func() { target = string(r.ReplyData()) })
	return target, err
}

// Create-like requests end with extensions, which Extensions makes; nil for none.

func (c *Client) Symlink(who Caller, parent uint64, name, target string, ext []byte) (fuse.EntryOut, error) {
	r := c.begin(OpSymlink, parent, who)
	r.AppendString(name)
	r.AppendString(target)
	r.extend(ext)
	return c.entry(r)
}

func (c *Client) Mknod(who Caller, parent uint64, name string, mode, rdev, umask uint32, ext []byte) (fuse.EntryOut, error) {
	r := c.begin(OpMknod, parent, who)
	in := body[fuse.MknodIn](r)
	in.Mode, in.Rdev, in.Umask = mode, rdev, umask
	r.AppendString(name)
	r.extend(ext)
	return c.entry(r)
}

func (c *Client) Mkdir(who Caller, parent uint64, name string, mode, umask uint32, ext []byte) (fuse.EntryOut, error) {
	r := c.begin(OpMkdir, parent, who)
	in := body[fuse.MkdirIn](r)
	in.Mode, in.Umask = mode, umask
	r.AppendString(name)
	r.extend(ext)
	return c.entry(r)
}

// Create opens what it makes. flags are those of open(2), openFlags those of FUSE (OPEN_KILL_SUIDGID).
func (c *Client) Create(who Caller, parent uint64, name string, flags, mode, umask, openFlags uint32, ext []byte) (fuse.CreateOut, error) {
	return c.create(OpCreate, who, parent, name, flags, mode, umask, openFlags, ext)
}

// Tmpfile makes a file without a name and opens it.
func (c *Client) Tmpfile(who Caller, parent uint64, flags, mode, umask uint32, ext []byte) (fuse.CreateOut, error) {
	return c.create(OpTmpfile, who, parent, "/", flags, mode, umask, 0, ext)
}

func (c *Client) create(op Opcode, who Caller, parent uint64, name string, flags, mode, umask, openFlags uint32, ext []byte) (out fuse.CreateOut, err error) {
	r := c.begin(op, parent, who)
	in := body[fuse.CreateIn](r)
	in.Flags, in.Mode, in.Umask, in.OpenFlags = flags, mode, umask, openFlags
	r.AppendString(name)
	r.extend(ext)
	r.Expect(sizeOf[fuse.CreateOut](), false)
	err = c.finish(r, func() { out = *reply[fuse.CreateOut](r) })
	return out, err
}

func (c *Client) named(op Opcode, who Caller, parent uint64, name string) error {
	r := c.begin(op, parent, who)
	r.AppendString(name)
	return c.finish(r, nil)
}

func (c *Client) Unlink(who Caller, parent uint64, name string) error {
	return c.named(OpUnlink, who, parent, name)
}

func (c *Client) Rmdir(who Caller, parent uint64, name string) error {
	return c.named(OpRmdir, who, parent, name)
}

// Rename sends RENAME without flags and RENAME2 with, as Linux does.
func (c *Client) Rename(who Caller, parent uint64, name string, newParent uint64, newName string, flags uint32) error {
	op := OpRename
	if flags != 0 {
		op = OpRename2
	}
	r := c.begin(op, parent, who)
	r.Append(le64(newParent))
	if flags != 0 {
		r.Append(le32(flags, 0))
	}
	r.AppendString(name)
	r.AppendString(newName)
	return c.finish(r, nil)
}

func (c *Client) Link(who Caller, node, newParent uint64, newName string) (fuse.EntryOut, error) {
	r := c.begin(OpLink, newParent, who)
	body[fuse.LinkIn](r).Oldnodeid = node
	r.AppendString(newName)
	return c.entry(r)
}

// Open is OPEN, or OPENDIR if dir.
func (c *Client) Open(who Caller, node uint64, flags, openFlags uint32, dir bool) (out fuse.OpenOut, err error) {
	op := OpOpen
	if dir {
		op = OpOpendir
	}
	r := c.begin(op, node, who)
	in := body[fuse.OpenIn](r)
	in.Flags, in.Mode = flags, openFlags
	r.Expect(sizeOf[fuse.OpenOut](), false)
	err = c.finish(r, func() { out = *reply[fuse.OpenOut](r) })
	return out, err
}

// CloseHandle is RELEASE, or RELEASEDIR if dir.
func (c *Client) CloseHandle(node, fh uint64, flags, releaseFlags uint32, owner uint64, dir bool) error {
	op := OpRelease
	if dir {
		op = OpReleasedir
	}
	r := c.begin(op, node, Caller{})
	in := body[fuse.ReleaseIn](r)
	in.Fh, in.Flags, in.ReleaseFlags, in.LockOwner = fh, flags, releaseFlags, owner
	return c.finish(r, nil)
}

// Read reads at most MaxData bytes.
func (c *Client) Read(who Caller, node, fh uint64, p []byte, off int64, flags uint32) (n int, err error) {
	r := c.begin(OpRead, node, who)
	r.Read(fh, uint64(off), min(len(p), c.opts.MaxData), flags)
	err = c.finish(r, func() { n = copy(p, r.ReplyData()) })
	return n, err
}

// Read fills in a READ.
func (r *Request) Read(fh, off uint64, n int, flags uint32) {
	in := body[fuse.ReadIn](r)
	in.Fh, in.Offset, in.Size, in.Flags = fh, off, uint32(n), flags
	r.ExpectData(n)
}

// Write writes at most MaxData bytes.
func (c *Client) Write(who Caller, node, fh uint64, p []byte, off int64, flags, writeFlags uint32) (n int, err error) {
	r := c.begin(OpWrite, node, who)
	n = copy(r.Data(), p)
	r.Write(fh, uint64(off), n, flags, writeFlags)
	err = c.finish(r, func() {
		if got := int(reply[fuse.WriteOut](r).Size); got > n {
			r.fault("WRITE of %d bytes wrote %d", n, got)
		} else {
			n = got
		}
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// Write fills in a WRITE of n bytes of Data.
func (r *Request) Write(fh, off uint64, n int, flags, writeFlags uint32) {
	in := body[fuse.WriteIn](r)
	in.Fh, in.Offset, in.Size, in.Flags, in.WriteFlags = fh, off, uint32(n), flags, writeFlags
	r.SendData(n)
	r.Expect(sizeOf[fuse.WriteOut](), false)
}

// Getattr fills in a GETATTR without a handle.
func (r *Request) Getattr() {
	body[fuse.GetAttrIn](r)
	r.Expect(sizeOf[fuse.AttrOut](), false)
}

// Lookup fills in a LOOKUP; Entry is its reply, and that of every other that makes a node.
func (r *Request) Lookup(name string) {
	r.AppendString(name)
	r.Expect(sizeOf[fuse.EntryOut](), false)
}

func (r *Request) Entry() *fuse.EntryOut { return reply[fuse.EntryOut](r) }

// Open fills in an OPEN or OPENDIR; OpenOut is its reply.
func (r *Request) Open(flags uint32) {
	body[fuse.OpenIn](r).Flags = flags
	r.Expect(sizeOf[fuse.OpenOut](), false)
}

func (r *Request) OpenOut() *fuse.OpenOut { return reply[fuse.OpenOut](r) }

// CloseHandle fills in a RELEASE or RELEASEDIR.
func (r *Request) CloseHandle(fh uint64) { body[fuse.ReleaseIn](r).Fh = fh }

// Create fills in a CREATE; CreateOut is its reply.
func (r *Request) Create(name string, flags, mode uint32) {
	in := body[fuse.CreateIn](r)
	in.Flags, in.Mode = flags, mode
	r.AppendString(name)
	r.Expect(sizeOf[fuse.CreateOut](), false)
}

func (r *Request) CreateOut() *fuse.CreateOut { return reply[fuse.CreateOut](r) }

// Fsync fills in an FSYNC, Statfs a STATFS, Getxattr a GETXATTR of a value.
func (r *Request) Fsync(fh uint64) { body[fuse.FsyncIn](r).Fh = fh }

func (r *Request) Statfs() { r.Expect(sizeOf[fuse.StatfsOut](), false) }

func (r *Request) Getxattr(name string, size int) {
	body[fuse.GetXAttrIn](r).Size = uint32(size)
	r.AppendString(name)
	r.Expect(size, true)
}

// AttrOut, WriteOut and StatfsOut are the replies to GETATTR and SETATTR, WRITE, and STATFS.
func (r *Request) AttrOut() *fuse.AttrOut     { return reply[fuse.AttrOut](r) }
func (r *Request) WriteOut() *fuse.WriteOut   { return reply[fuse.WriteOut](r) }
func (r *Request) StatfsOut() *fuse.StatfsOut { return reply[fuse.StatfsOut](r) }

// Flush fills in a FLUSH, Unlink an UNLINK.
func (r *Request) Flush(fh uint64) { body[fuse.FlushIn](r).Fh = fh }

func (r *Request) Unlink(name string) { r.AppendString(name) }

// Forget fills in a FORGET.
func (r *Request) Forget(n uint64) {
	body[fuse.ForgetIn](r).Nlookup = n
	r.NoReply()
}

func (c *Client) Flush(who Caller, node, fh, owner uint64) error {
	r := c.begin(OpFlush, node, who)
	in := body[fuse.FlushIn](r)
	in.Fh, in.LockOwner = fh, owner
	return c.finish(r, nil)
}

// Fsync is FSYNC, or FSYNCDIR if dir.
func (c *Client) Fsync(who Caller, node, fh uint64, dataOnly, dir bool) error {
	op := OpFsync
	if dir {
		op = OpFsyncdir
	}
	r := c.begin(op, node, who)
	in := body[fuse.FsyncIn](r)
	in.Fh = fh
	if dataOnly {
		in.FsyncFlags = 1
	}
	return c.finish(r, nil)
}

func (c *Client) Statfs(who Caller, node uint64) (s fuse.StatfsOut, err error) {
	r := c.begin(OpStatfs, node, who)
	r.Statfs()
	err = c.finish(r, func() { s = *reply[fuse.StatfsOut](r) })
	return s, err
}

// Syncfs is for the root of a submount.
func (c *Client) Syncfs(who Caller, node uint64) error {
	r := c.begin(OpSyncfs, node, who)
	r.Append(le64(0))
	return c.finish(r, nil)
}

// Setxattr has the long form of its structure if SETXATTR_EXT is in force.
func (c *Client) Setxattr(who Caller, node uint64, name string, value []byte, flags, extFlags uint32) error {
	r := c.begin(OpSetxattr, node, who)
	r.Append(le32(uint32(len(value)), flags))
	if c.Flags&fuse.CAP_SETXATTR_EXT != 0 {
		r.Append(le32(extFlags, 0))
	}
	r.AppendString(name)
	r.Append(value)
	return c.finish(r, nil)
}

// Getxattr with an empty dst asks for the size.
func (c *Client) Getxattr(who Caller, node uint64, name string, dst []byte) (int, error) {
	r := c.begin(OpGetxattr, node, who)
	body[fuse.GetXAttrIn](r).Size = uint32(min(len(dst), 64<<10))
	r.AppendString(name)
	return c.xattrReply(r, dst)
}

// Listxattr with an empty dst asks for the size.
func (c *Client) Listxattr(who Caller, node uint64, dst []byte) (int, error) {
	r := c.begin(OpListxattr, node, who)
	body[fuse.GetXAttrIn](r).Size = uint32(min(len(dst), 64<<10))
	return c.xattrReply(r, dst)
}

func (c *Client) xattrReply(r *Request, dst []byte) (n int, err error) {
	if len(dst) == 0 {
		r.Expect(sizeOf[fuse.GetXAttrOut](), false)
		err = c.finish(r, func() { n = int(reply[fuse.GetXAttrOut](r).Size) })
		return n, err
	}
	r.Expect(min(len(dst), 64<<10), true)
	err = c.finish(r, func() { n = copy(dst, r.Reply()[:r.N]) })
	return n, err
}

func (c *Client) Removexattr(who Caller, node uint64, name string) error {
	return c.named(OpRemovexattr, who, node, name)
}

func (c *Client) Access(who Caller, node uint64, mask uint32) error {
	r := c.begin(OpAccess, node, who)
	body[fuse.AccessIn](r).Mask = mask
	return c.finish(r, nil)
}

func (c *Client) Lseek(who Caller, node, fh uint64, off int64, whence uint32) (n int64, err error) {
	r := c.begin(OpLseek, node, who)
	in := body[fuse.LseekIn](r)
	in.Fh, in.Offset, in.Whence = fh, uint64(off), whence
	r.Expect(sizeOf[fuse.LseekOut](), false)
	err = c.finish(r, func() { n = int64(reply[fuse.LseekOut](r).Offset) })
	return n, err
}

func (c *Client) Fallocate(who Caller, node, fh uint64, mode uint32, off, n int64) error {
	r := c.begin(OpFallocate, node, who)
	in := body[fuse.FallocateIn](r)
	in.Fh, in.Offset, in.Length, in.Mode = fh, uint64(off), uint64(n), mode
	return c.finish(r, nil)
}

// CopyFileRange sends COPY_FILE_RANGE_64, or the older request if long is false.
func (c *Client) CopyFileRange(who Caller, node, fh uint64, off int64, outNode, outFh uint64, outOff int64, n uint64, long bool) (done uint64, err error) {
	op := OpCopyFileRange
	if long {
		op = OpCopyFileRange64
	}
	r := c.begin(op, node, who)
	in := body[fuse.CopyFileRangeIn](r)
	in.FhIn, in.OffIn, in.NodeIdOut, in.FhOut, in.OffOut, in.Len = fh, uint64(off), outNode, outFh, uint64(outOff), n
	r.Expect(8, false) // either is 8 bytes: a u64, or a u32 and padding
	err = c.finish(r, func() {
		if long {
			done = reply[fuse.CopyFileRangeOut](r).BytesCopied
		} else {
			done = uint64(reply[fuse.WriteOut](r).Size)
		}
		if done > n {
			r.fault("copied %d bytes of %d", done, n)
		}
	})
	return done, err
}

// Ioctl is a restricted ioctl: in is sent, and up to outSize bytes come back.
func (c *Client) Ioctl(who Caller, node, fh uint64, flags, cmd uint32, arg uint64, in []byte, outSize int) (result int32, out []byte, err error) {
	r := c.begin(OpIoctl, node, who)
	b := body[fuse.IoctlIn](r)
	b.Fh, b.Flags, b.Cmd, b.Arg, b.InSize, b.OutSize = fh, flags, cmd, arg, uint32(len(in)), uint32(outSize)
	copy(r.Data(), in) // in Linux these are pages, not arguments
	r.SendData(len(in))
	r.Expect(sizeOf[fuse.IoctlOut](), false)
	r.ExpectData(outSize)
	r.variable = true
	err = c.finish(r, func() {
		result = reply[fuse.IoctlOut](r).Result
		out = append([]byte(nil), r.ReplyData()...)
	})
	return result, out, err
}

// Do sends a request that the caller has filled in, waits for the reply and gives the request back. get sees the reply.
func (c *Client) Do(r *Request, get func(r *Request)) error {
	return c.finish(r, func() {
		if get != nil {
			get(r)
		}
	})
}

func (c *Client) lock(op Opcode, who Caller, node, fh, owner uint64, lk fuse.FileLock, flags uint32) *Request {
	r := c.begin(op, node, who)
	in := body[fuse.LkIn](r)
	in.Fh, in.Owner, in.Lk, in.LkFlags = fh, owner, lk, flags
	return r
}

// Getlk tests a lock.
func (c *Client) Getlk(who Caller, node, fh, owner uint64, lk fuse.FileLock) (out fuse.FileLock, err error) {
	r := c.lock(OpGetlk, who, node, fh, owner, lk, 0)
	r.Expect(sizeOf[fuse.LkOut](), false)
	err = c.finish(r, func() { out = reply[fuse.LkOut](r).Lk })
	return out, err
}

// Setlk sets a lock; flags may be LK_FLOCK. With wait it is SETLKW and may take for ever.
func (c *Client) Setlk(who Caller, node, fh, owner uint64, lk fuse.FileLock, flags uint32, wait bool) error {
	op := OpSetlk
	if wait {
		op = OpSetlkw
	}
	r := c.lock(op, who, node, fh, owner, lk, flags)
	r.NoTimeout = wait
	return c.finish(r, nil)
}

// Interrupt asks to end a request early; on the hiprio queue, without a reply. Linux sends none over virtio-fs.
func (c *Client) Interrupt(unique uint64) error {
	r := c.beginOn(0, OpInterrupt, 0, Caller{})
	r.Append(le64(unique))
	r.NoReply()
	return c.finish(r, nil)
}

// Flags of Setupmapping.
const (
	MapWrite uint64 = 1 << 0
	MapRead  uint64 = 1 << 1
)

// Setupmapping asks for file bytes [foffset, foffset+length) at moffset in the window.
func (c *Client) Setupmapping(node, foffset, length, flags, moffset uint64) error {
	r := c.begin(OpSetupmapping, node, Caller{})
	r.Append(le64(^uint64(0), foffset, length, flags, moffset))
	return c.finish(r, nil)
}

// Removal is an element of Removemapping.
type Removal struct{ Moffset, Len uint64 }

func (c *Client) Removemapping(node uint64, list []Removal) error {
	r := c.begin(OpRemovemapping, node, Caller{})
	r.Append(le32(uint32(len(list)))) // the elements follow without padding
	for _, m := range list {
		r.Append(le64(m.Moffset, m.Len))
	}
	return c.finish(r, nil)
}
