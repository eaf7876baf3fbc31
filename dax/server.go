package dax

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// server answers the host kernel's requests on the backing mount. It runs in a
// process of its own, which holds /dev/fuse and never opens, maps or waits for
// anything of the mount: so it can always die, and its death always aborts
// the connection.
//
// A READ is a page fault of the guest; it takes mu, briefly, and waits while its
// pages are frozen. A WRITE is writeback; somebody may hold any lock of the
// daemon while waiting for it, so it waits for nothing but the file itself and
// the no-write gate.
type server struct {
	fuse.RawFileSystem
	fuse *fuse.Server
	cfg  mountConfig

	// mu guards the fields below. Nothing is waited for under it.
	mu       sync.Mutex
	bindings []binding // by window range
	files    map[uint64]*realFile
	exports  map[uint64]*export
	freezes  []*freeze
	nextID   uint32
	lost     map[uint64]unix.Errno // what opLost answers

	counters serverCounters
	budget   budget
}

// binding says which file a range of the window shows.
type binding struct {
	file   *realFile // nil: none
	off    uint64
	dirty  bool // pages may be cached that are not of file
	litter bool // pages without content may be cached
	faults uint64
}

// export is a file that appears in the mount under a name of its own, for
// passthrough.
type export struct{ file *realFile }

type serverCounters struct {
	reads, readBytes     atomic.Uint64
	writes, writeBytes   atomic.Uint64
	parkedReads          atomic.Uint64
	discards             atomic.Uint64
	readErrors, unbounds atomic.Uint64
}

const numServerCounters = 8

// maxLost is how many mounts one answer to opLost tells of.
const maxLost = 1 << 10

// mountConfig is what the daemon tells the server when it starts it.
type mountConfig struct {
	window  uint64 // bytes, a multiple of RangeSize
	segment uint64 // bytes per file of the window, a multiple of RangeSize
	memory  uint64 // bytes that may be resident, 0 for no limit
}

func (c mountConfig) segments() int { return int((c.window + c.segment - 1) / c.segment) }

const (
	segmentNode = 1 << 32 // nodeid of the window's first segment
	exportNode  = 1 << 48 // nodeid of the export with id 0
	forever     = 1 << 30 // seconds
)

func newServer(cfg mountConfig) *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		cfg:           cfg,
		bindings:      make([]binding, cfg.window/RangeSize),
		files:         make(map[uint64]*realFile),
		exports:       make(map[uint64]*export),
		budget:        budget{limit: cfg.memory, less: make(chan struct{}), threads: make(map[uint32]time.Time)},
	}
}

func (s *server) String() string { return "virtiofsd-dax" }

// segmentSpan returns where segment i lies in the window.
func (s *server) segmentSpan(i uint64) span {
	off := i * s.cfg.segment
	return span{off, min(s.cfg.segment, s.cfg.window-off)}
}

// Lookup finds "sI", segment I of the window, and "fN", the export N.
func (s *server) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID || len(name) < 2 {
		return fuse.ENOENT
	}
	n, err := strconv.ParseUint(name[1:], 10, 40)
	if err != nil {
		return fuse.ENOENT
	}
	switch {
	case name[0] == 's' && n < uint64(s.cfg.segments()):
		out.NodeId = segmentNode + n
		out.EntryValid, out.AttrValid = forever, forever
	case name[0] == 'f':
		out.NodeId = exportNode + n
	default:
		return fuse.ENOENT
	}
	return s.attr(out.NodeId, &out.Attr)
}

func (s *server) attr(node uint64, a *fuse.Attr) fuse.Status {
	a.Ino, a.Nlink, a.Blksize = node, 1, 4096
	switch {
	case node == fuse.FUSE_ROOT_ID:
		a.Mode = unix.S_IFDIR | 0o700
	case node >= exportNode:
		e := s.export(node)
		if e == nil {
			return fuse.ENOENT
		}
		defer e.file.put()
		var st unix.Stat_t
		if err := unix.Fstat(e.file.fd, &st); err != nil {
			return fuse.ToStatus(err)
		}
		a.Mode = unix.S_IFREG | 0o600
		a.Size = max(uint64(st.Size)+rangeMask, RangeSize) &^ rangeMask
	default:
		a.Mode = unix.S_IFREG | 0o600
		a.Size = s.segmentSpan(node - segmentNode).Len
	}
	a.Blocks = a.Size / 512
	return fuse.OK
}

// export returns the export behind node with a reference to its file.
func (s *server) export(node uint64) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exports[node-exportNode]
	if e != nil {
		e.file.get()
	}
	return e
}

func (s *server) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId < exportNode {
		out.AttrValid = forever
	}
	return s.attr(in.NodeId, &out.Attr)
}

