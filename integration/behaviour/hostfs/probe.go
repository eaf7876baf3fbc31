package hostfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	bh "github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
)

// probe tries everything once, in a directory of its own.
func probe(f *FS) (map[bh.Capability]string, error) {
	const name = ".probe"
	if err := f.Mkdir(name, 0o777); err != nil {
		return nil, fmt.Errorf("cannot make a directory to try things in; give one that is writable and empty: %w", err)
	}
	sub, err := f.Sub(name)
	if err != nil {
		return nil, err
	}
	p := &prober{FS: sub.(*FS), lacks: map[bh.Capability]string{}}
	p.calls()
	err = p.err
	for _, n := range p.made {
		err = errors.Join(err, sub.Unlink(n))
	}
	err = errors.Join(err, sub.Rmdir("d"), sub.Close(), f.Rmdir(name))
	if err != nil {
		return nil, fmt.Errorf("trying what the tree can do: %w", err)
	}
	return p.lacks, nil
}

type prober struct {
	*FS
	lacks map[bh.Capability]string
	made  []string
	err   error
}

// needs notes the answer of one trial.
func (p *prober) needs(c bh.Capability, err error) {
	if err != nil {
		p.lacks[c] = err.Error()
	}
}

// file makes a file of 1 MiB.
func (p *prober) file(name string) *file {
	h, err := p.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err != nil {
		p.err = errors.Join(p.err, err)
		return &file{fd: -1}
	}
	p.made = append(p.made, name)
	_, err = h.Pwrite(make([]byte, 1<<20), 0)
	p.err = errors.Join(p.err, err)
	return h.(*file)
}

// named notes that a call made a name, to be removed.
func (p *prober) named(name string, err error) error {
	if err == nil {
		p.made = append(p.made, name)
	}
	return err
}

func check(holds bool, otherwise string) error {
	if holds {
		return nil
	}
	return errors.New(otherwise)
}

func (p *prober) calls() {
	a, b := p.file("a"), p.file("b")
	defer a.Close()
	defer b.Close()
	p.err = errors.Join(p.err, p.Mkdir("d", 0o777))

	p.needs(bh.Callers, check(os.Getuid() == 0, "the process is not root"))
	if os.Getuid() == 0 {
		p.needs(bh.Callers, p.Chown("a", 1, 1))
		p.err = errors.Join(p.err, p.Chown("a", 0, 0))
	}
	p.groups()
	p.needs(bh.DeviceNodes, p.named("dev", p.Mknod("dev", unix.S_IFCHR|0o600, unix.Mkdev(1, 3))))
	h, err := p.Open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	p.needs(bh.Tmpfile, err)
	if err == nil {
		h.Close()
	}
	p.needs(bh.LinkOpen, p.named("linked", p.Linkfd(a, "linked")))
	h, err = p.Open("a", unix.O_RDONLY|unix.O_DIRECT, 0)
	p.needs(bh.DirectIO, err)
	if err == nil {
		h.Close()
	}
	p.needs(bh.LongLinks, p.named("long", p.Symlink(strings.Repeat("t", 4095), "long")))
	p.needs(bh.HugeFiles, b.Ftruncate(16<<40-4096))
	p.err = errors.Join(p.err, b.Ftruncate(1<<20))

	p.spaces(a)
	one := int64(0)
	_, err = a.CopyTo(b, &one, &one, 4096)
	p.needs(bh.CopyRange, err)

	p.needs(bh.RenameNoreplace, p.named("a2", p.Rename("a", "a2", unix.RENAME_NOREPLACE)))
	if p.lacks[bh.RenameNoreplace] == "" {
		p.err = errors.Join(p.err, p.Rename("a2", "a", 0))
		p.made = p.made[:len(p.made)-1]
	}
	p.needs(bh.RenameExchange, p.Rename("a", "b", unix.RENAME_EXCHANGE))
	p.needs(bh.RenameWhiteout, p.named("moved", p.Rename("a", "moved", unix.RENAME_WHITEOUT)))

	p.xattrs(b)
	p.locks(b)
	p.pages(b)
	p.attributes(b)
}

