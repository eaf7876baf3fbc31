package fs

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// read serves FUSE_READ: from the file to the guest's pages, without a copy. On
// a queue's reader only what is in the page cache is read.
func (t *Thread) read() (int, unix.Errno) {
	in := overlay[fuse.ReadIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	size := min(int(in.Size), t.rep.Len(), maxWrite)
	if in.Offset > 1<<63-1 {
		return 0, unix.EINVAL
	}
	off := int64(in.Offset)
	bufs, e := t.windowBuffers(t.rep)
	if e != 0 {
		return 0, e
	}
	if !t.mayBlock && (n.dax.Mapped() || len(bufs) > 0 || f.cold.expected()) {
		return t.again()
	}
	if len(bufs) > 0 {
		t.rep.LimitStores(t.extent)
	}
	if e := errnoOf(t.op.BeginRead(&n.dax, in.Offset, uint64(size), bufs)); e != 0 {
		return 0, e
	}
	defer t.op.End()
	if t.mayBlock || n.mnt.memory {
		return t.readAll(f, off, size, f.isDirect(in.Flags))
	}
	if !n.mnt.nowait.Load() || f.flags&unix.O_DIRECT != 0 {
		return t.again()
	}
	known := f.cold.state.Load()
	done := 0
	for done < size {
		got, err := t.rep.ReadFrom(f.fd, off+int64(done), size-done, unix.RWF_NOWAIT)
		switch errnoOf(err) {
		case 0:
		case unix.EAGAIN:
			f.cold.missed(known)
			return t.again()
		case unix.EOPNOTSUPP:
			n.mnt.nowait.Store(false)
			return t.again()
		case unix.EINTR:
			continue
		default:
			return 0, errnoOf(err)
		}
		if got == 0 {
			break
		}
		t.rep.Skip(got)
		done += got
	}
	f.cold.hit()
	return done, 0
}

// coldness guesses whether what is read next of a file is in the page cache. To
// find out takes a reader as long as it takes the host to ready what is missing
// for the device: a tenth of a millisecond for a megabyte.
type coldness struct {
	// state is the number of misses in a row, up to coldMost, in the high half,
	// and the number of reads left that are taken to miss.
	state atomic.Uint32
}

// coldMost limits the reads in a row that are not tried, to 2^coldMost-1.
const coldMost = 4

// expected says whether the next read, which the caller is about to make, is
// taken to miss.
func (c *coldness) expected() bool {
	s := c.state.Load()
	// Of two at once that count one read, one is tried that need not be.
	return s&0xffff != 0 && c.state.CompareAndSwap(s, s-1)
}

// missed counts a miss of a READ that began with the state known. Of several at
// once one counts: they are no row.
func (c *coldness) missed(known uint32) {
	n := min(known>>16+1, coldMost)
	c.state.CompareAndSwap(known, n<<16|(1<<n-1))
}

func (c *coldness) hit() {
	if c.state.Load() != 0 {
		c.state.Store(0)
	}
}

func (t *Thread) readAll(f *file, off int64, size int, direct bool) (int, unix.Errno) {
	fd := t.ioFD(f, direct)
	done := 0
	for done < size {
		got, err := t.rep.ReadFrom(fd, off+int64(done), size-done, 0)
		if e := errnoOf(err); e == unix.EINTR {
			continue
		} else if e != 0 {
			// Also if there was a first part: a short READ is the end of
			// the file to the guest.
			return 0, e
		}
		if got == 0 {
			break
		}
		t.rep.Skip(got)
		done += got
		if direct {
			// The rest of a direct read need not be aligned.
			break
		}
	}
	return done, 0
}

// write serves FUSE_WRITE.
func (t *Thread) write() (int, unix.Errno) {
	in := overlay[fuse.WriteIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if int(in.Size) > t.req.Len() || in.Size > maxWrite {
		t.fs.bad("write", "a WRITE announces more data than it holds")
		return 0, unix.EINVAL
	}
	if in.Offset > 1<<63-1-uint64(in.Size) {
		return 0, unix.EFBIG
	}
	bufs, e := t.windowBuffers(t.req)
	if e != 0 {
		return 0, e
	}
	flags := syncFlags(in)
	early := flags == 0 && t.writesEarly(n, f)
	if !t.mayBlock && (early || flags != 0 || f.commit.begun() || n.mnt.slow || n.dax.Mapped() || len(bufs) > 0 || f.flags&(unix.O_DIRECT|unix.O_DSYNC) != 0) {
		return t.again()
	}
	if f.flags&unix.O_APPEND != 0 && in.WriteFlags&writeCache != 0 {
		// Wherever the host were told to write this page, it would be appended.
		return 0, unix.EPERM
	}
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&writeCache == 0 && !t.session.has(fuse.CAP_WRITEBACK_CACHE) {
		// Another guest or the host may have moved the end of the file.
		flags |= unix.RWF_APPEND
	}
	who := callerHasFsetid
	if in.WriteFlags&writeKillSuidgid != 0 {
		who = callerLacksFsetid
	}
	done, e := t.changeAs(who, n, t.looksBeforeWrite(n), func() (int, unix.Errno) {
		return t.writeData(n, f, in, bufs, flags)
	})
	f.commit.wrote()
	if early && e == 0 {
		t.startWriteback(n, f, in, flags)
	}
	return done, e
}

// syncFlags returns the RWF_ flags for what the guest wants to be on the disk when
// the WRITE in is answered, by a flag of the call or of the mount: it may send no
// FSYNC for that (fuse_write_flags). What it writes back of its cache waits for one.
func syncFlags(in *fuse.WriteIn) int {
	switch {
	case in.WriteFlags&writeCache != 0:
	case in.Flags&unix.O_SYNC == unix.O_SYNC:
		return unix.RWF_SYNC
	case in.Flags&unix.O_DSYNC != 0:
		return unix.RWF_DSYNC
	}
	return 0
}

// writeData writes what a WRITE holds and answers it.
func (t *Thread) writeData(n *inode, f *file, in *fuse.WriteIn, bufs []dax.WindowBuffer, flags int) (int, unix.Errno) {
	if e := errnoOf(t.op.BeginWrite(&n.dax, in.Offset, uint64(in.Size), flags&unix.RWF_APPEND != 0, bufs)); e != 0 {
		return 0, e
	}
	defer t.op.End()
	fd := t.ioFD(f, in.WriteFlags&writeCache == 0 && f.isDirect(in.Flags))
	if len(bufs) > 0 {
		done, e := t.writeCopied(fd, int(in.Size), int64(in.Offset), flags)
		return t.writeReply(in, done, e)
	}
	var e unix.Errno
	done := 0
	for done < int(in.Size) {
		put, err := t.req.WriteTo(fd, int64(in.Offset)+int64(done), int(in.Size)-done, flags)
		if e = errnoOf(err); e == unix.EINTR {
			continue
		}
		if e != 0 || put == 0 {
			break
		}
		t.req.Skip(put)
		done += put
	}
	return t.writeReply(in, done, e)
}

// writeReply answers a WRITE that wrote done bytes and ended with e. Less than
// all is what a caller in the guest gets to know, but Linux does not look at the
// length when it writes its cache back (fuse_writepage_end): there the rest would
// be lost, and nobody told.
func (t *Thread) writeReply(in *fuse.WriteIn, done int, e unix.Errno) (int, unix.Errno) {
	if done < int(in.Size) && (done == 0 || in.WriteFlags&writeCache != 0) {
		if e == 0 {
			e = unix.EIO
		}
		return 0, e
	}
	out := overlay[fuse.WriteOut](t.payload())
	*out = fuse.WriteOut{Size: uint32(done)}
	return sizeOf[fuse.WriteOut](), 0
}

// lseek serves FUSE_LSEEK, for SEEK_DATA and SEEK_HOLE.
func (t *Thread) lseek() (int, unix.Errno) {
	if t.session.has(fuse.CAP_WRITEBACK_CACHE) {
		// What the guest has not yet written back is a hole here, and it does not write it back for this. By itself it
		// takes all of a file for data.
		return 0, never
	}
	in := overlay[fuse.LseekIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	if n.dax.Mapped() {
		if !t.mayBlock {
			return t.again()
		}
		// What the guest has stored through the window is a hole of the file until it is written back.
		if e := errnoOf(t.fs.opts.DAX.WriteBack(t.op, &n.dax)); e != 0 {
			return 0, e
		}
	}
	off := int64(in.Offset)
	if t.fs.opts.Cache == CacheAlways && n.writers.Load() > 0 && !n.dax.Mapped() {
		// Somebody may have stored to a mapping what is a hole here, and no open of the
		// file has the guest write that back.
		if off, e = t.seekAllData(n, off, int(in.Whence)); e != 0 {
			return 0, e
		}
	} else {
		var err error
		if off, err = unix.Seek(f.fd, off, int(in.Whence)); err != nil {
			return 0, errnoOf(err)
		}
	}
	out := overlay[fuse.LseekOut](t.payload())
	out.Offset = uint64(off)
	return sizeOf[fuse.LseekOut](), 0
}

// seekAllData is lseek in a file without holes.
func (t *Thread) seekAllData(n *inode, off int64, whence int) (int64, unix.Errno) {
	if e := t.stat(n, unix.STATX_SIZE); e != 0 {
		return 0, e
	}
	switch {
	case off < 0 || uint64(off) >= t.st.Size:
		return 0, unix.ENXIO
	case whence == unix.SEEK_HOLE:
		return int64(t.st.Size), 0
	}
	return off, 0
}

// fallocate serves FUSE_FALLOCATE with every mode that the host takes.
func (t *Thread) fallocate() (int, unix.Errno) {
	in := overlay[fuse.FallocateIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if e := errnoOf(t.op.BeginFallocate(&n.dax, in.Mode, in.Offset, in.Length)); e != 0 {
		return 0, e
	}
	defer t.op.End()
	return t.changeAs(callerUnsaid, n, false, func() (int, unix.Errno) {
		for {
			e := errnoOf(unix.Fallocate(f.fd, in.Mode, int64(in.Offset), int64(in.Length)))
			if e != unix.EINTR {
				return 0, e
			}
		}
	})
}

// copyFileRange serves FUSE_COPY_FILE_RANGE, whose reply counts in 32 bits.
func (t *Thread) copyFileRange() (int, unix.Errno) {
	done, e := t.copyRange(1<<32 - 4096)
	if e != 0 {
		return 0, e
	}
	out := overlay[fuse.WriteOut](t.payload())
	*out = fuse.WriteOut{Size: uint32(done)}
	return sizeOf[fuse.WriteOut](), 0
}

// copyFileRange64 serves FUSE_COPY_FILE_RANGE_64.
func (t *Thread) copyFileRange64() (int, unix.Errno) {
	done, e := t.copyRange(1<<63 - 1)
	if e != 0 {
		return 0, e
	}
	out := overlay[copyFileRangeOut](t.payload())
	out.BytesCopied = uint64(done)
	return sizeOf[copyFileRangeOut](), 0
}

func (t *Thread) copyRange(most uint64) (int, unix.Errno) {
	in := overlay[fuse.CopyFileRangeIn](t.in)
	from, src, e := t.openFile(in.FhIn)
	if e != 0 {
		return 0, e
	}
	defer src.drop()
	to, e := t.nodeByID(in.NodeIdOut)
	if e != 0 {
		return 0, e
	}
	dst, e := t.file(in.FhOut, to)
	if e != 0 {
		return 0, e
	}
	defer dst.drop()
	if t.session.has(fuse.CAP_MAP_ALIGNMENT) && to.dax.Mapped() {
		// After the reply Linux (7.2, __fuse_copy_file_range) drops the range from its page cache without taking it out
		// of page tables, which DAX mappings don't survive: they go on showing that part of the window when it has
		// become another file's. By this errno it copies by itself.
		return 0, unix.EOPNOTSUPP
	}
	if in.Flags != 0 || in.OffIn > 1<<63-1 || in.OffOut > 1<<63-1 {
		return 0, unix.EINVAL
	}
	length := min(in.Len, most)
	if e := errnoOf(t.op.BeginCopy(&from.dax, in.OffIn, &to.dax, in.OffOut, length)); e != 0 {
		return 0, e
	}
	defer t.op.End()
	return t.changeAs(callerUnsaid, to, false, func() (int, unix.Errno) {
		offIn, offOut := int64(in.OffIn), int64(in.OffOut)
		done := 0
		for uint64(done) < length {
			n, err := unix.CopyFileRange(src.fd, &offIn, dst.fd, &offOut, int(length)-done, 0)
			if e := errnoOf(err); e == unix.EINTR {
				continue
			} else if e != 0 && done == 0 {
				return 0, e
			}
			// A signal, which the Go run-time sends now and then, ends a call early.
			if n <= 0 {
				break
			}
			done += n
		}
		return done, 0
	})
}