// Open never asks for FLUSH, which the process that closes the file would have to
// wait for, and keeps the cache. O_DIRECT marks the handle by which the
// daemon invalidates: the kernel writes back and drops the pages under a
// direct write before it looks at the data.
func (s *server) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_NOFLUSH | fuse.FOPEN_KEEP_CACHE
	switch {
	case in.NodeId >= exportNode:
		e := s.export(in.NodeId)
		if e == nil {
			return fuse.ENOENT
		}
		defer e.file.put()
		id, errno := s.register(e.file)
		if errno != 0 {
			return fuse.Status(errno)
		}
		out.OpenFlags = fuse.FOPEN_NOFLUSH | fuse.FOPEN_PASSTHROUGH
		out.BackingID = id
	case in.Flags&unix.O_DIRECT != 0:
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

// register returns the id of the file's registration with the kernel, which the
// first open makes.
func (s *server) register(f *realFile) (int32, unix.Errno) {
	r := &f.registration
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone:
		return 0, unix.ENOENT
	case r.id == 0:
		id, errno := s.fuse.RegisterBackingFd(&fuse.BackingMap{Fd: int32(f.fd)})
		if errno != 0 {
			return 0, errno
		}
		r.id = id
	}
	return r.id, 0
}

func (s *server) unregister(f *realFile) {
	r := &f.registration
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	if r.id != 0 {
		s.fuse.UnregisterBackingFd(r.id)
	}
}

// Read is a fault, or readahead that comes with one. A front-end marks the window
// for huge pages (QEMU does so with all it takes for RAM), and then the kernel
// reads the aligned 2 MiB and as much again behind them. What of that meets a
// range that shows nothing is refused, so that nothing is cached there that has
// to be found and taken away when the range is bound; an access gets its page of
// zeroes by a READ of that page alone.
func (s *server) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.NodeId < segmentNode || in.NodeId >= exportNode {
		return nil, fuse.EIO
	}
	seg := s.segmentSpan(in.NodeId - segmentNode)
	where := span{seg.Off + in.Offset, uint64(min(len(buf), int(in.Size)))}.clip(seg)
	buf = buf[:where.Len]
	s.counters.reads.Add(1)
	s.counters.readBytes.Add(where.Len)
	s.budget.charge(where, in.Pid, s.excluded)
	defer s.budget.leave()
	status := fuse.OK
	var pieces [4]piece
	for _, p := range s.enter(where, pieces[:0]) {
		b := buf[p.window.Off-where.Off:][:p.window.Len]
		if p.file == nil {
			if where.Len > onePage && p.window.Len == where.Len {
				return nil, fuse.EIO
			}
			clear(b)
			continue
		}
		if err := p.file.readFull(b, p.off); err != nil {
			s.counters.readErrors.Add(1)
			status = fuse.ToStatus(err)
		}
		p.file.put()
	}
	if status != fuse.OK {
		return nil, status
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// piece is a part of a request that lies in one range.
type piece struct {
	window span
	file   *realFile // with a reference; nil: the range shows no file
	off    uint64
}

const onePage = 4096

func (s *server) resolve(w span, pieces []piece, fault bool) []piece {
	for off := w.Off; off < w.end(); {
		i := off / RangeSize
		end := min((i+1)*RangeSize, w.end())
		b := &s.bindings[i]
		p := piece{window: span{off, end - off}, off: b.off + off&rangeMask}
		if b.file != nil {
			p.file = b.file.get()
		} else if fault {
			s.counters.unbounds.Add(1)
		}
		if fault {
			b.faults++
		}
		pieces = append(pieces, p)
		off = end
	}
	return pieces
}

// Write takes writeback of the window's pages. It reports success whatever
// happens, since an error would mark the whole segment; the file's own error
// is kept and told by opError, and by opLost for all files of a mount.
func (s *server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if in.NodeId < segmentNode || in.NodeId >= exportNode {
		return 0, fuse.EIO
	}
	seg := s.segmentSpan(in.NodeId - segmentNode)
	where := span{seg.Off + in.Offset, uint64(len(data))}.clip(seg)
	s.counters.writes.Add(1)
	var pieces [4]piece
	s.mu.Lock()
	l := s.resolve(where, pieces[:0], false)
	s.mu.Unlock()
	for _, p := range l {
		if p.file == nil {
			s.counters.discards.Add(1)
			continue
		}
		n, err := p.file.writeBack(data[p.window.Off-where.Off:][:p.window.Len], p.off)
		s.counters.writeBytes.Add(uint64(n))
		if err != nil {
			s.lose(p.file, err)
		}
		p.file.put()
	}
	return uint32(len(data)), fuse.OK
}

// lose keeps an error of a WRITE to f for opLost.
func (s *server) lose(f *realFile, err error) {
	var st unix.Statx_t
	// An error leaves the mount 0, which is none.
	_ = unix.Statx(f.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = make(map[uint64]unix.Errno)
	}
	if s.lost[st.Mnt_id] == 0 {
		s.lost[st.Mnt_id] = errnoOf(err).(unix.Errno)
	}
}

func (s *server) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) != 1 {
		return 0, fuse.ENOSYS
	}
	return s.Write(cancel, in, data[0])
}

// Everything else that changes something is refused: nobody but the daemon can
// name the mount, and it has no use for it.
func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }
func (s *server) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return fuse.EPERM
}

// Fsync leaves it to the kernel, which asks once: WRITEs are done when they are answered.
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.ENOSYS }
