package fs

import (
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirStream is the position of an open directory.
type dirStream struct {
	mu  sync.Mutex // held over one READDIR
	pos uint64     // the offset at which the guest goes on
	// rest is what has been read from the host behind pos and did not fit: to
	// go back costs the host as much as to read it all.
	rest []byte
}

const (
	// Layout of struct linux_dirent64.
	direntOff  = 8
	direntLen  = 16
	direntType = 18
	direntName = 19

	// direntMin is the least to read from the host, more than any entry that a guest
	// takes (FUSE_NAME_MAX is 1024).
	direntMin = 1072
	// restMax is the most that is kept.
	restMax = 2 * direntMin
)

// opendir serves FUSE_OPENDIR.
func (t *Thread) opendir() (int, unix.Errno) {
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	if n.typ != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	if e := t.fs.budget.reserveFile(); e != 0 {
		return 0, e
	}
	fd, e := n.openFile(t, unix.O_RDONLY)
	if e != 0 {
		t.fs.budget.release()
		return 0, e
	}
	out := overlay[fuse.OpenOut](t.payload())
	*out = fuse.OpenOut{Fh: t.fs.addFile(fd, n, unix.O_RDONLY|unix.O_DIRECTORY)}
	switch t.fs.opts.Cache {
	case CacheAlways, CacheMetadata:
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return sizeOf[fuse.OpenOut](), 0
}

// readdir serves FUSE_READDIR.
func (t *Thread) readdir() (int, unix.Errno) { return t.list(false) }

// readdirplus serves FUSE_READDIRPLUS: every entry but "." and ".." carries a
// lookup.
func (t *Thread) readdirplus() (int, unix.Errno) { return t.list(true) }

func (t *Thread) list(plus bool) (int, unix.Errno) {
	in := overlay[fuse.ReadIn](t.in)
	n, f, e := t.openFile(in.Fh)
	if e != 0 {
		return 0, e
	}
	defer f.drop()
	if n.typ != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	dirfd, e := n.hold()
	if e != 0 {
		return 0, e
	}
	defer n.drop()
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	if in.Offset != f.dir.pos || in.Offset == 0 && len(f.dir.rest) > 0 {
		if _, err := unix.Seek(f.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
			return 0, errnoOf(err)
		}
		f.dir.pos, f.dir.rest = in.Offset, f.dir.rest[:0]
	}
	out := t.payload()[:min(int(in.Size), t.rep.Len(), replyMax)]
	done := 0
	// The first part is read as if all names were short, whose entries grow
	// most, and the next by what it has become.
	host, guest := 3, 4
	if plus {
		host, guest = 3, 20
	}
	for {
		got := copy(t.dirents, f.dir.rest)
		if f.dir.rest = f.dir.rest[:0]; got == 0 {
			var e unix.Errno
			room := (len(out) - done) * host / guest
			got, e = sysGetdents(f.fd, t.dirents[:min(max(room, direntMin), direntBuf)])
			if e != 0 && done == 0 {
				return 0, e
			}
			if e != 0 || got == 0 {
				break
			}
		}
		size, used, last, full, e := t.convert(out[done:], t.dirents[:got], n, dirfd, plus)
		host, guest = got, max(size, 1)
		done += size
		if size > 0 {
			f.dir.pos = last
		}
		if full {
			f.dir.keep(f.fd, t.dirents[used:got])
			if done == 0 {
				return 0, unix.EINVAL
			}
			break
		}
		if e != 0 {
			break
		}
	}
	if _, err := t.rep.CopyIn(out[:done]); err != nil {
		return 0, unix.EFAULT
	}
	return done, 0
}

// keep keeps what was read behind pos from the descriptor fd.
func (d *dirStream) keep(fd int, b []byte) {
	if len(b) > restMax {
		unix.Seek(fd, int64(d.pos), unix.SEEK_SET)
		return
	}
	d.rest = append(d.rest, b...)
}

// convert turns the host's entries in b, of which it uses used bytes, into the
// guest's in out. last is the offset behind the last one converted; full says
// that one did not fit.
func (t *Thread) convert(out, b []byte, dir *inode, dirfd int, plus bool) (size, used int, last uint64, full bool, e unix.Errno) {
	head := 0
	if plus {
		head = sizeOf[fuse.EntryOut]()
	}
	for len(b) >= direntName {
		reclen := int(binary.NativeEndian.Uint16(b[direntLen:]))
		if reclen < direntName || reclen > len(b) {
			return size, used, last, false, unix.EIO
		}
		rec := b[:reclen]
		end := direntName
		for end < reclen && rec[end] != 0 {
			end++
		}
		if end == reclen {
			return size, used, last, false, unix.EIO
		}
		name := cstr(rec[direntName : end+1])
		nameLen := len(name) - 1
		need := head + sizeOf[direntHeader]() + (nameLen+7)&^7
		if need > len(out)-size {
			return size, used, last, true, 0
		}
		to := out[size : size+need]
		clear(to)
		de := overlay[direntHeader](to[head:])
		de.Ino = binary.NativeEndian.Uint64(rec)
		de.Off = binary.NativeEndian.Uint64(rec[direntOff:])
		de.NameLen = uint32(nameLen)
		de.Typ = uint32(rec[direntType])
		copy(to[head+sizeOf[direntHeader]():], name[:nameLen])
		dots := nameLen == 1 && name[0] == '.' || nameLen == 2 && name[0] == '.' && name[1] == '.'
		if dots && dir.id == rootID {
			// What is above the shared directory is nobody's business.
			de.Ino = dir.key.ino
		}
		if plus && !dots {
			t.entryPlus(overlay[fuse.EntryOut](to), de, dir, dirfd, name)
		}
		size += need
		used += reclen
		last = de.Off
		b = b[reclen:]
	}
	return size, used, last, false, 0
}

// entryPlus looks up one entry of a directory being read. An entry that can't
// be looked up (it may be gone by now) is left with nodeid 0, and the guest
// looks it up itself if it needs it.
func (t *Thread) entryPlus(out *fuse.EntryOut, de *direntHeader, dir *inode, dirfd int, name cstr) {
	n, e := t.resolve(dirfd, name)
	if e != 0 {
		return
	}
	t.entry(out, dir, n)
	de.Ino = t.st.Ino
	de.Typ = uint32(t.st.Mode) >> 12
}
