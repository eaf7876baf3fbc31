package dax

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// backing is the daemon's side of the backing mount: the process that serves it,
// the links to that, and the files of the window.
//
// The daemon may wait for the mount, since another process serves it; it must
// not hold /dev/fuse, and maps nothing of it.
type backing struct {
	cfg   mountConfig
	log   *slog.Logger
	pid   int
	stop  chan struct{} // closed: the thread that started the process may end
	ended chan struct{} // closed: the process has been reaped
	dead  atomic.Bool
	dev   uint64 // st_dev of the mount

	mnt    int
	links  chan *link
	all    []*link
	kicked int // eventfd: the server has brought in many pages
	segs   []segment

	// copies says that the kernel counts a page as written as soon as it has
	// copied it for the server (up to Linux 6.15): only fsync waits for that.
	copies bool

	// hole is memory that cannot be read: a direct write from it drops
	// pages and writes nothing.
	hole []byte

	closeOnce sync.Once
}

// segment is one file of the window.
type segment struct {
	rw    int // for the front-end, and for buffers that lie in the window
	inval int // opened O_DIRECT
}

const (
	numLinks = 4
	holeSize = 64 << 20
)

// startBacking starts the process that serves the mount and opens the window.
func startBacking(cfg mountConfig, command []string, log *slog.Logger) (*backing, error) {
	b := &backing{
		cfg: cfg, log: log, mnt: -1,
		stop: make(chan struct{}), ended: make(chan struct{}),
		links: make(chan *link, numLinks),
	}
	if err := b.start(command); err != nil {
		return nil, err
	}
	if err := b.open(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *backing) start(command []string) error {
	if len(command) == 0 {
		command = []string{"/proc/self/exe", "dax-backing"}
	}
	cmd := exec.Command(command[0], append(command[1:],
		strconv.FormatUint(b.cfg.window, 10), strconv.FormatUint(b.cfg.segment, 10),
		strconv.FormatUint(b.cfg.memory, 10), strconv.Itoa(numLinks))...)
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	// A thread of the daemon may be waiting for the mount when the daemon is
	// killed, and keep its descriptors open until it gets an answer. So the
	// server does not only wait for the links to close: it dies with the
	// thread that started it, which waits for nothing else.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	for range numLinks {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("dax: link to the backing process: %w", err)
		}
		for _, fd := range p {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, linkBuffer)
		}
		l := newLink(p[0])
		b.all = append(b.all, l)
		b.links <- l
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(p[1]), "link"))
	}
	var err error
	if b.kicked, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("dax: eventfd: %w", err)
	}
	fd, err := unix.FcntlInt(uintptr(b.kicked), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("dax: eventfd: %w", err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "eventfd"))
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		// Inherited: the server's allocations must not wait for writeback that
		// waits for the server.
		if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
			b.log.Info("the process that serves the DAX window is no I/O flusher (needs CAP_SYS_RESOURCE)", "err", err)
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			<-b.stop
		}
	}()
	err = <-started
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if err != nil {
		for _, l := range b.all {
			unix.Close(l.fd)
		}
		return fmt.Errorf("dax: starting the process that serves the backing mount (%s): %w", command[0], err)
	}
	b.pid = cmd.Process.Pid
	go func() {
		err := cmd.Wait()
		if !b.dead.Swap(true) {
			b.log.Error("the process that serves the DAX window has ended; restart the virtual machine", "err", err)
		}
		close(b.ended)
	}()
	return nil
}

func (b *backing) open() error {
	m := message{op: opHello, fd: -1}
	if err := b.call(&m); err != nil {
		return fmt.Errorf("dax: the process that serves the backing mount did not start: %w", err)
	}
	if m.fd < 0 {
		return errors.New("dax: no mount from the process that serves it")
	}
	b.mnt = m.fd
	for i := range b.cfg.segments() {
		name := "s" + strconv.Itoa(i)
		rw, err := unix.Openat(b.mnt, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("dax: opening the window: %w", err)
		}
		s := segment{rw: rw, inval: -1}
		b.segs = append(b.segs, s)
		if s.inval, err = unix.Openat(b.mnt, name, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("dax: opening the window: %w", err)
		}
		b.segs[i] = s
	}
	b.copies = copiesForWriteback()
	var st unix.Stat_t
	if err := unix.Fstat(b.segs[0].rw, &st); err != nil {
		return fmt.Errorf("dax: the window: %w", err)
	}
	b.dev = st.Dev
	hole, err := unix.Mmap(-1, 0, holeSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("dax: reserving addresses: %w", err)
	}
	b.hole = hole
	return b.probe()
}

// probe makes sure that invalidation works on this kernel.
func (b *backing) probe() error {
	var one [1]byte
	if _, err := unix.Pread(b.segs[0].rw, one[:], 0); err != nil {
		return fmt.Errorf("dax: reading the window: %w", err)
	}
	w := span{0, RangeSize}
	if n, err := b.resident(w); err == nil && n == 0 {
		return errors.New("dax: the kernel does not cache the window")
	}
	if err := b.invalidate(w); err != nil {
		return fmt.Errorf("dax: invalidating the window: %w", err)
	}
	if n, err := b.resident(w); err == nil && n != 0 {
		return errors.New("dax: this kernel cannot take back pages of the window (needs Linux 6.6); use --dax-backing=passthrough")
	}
	return nil
}