// groups tries whether a change of data leaves the set-group-ID bit to members of the file's group, and to no others.
func (p *prober) groups() {
	if os.Getuid() != 0 {
		return // no case goes without Callers
	}
	f := p.file("setgid")
	defer f.Close()
	after := func(by bh.Cred, stays bool, change func(f bh.File) error) error {
		err := errors.Join(p.Chown("setgid", 3, 2), p.Chmod("setgid", 0o2666), change(f.As(by)))
		st, serr := p.Lstat("setgid")
		return errors.Join(err, serr, check((st.Mode&unix.S_ISGID != 0) == stays, "the bit goes by something else than the caller's groups"))
	}
	decides := func(change func(f bh.File) error) error {
		return errors.Join(after(bh.Cred{UID: 1, GID: 1, Groups: []uint32{2}}, true, change), after(bh.Cred{UID: 1, GID: 1}, false, change))
	}
	p.needs(bh.WriteCaller, decides(func(f bh.File) error { _, err := f.Pwrite([]byte("x"), 0); return err }))
	p.needs(bh.SetattrCaller, decides(func(f bh.File) error { return f.Ftruncate(9) }))
}

func (p *prober) spaces(a *file) {
	const blk = 64 << 10
	p.needs(bh.Fallocate, errors.Join(a.Fallocate(0, 2<<20, blk), a.Fallocate(unix.FALLOC_FL_KEEP_SIZE, 4<<20, blk)))
	p.needs(bh.PunchHole, a.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 2*blk, blk))
	p.needs(bh.ZeroRange, a.Fallocate(unix.FALLOC_FL_ZERO_RANGE, 4*blk, blk))
	p.needs(bh.CollapseRange, a.Fallocate(unix.FALLOC_FL_COLLAPSE_RANGE, 6*blk, blk))
	p.needs(bh.InsertRange, a.Fallocate(unix.FALLOC_FL_INSERT_RANGE, 6*blk, blk))
	p.needs(bh.UnshareRange, a.Fallocate(unix.FALLOC_FL_UNSHARE_RANGE, 0, blk))

	h := p.file("sparse")
	defer h.Close()
	err := h.Ftruncate(0)
	_, werr := h.Pwrite(make([]byte, 4096), 4<<20)
	_, serr := h.Lseek(0, unix.SEEK_DATA)
	p.needs(bh.SeekUnsynced, serr)
	err = errors.Join(err, werr, h.Fsync())
	off, serr := h.Lseek(0, unix.SEEK_DATA)
	p.needs(bh.SeekHole, errors.Join(err, serr, check(off > 0, "a hole at the start is data")))
	st, err := h.Fstat()
	p.needs(bh.BlockCount, errors.Join(err, check(st.Blocks < 8192, "a hole counts as blocks")))
}

func (p *prober) xattrs(b *file) {
	p.needs(bh.XattrUser, b.Fsetxattr("user.probe", []byte("x"), 0))
	p.needs(bh.XattrTrusted, b.Fsetxattr("trusted.probe", []byte("x"), 0))
	list := make([]byte, 4096)
	n, err := b.As(bh.Cred{UID: 1, GID: 1}).Flistxattr(list)
	p.needs(bh.TrustedHidden, errors.Join(err, check(!bytes.Contains(list[:n], []byte("trusted.")), "a user sees them in the list")))
	p.needs(bh.XattrSecurity, b.Fsetxattr("security.probe", []byte("x"), 0))
	p.needs(bh.XattrHuge, b.Fsetxattr("user.huge", make([]byte, 64<<10), 0))
	// user:1000:rw- and what must go with it
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	p.needs(bh.ACL, b.Fsetxattr("system.posix_acl_access", acl, 0))
}

