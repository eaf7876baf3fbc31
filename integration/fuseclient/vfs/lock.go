package vfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Flock is fuse_file_flock with FUSE_FLOCK_LOCKS.
func (f *file) Flock(how int) error {
	if f.v.t.c.Flags&fuse.CAP_FLOCK_LOCKS == 0 {
		return unix.EOPNOTSUPP
	}
	lk := fuse.FileLock{End: maxOffset, Pid: processID}
	switch how &^ unix.LOCK_NB {
	case unix.LOCK_SH:
		lk.Typ = unix.F_RDLCK
	case unix.LOCK_EX:
		lk.Typ = unix.F_WRLCK
	case unix.LOCK_UN:
		lk.Typ = unix.F_UNLCK
	default:
		return unix.EINVAL
	}
	f.o.lockMu.Lock()
	f.o.flocked = true
	f.o.lockMu.Unlock()
	wait := how&unix.LOCK_NB == 0 && lk.Typ != unix.F_UNLCK
	return f.v.t.c.Setlk(f.v.caller(), f.o.node.id, f.o.fh, f.o.owner, lk, fuse.LK_FLOCK, wait)
}

// Fcntl is fcntl_getlk and fcntl_setlk over fuse_file_lock with FUSE_POSIX_LOCKS.
func (f *file) Fcntl(cmd int, lk *unix.Flock_t) error {
	if f.v.t.c.Flags&fuse.CAP_POSIX_LOCKS == 0 {
		return unix.EOPNOTSUPP
	}
	owner, pid := uint64(processID), uint32(processID)
	switch cmd {
	case unix.F_OFD_GETLK, unix.F_OFD_SETLK, unix.F_OFD_SETLKW:
		if lk.Pid != 0 {
			return unix.EINVAL
		}
		owner = f.o.owner
		f.o.lockMu.Lock()
		f.o.ofdLocks = true
		f.o.lockMu.Unlock()
	}
	l, err := f.toFileLock(lk, pid)
	if err != nil {
		return err
	}
	if cmd == unix.F_GETLK || cmd == unix.F_OFD_GETLK {
		return f.getlk(cmd, owner, l, lk)
	}
	switch {
	case l.Typ == unix.F_RDLCK && !f.readable(), l.Typ == unix.F_WRLCK && !f.writable():
		return unix.EBADF
	}
	wait := (cmd == unix.F_SETLKW || cmd == unix.F_OFD_SETLKW) && l.Typ != unix.F_UNLCK
	return f.v.t.c.Setlk(f.v.caller(), f.o.node.id, f.o.fh, owner, l, 0, wait)
}

// toFileLock is flock64_to_posix_lock.
func (f *file) toFileLock(lk *unix.Flock_t, pid uint32) (fuse.FileLock, error) {
	var zero fuse.FileLock
	start := lk.Start
	switch lk.Whence {
	case unix.SEEK_SET:
	case unix.SEEK_CUR:
		start += offsetOf(f, nil)
	case unix.SEEK_END:
		a, err := f.v.getattr(f.o.node.id)
		if err != nil {
			return zero, err
		}
		start += int64(a.Size)
	default:
		return zero, unix.EINVAL
	}
	if lk.Type != unix.F_RDLCK && lk.Type != unix.F_WRLCK && lk.Type != unix.F_UNLCK || start < 0 {
		return zero, unix.EINVAL
	}
	end := int64(maxOffset)
	switch {
	case lk.Len > 0:
		if lk.Len-1 > maxOffset-start {
			return zero, unix.EOVERFLOW
		}
		end = start + lk.Len - 1
	case lk.Len < 0:
		if start+lk.Len < 0 {
			return zero, unix.EINVAL
		}
		start, end = start+lk.Len, start-1
	}
	return fuse.FileLock{Start: uint64(start), End: uint64(end), Typ: uint32(lk.Type), Pid: pid}, nil
}

func (f *file) getlk(cmd int, owner uint64, l fuse.FileLock, lk *unix.Flock_t) error {
	if l.Typ == unix.F_UNLCK {
		return unix.EINVAL
	}
	got, err := f.v.t.c.Getlk(f.v.caller(), f.o.node.id, f.o.fh, owner, l)
	if err != nil {
		return err
	}
	lk.Type = int16(got.Typ)
	if got.Typ == unix.F_UNLCK {
		return nil
	}
	lk.Whence, lk.Start, lk.Pid = unix.SEEK_SET, int64(got.Start), int32(got.Pid)
	if lk.Len = 0; got.End != maxOffset {
		lk.Len = int64(got.End - got.Start + 1)
	}
	if cmd == unix.F_OFD_GETLK {
		lk.Pid = -1
	}
	return nil
}