// close ends the mount. The front-end must have unmapped the window before.
func (b *backing) close() {
	b.closeOnce.Do(func() {
		b.dead.Store(true)
		for _, s := range b.segs {
			unix.Close(s.rw)
			if s.inval >= 0 {
				unix.Close(s.inval)
			}
		}
		if b.mnt >= 0 {
			unix.Close(b.mnt)
		}
		for _, l := range b.all {
			unix.Shutdown(l.fd, unix.SHUT_RDWR)
		}
		<-b.ended
		close(b.stop)
		for range b.all {
			l := <-b.links // every call has ended
			unix.Close(l.fd)
		}
		unix.Close(b.kicked)
		if b.hole != nil {
			unix.Munmap(b.hole)
		}
	})
}

// call sends m and replaces it by the answer, whose errno becomes the error.
func (b *backing) call(m *message) error {
	l := <-b.links
	defer func() { b.links <- l }()
	if b.dead.Load() && m.op != opHello {
		return unix.EIO
	}
	op := m.op
	if err := l.send(m); err != nil {
		return err
	}
	receive := l.receivePlain
	if op == opHello {
		receive = l.receive
	}
	if err := receive(m); err != nil {
		return err
	}
	if m.op != op {
		return fmt.Errorf("dax: answer %d to message %d", m.op, op)
	}
	if m.errno != 0 {
		return unix.Errno(m.errno)
	}
	return nil
}

// at returns the segment that holds w, and w's offset in it. w lies in one
// segment.
func (b *backing) at(w span) (segment, int64) {
	return b.segs[w.Off/b.cfg.segment], int64(w.Off % b.cfg.segment)
}

// pieces calls f for the parts of w that lie in one segment and are no longer
// than limit.
func (b *backing) pieces(w span, limit uint64, f func(s segment, off int64, n int64) error) error {
	for w.Len > 0 {
		s, off := b.at(w)
		n := min(w.Len, b.cfg.segment-uint64(off), limit)
		if err := f(s, off, int64(n)); err != nil {
			return err
		}
		w.Off += n
		w.Len -= n
	}
	return nil
}

// invalidate writes back the dirty pages of w, waits for that, and takes all pages
// of w away from who has them mapped. A page that comes back meanwhile stays.
//
// The kernel does it in the course of a direct write, before it looks at the
// data (fuse_direct_io); the data here cannot be read, so none are written. The
// notification that FUSE has for the purpose is written to /dev/fuse, and whoever
// holds that open while waiting for writeback could not be killed.
func (b *backing) invalidate(w span) error {
	return b.pieces(w, holeSize, func(s segment, off, n int64) error {
		for try := 0; ; try++ {
			_, err := unix.Pwrite(s.inval, b.hole[:n], off)
			switch {
			case err == unix.EFAULT:
				return nil
			case err == unix.EINTR:
			case err == unix.EBUSY && try < 100:
				// Somebody holds a page for a moment.
				runtime.Gosched()
			case err == nil:
				return errors.New("dax: an invalidation was taken for a write")
			default:
				return err
			}
		}
	})
}

// writeBack writes the dirty pages of the spans to their files and waits for that.
func (b *backing) writeBack(spans ...span) error {
	for _, w := range spans {
		err := b.pieces(w, b.cfg.segment, func(s segment, off, n int64) error {
			return unix.SyncFileRange(s.rw, off, n,
				unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
		})
		if err != nil {
			return err
		}
	}
	if !b.copies {
		return nil
	}
	for i, s := range b.segs {
		segment := span{uint64(i) * b.cfg.segment, b.cfg.segment}
		if !overlapsAny(spans, segment) {
			continue
		}
		// All of the segment's pages, but there is no other call that does not
		// map it.
		if err := unix.Fsync(s.rw); err != nil {
			return err
		}
	}
	return nil
}

// copiesForWriteback says whether this kernel's FUSE writes copies of pages back. One
// that does not tell its version is taken for an old one.
func copiesForWriteback() bool {
	var u unix.Utsname
	major, minor := 0, 0
	if unix.Uname(&u) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	}
	return major < 6 || major == 6 && minor < 16
}

// dropUnused drops pages of w that are clean and that nobody has mapped.
func (b *backing) dropUnused(w span) {
	b.pieces(w, b.cfg.segment, func(s segment, off, n int64) error {
		return unix.Fadvise(s.rw, off, n, unix.FADV_DONTNEED)
	})
}

// resident returns the number of bytes of w in the page cache.
func (b *backing) resident(w span) (uint64, error) {
	var pages uint64
	err := b.pieces(w, b.cfg.segment, func(s segment, off, n int64) error {
		var st unix.Cachestat_t
		if err := unix.Cachestat(uint(s.rw), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0); err != nil {
			return err
		}
		pages += st.Cache
		return nil
	})
	return pages * uint64(os.Getpagesize()), err
}