func (p *prober) pages(b *file) {
	var fs unix.Statfs_t
	var st unix.Statx_t
	err := errors.Join(unix.Fstatfs(b.fd, &fs), unix.Statx(b.fd, "", unix.AT_EMPTY_PATH, 0, &st))
	cached := fs.Type == unix.FUSE_SUPER_MAGIC && st.Attributes&unix.STATX_ATTR_DAX == 0
	p.needs(bh.SharedPages, errors.Join(err, check(!cached, "Linux's FUSE reads a page again that is being written")))
}

func (p *prober) locks(b *file) {
	p.needs(bh.Flock, b.Flock(unix.LOCK_EX|unix.LOCK_NB))
	p.needs(bh.PosixLocks, b.Fcntl(unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	p.needs(bh.OFDLocks, b.Fcntl(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}))
}

func (p *prober) attributes(b *file) {
	flags, err := b.GetFlags()
	err = errors.Join(err, b.SetFlags(flags|bh.AppendFlag), b.SetFlags(flags))
	p.needs(bh.FileFlags, err)
	x, err := b.GetFsxattr()
	old := x.Projid
	x.Projid = 77
	err = errors.Join(err, b.SetFsxattr(x))
	if err == nil {
		x.Projid = old
		p.err = errors.Join(p.err, b.SetFsxattr(x))
	}
	p.needs(bh.ProjectID, err)
	m, err := b.Mmap(0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	p.needs(bh.Mmap, err)
	if err == nil {
		p.err = errors.Join(p.err, m.Close())
	}

	early, late := unix.Timespec{Sec: -1e9, Nsec: 123456789}, unix.Timespec{Sec: 5e9, Nsec: 987654321}
	err = b.Futimens(&[2]unix.Timespec{early, late})
	st, serr := b.Fstat()
	p.needs(bh.Btime, errors.Join(serr, check(st.Mask&unix.STATX_BTIME != 0 && st.Btime.Sec != 0, "statx reports none")))
	p.needs(bh.WideTimes, errors.Join(err, check(st.Atime.Sec == early.Sec && st.Mtime.Sec == late.Sec, "times are cut")))
	p.needs(bh.FineTimes, errors.Join(err, check(st.Mtime.Nsec == 987654321, "nanoseconds are cut")))
	p.readTimes()

	dir, err := p.Lstat(".")
	p.needs(bh.DirNlink, errors.Join(err, check(dir.Nlink == 3, "the link count of a directory does not count its subdirectories")))
	p.needs(bh.SpecialOpen, nil)
}

// readTimes writes, reads and looks at the times, as the cases do: a client that caches or maps may not tell of reads
// and writes, or only of the first.
func (p *prober) readTimes() {
	old := &[2]unix.Timespec{{Sec: 1}, {Sec: 2}}
	w, err := p.Open("read", unix.O_RDWR|unix.O_CREAT, 0o666)
	if p.named("read", err) != nil {
		p.err = errors.Join(p.err, err)
		return
	}
	defer w.Close()
	page := make([]byte, 4096)
	for range 3 {
		_, err := w.Pwrite(page, 0)
		st, serr := p.Lstat("read")
		p.needs(bh.WriteTimes, errors.Join(err, serr, check(st.Mtime.Sec != old[1].Sec, "a write leaves the old time of modification")))
		p.err = errors.Join(p.err, p.Utimens("read", old, 0))
		r, err := p.Open("read", unix.O_RDONLY, 0)
		if err != nil {
			p.err = errors.Join(p.err, err)
			return
		}
		_, err = r.Read(page)
		st, serr = p.Lstat("read")
		p.needs(bh.Atime, errors.Join(err, serr, r.Close(),
			check(st.Atime.Sec != old[0].Sec, "a read leaves the old access time: a noatime mount, or a cache in between")))
		p.err = errors.Join(p.err, p.Utimens("read", old, 0))
	}
}
