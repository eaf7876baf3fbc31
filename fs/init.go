package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const day = 24 * time.Hour

// timeouts returns how long the guest may keep names and attributes.
func (c CachePolicy) timeouts() (entry, attr time.Duration) {
	switch c {
	case CacheNever:
		return 0, 0
	case CacheAlways, CacheMetadata:
		return day, day
	default:
		return time.Second, time.Second
	}
}

// init serves FUSE_INIT. A guest that comes with a second one without DESTROY
// has been reset: what the first one had is dropped.
func (t *Thread) init() (int, unix.Errno) {
	in := overlay[fuse.InitIn](t.pad(sizeOf[fuse.InitIn]()))
	out := overlay[fuse.InitOut](t.payload())
	*out = fuse.InitOut{Major: protoMajor, Minor: protoMinor}
	if in.Major > protoMajor {
		// The guest asks again with our version, fuse_init in the protocol's header.
		return sizeOf[fuse.InitOut](), 0
	}
	if in.Major < protoMajor || in.Minor < protoMinorMin {
		t.fs.log.Error("the guest's FUSE protocol is too old; update the guest's kernel", "major", in.Major, "minor", in.Minor, "needs", "7.27")
		return 0, unix.EPROTO
	}
	offered := uint64(in.Flags)
	if offered&fuse.CAP_INIT_EXT != 0 {
		offered |= uint64(in.Flags2) << 32
	}
	if t.fs.opts.DAX.On() && !t.mayBlock {
		return t.detach()
	}
	flags, e := t.fs.negotiate(offered)
	if e != 0 {
		return 0, e
	}
	t.fs.Reset()
	out.Minor = min(in.Minor, protoMinor)
	out.MaxReadAhead = in.MaxReadAhead
	out.Flags = uint32(flags)
	out.Flags2 = uint32(flags >> 32)
	out.MaxBackground = 1<<16 - 1
	out.CongestionThreshold = (1<<16 - 1) / 4 * 3
	out.MaxWrite = maxWrite
	out.TimeGran = 1
	if flags&fuse.CAP_MAP_ALIGNMENT != 0 {
		out.MapAlignment = mapAlignment
	}
	if flags&fuse.CAP_MAX_PAGES != 0 {
		out.MaxPages = maxPages
	}
	t.fs.session.Store(&session{flags: flags, offered: offered, minor: out.Minor, maxWrite: maxWrite})
	return sizeOf[fuse.InitOut](), 0
}

// pad returns the request, extended by zeros to n bytes where it is shorter.
func (t *Thread) pad(n int) []byte {
	if len(t.in) < n {
		clear(t.inBuf[len(t.in):n])
		return t.inBuf[:n]
	}
	return t.in
}

// TakeOver implements device.Heir: it begins a session for a guest that has had
// its INIT from a daemon before this one. The flags are those that this daemon
// would have agreed on with a guest that offers all; inodes other than the root
// and open files are gone, and answered ESTALE and EBADF. New ones have other
// numbers, for the guest would take them for those that it knows.
func (f *FS) TakeOver() {
	if f.session.Load() != nil {
		return
	}
	const all = 1<<64 - 1
	flags, e := f.negotiate(all)
	if e != 0 {
		return
	}
	f.log.Info("a guest goes on with the session of a daemon before this one")
	f.inodes.byID.diverge()
	f.files.diverge()
	f.session.Store(&session{flags: flags, offered: all, minor: protoMinor, maxWrite: maxWrite, inherited: true})
}

// negotiate picks the flags of the INIT reply out of those the guest offers.
func (f *FS) negotiate(offered uint64) (uint64, unix.Errno) {
	var want uint64 = fuse.CAP_ASYNC_READ | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_BIG_WRITES | fuse.CAP_PARALLEL_DIROPS |
		fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_IOCTL_DIR | fuse.CAP_MAX_PAGES | fuse.CAP_INIT_EXT |
		fuse.CAP_CREATE_SUPP_GROUP | fuse.CAP_ALLOW_IDMAP
	if f.opts.ReaddirPlus {
		want |= fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO
	}
	if f.opts.Writeback {
		want |= fuse.CAP_WRITEBACK_CACHE
	}
	if !f.opts.Writeback && f.opts.Cache != CacheAlways {
		// When such a write has ended, Linux (6.18) does not drop the pages that somebody read meanwhile. A new mtime
		// does that, but not where the guest trusts its own.
		want |= fuse.CAP_ASYNC_DIO
	}
	if f.opts.Cache == CacheAlways {
		want |= fuse.CAP_CACHE_SYMLINKS
	}
	if f.opts.AnnounceSubmounts {
		want |= fuse.CAP_SUBMOUNTS
	}
	if f.opts.AllowMmap {
		want |= fuse.CAP_DIRECT_IO_ALLOW_MMAP
	}
	if f.opts.DAX.On() {
		want |= fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX
	}
	if f.opts.PosixLock {
		want |= fuse.CAP_POSIX_LOCKS
	}
	if f.opts.Flock {
		want |= fuse.CAP_FLOCK_LOCKS
	}
	flags := want & offered
	for _, o := range []struct {
		option Auto
		name   string
		needs  uint64
	}{
		{f.opts.PosixACL, "--posix-acl", fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT},
		{f.opts.SecurityLabel, "--security-label", fuse.CAP_SECURITY_CTX},
		{f.opts.KillprivV2, "--killpriv-v2", fuse.CAP_HANDLE_KILLPRIV_V2},
	} {
		switch {
		case o.option == Off:
		case offered&o.needs == o.needs:
			flags |= o.needs
		case o.option == On && o.needs != fuse.CAP_HANDLE_KILLPRIV_V2:
			f.log.Error("the guest's kernel lacks what an option needs, so it can't mount; take the option away or update the guest", "option", o.name)
			return 0, unix.EPROTO
		case o.option == On:
			f.log.Warn("the guest's kernel lacks what an option needs; the option has no effect", "option", o.name)
		}
	}
	if flags&fuse.CAP_MAP_ALIGNMENT != 0 {
		// At a new mtime or size Linux (7.2, fuse_change_attributes_i) would drop the mappings of DAX files, which are
		// no copies of anything, without waiting for I/O on their pages. Where some files are not DAX a new size has
		// to drop what is cached of those.
		flags &^= fuse.CAP_AUTO_INVAL_DATA
		if flags&fuse.CAP_HAS_INODE_DAX == 0 {
			flags |= offered & fuse.CAP_EXPLICIT_INVAL_DATA
		}
	}
	if flags&fuse.CAP_HANDLE_KILLPRIV_V2 == 0 {
		// An OPEN with O_TRUNC does not say whether the set-id bits have to go; a SETATTR before it does.
		flags &^= fuse.CAP_ATOMIC_O_TRUNC
	}
	return flags, 0
}

// destroy serves FUSE_DESTROY: the last mount is gone, and so are all files and
// inodes; a new INIT may follow.
func (t *Thread) destroy() (int, unix.Errno) {
	if t.fs.opts.DAX.On() && !t.mayBlock {
		return t.detach()
	}
	t.fs.opts.DAX.Destroy()
	t.fs.Reset()
	return 0, 0
}

// interrupt serves FUSE_INTERRUPT, which Linux never sends over virtio-fs.
func (t *Thread) interrupt() (int, unix.Errno) {
	in := overlay[interruptIn](t.in)
	t.fs.locks.cancel(in.Unique)
	return 0, 0
}
