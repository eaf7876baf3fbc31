package dax

import (
	"runtime"
	"slices"
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

// freeze is an exclusion of faults from spans of the window.
type freeze struct {
	id     uint32
	spans  []span
	parked bool
	served []span // of READs since the pass began
	passes int
	thawed chan struct{}
	gates  []*realFile // whose size is held
}

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

// enter waits until no part of w is parked, notes the READ in the exclusions that
// have not yet parked, and resolves w.
//
// Waiting from the start of an exclusion on would be wrong: the kernel has
// locked the pages of this READ, and the one who excludes may be waiting for them.
func (s *server) enter(w span, pieces []piece) []piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	counted, patient := false, false
	for {
		f := s.parkedOver(w)
		if f != nil {
			if !counted {
				counted = true
				s.counters.parkedReads.Add(1)
			}
			s.mu.Unlock()
			<-f.thawed
			s.mu.Lock()
			continue
		}
		if f = s.slowOver(w); f == nil || patient {
			break
		}
		// The guest faults as fast as the passes go. Hold this READ back a
		// little, so that one of them comes through.
		patient = true
		wait := min(time.Millisecond<<(f.passes-patientPasses), 64*time.Millisecond)
		s.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-f.thawed:
		case <-t.C:
		}
		t.Stop()
		s.mu.Lock()
	}
	for _, f := range s.freezes {
		for _, sp := range f.spans {
			f.served = addSpan(f.served, sp.clip(w))
		}
	}
	pieces = s.resolve(w, pieces, true)
	for _, p := range pieces {
		if p.file != nil {
			continue
		}
		b := &s.bindings[p.window.Off/RangeSize]
		if w.Len > onePage && p.window.Len == w.Len {
			b.litter = true
		} else {
			b.dirty = true
		}
	}
	return pieces
}

func (s *server) parkedOver(w span) *freeze {
	for _, f := range s.freezes {
		if f.parked && overlapsAny(f.spans, w) {
			return f
		}
	}
	return nil
}

// excluded says whether there is an exclusion over w.
func (s *server) excluded(w span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.freezes {
		if overlapsAny(f.spans, w) {
			return true
		}
	}
	return false
}

// slowOver returns an exclusion over w that takes too many passes.
func (s *server) slowOver(w span) *freeze {
	for _, f := range s.freezes {
		if f.passes >= patientPasses && overlapsAny(f.spans, w) {
			return f
		}
	}
	return nil
}

const onePage = 4096

// patientPasses is how many passes of one exclusion serve READs at once.
const patientPasses = 4

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
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// serveLink answers the daemon until it is gone.
func (s *server) serveLink(l *link) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var m message
	for {
		if err := l.receive(&m); err != nil {
			return err
		}
		err := s.call(&m)
		if m.fd >= 0 {
			unix.Close(m.fd)
			m.fd = -1
		}
		m.errno = 0
		if err != nil {
			e, ok := err.(unix.Errno)
			if !ok {
				e = unix.EPROTO
			}
			m.errno = uint32(e)
		}
		if err := l.send(&m); err != nil {
			return err
		}
	}
}

// call does what m asks and turns it into the answer. A descriptor that it keeps
// it takes out of m.
func (s *server) call(m *message) error {
	if m.op == opNoWrite {
		return s.noWrite(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.op {
	case opHello:
		return nil
	case opBind:
		return s.bind(m)
	case opFreeze:
		s.nextID++
		s.freezes = append(s.freezes, &freeze{
			id:     s.nextID,
			spans:  slices.Clone(m.spans),
			thawed: make(chan struct{}),
		})
		m.id, m.spans = s.nextID, m.spans[:0]
		s.budget.look()
		return nil
	case opPark:
		f := s.freeze(m.id)
		if f == nil {
			return unix.ENOENT
		}
		m.spans = append(m.spans[:0], mergeSpans(f.served)...)
		f.served = f.served[:0]
		f.passes++
		f.parked = len(m.spans) == 0
		return nil
	case opThaw:
		return s.thaw(m)
	case opForget:
		if f := s.files[m.file]; f != nil {
			delete(s.files, m.file)
			delete(s.exports, m.file)
			s.unregister(f)
			e := f.werr.Swap(0)
			f.put()
			if e != 0 {
				return unix.Errno(e)
			}
		}
		return nil
	case opError:
		if f := s.files[m.file]; f != nil {
			if e := f.werr.Swap(0); e != 0 {
				return unix.Errno(e)
			}
		}
		return nil
	case opLost:
		m.values = m.values[:0]
		for mnt, e := range s.lost {
			if len(m.values) == 2*maxLost {
				break
			}
			m.values = append(m.values, mnt, uint64(e))
			delete(s.lost, mnt)
		}
		return nil
	case opExport:
		f, err := s.file(m)
		if err != nil {
			return err
		}
		if m.flags&flagPassthrough != 0 {
			s.exports[m.file] = &export{f}
		}
		return nil
	case opCounters:
		c := &s.counters
		m.values = append(m.values[:0], c.reads.Load(), c.readBytes.Load(), c.writes.Load(), c.writeBytes.Load(),
			c.parkedReads.Load(), c.discards.Load(), c.readErrors.Load(), c.unbounds.Load())
		for i := range s.bindings {
			m.values = append(m.values, s.bindings[i].faults)
		}
		return nil
	case opResident:
		switch {
		case m.flags&flagIdle != 0:
			s.budget.done(m.flags&flagNothing != 0)
		case m.flags&flagMeasuring != 0:
			m.off = uint64(s.budget.measure())
		case m.flags&flagMeasured != 0:
			s.budget.set(m.off)
		case m.flags&flagStep != 0:
			var next span
			if len(m.spans) > 0 {
				next = m.spans[0]
			}
			s.budget.step(next)
			m.spans = m.spans[:0]
		default:
			s.budget.free(m.off)
		}
		return nil
	}
	return unix.ENOSYS
}

// file returns the file that m names. A descriptor in m becomes the file's.
func (s *server) file(m *message) (*realFile, error) {
	old := s.files[m.file]
	if m.fd < 0 {
		if old == nil {
			return nil, unix.EBADF
		}
		return old, nil
	}
	f := newRealFile(m.file, m.fd, m.flags&flagWritable != 0)
	f.sparing = s.cfg.memory != 0
	m.fd = -1
	if old != nil {
		f.writeback = old.writeback
		for i := range s.bindings {
			if s.bindings[i].file == old {
				s.bindings[i].file = f
			}
		}
		old.put()
	}
	s.files[m.file] = f
	return f, nil
}

func (s *server) bind(m *message) error {
	f, err := s.file(m)
	if err != nil {
		return err
	}
	if uint64(m.index) >= uint64(len(s.bindings)) || m.off&rangeMask != 0 {
		return unix.EINVAL
	}
	b := &s.bindings[m.index]
	if b.file != nil && (b.file != f || b.off != m.off) {
		return unix.EEXIST
	}
	if b.dirty && m.flags&flagClean == 0 {
		return unix.EBUSY
	}
	if b.litter {
		m.flags |= flagLitter
	}
	*b = binding{file: f, off: m.off, faults: b.faults}
	return nil
}

func (s *server) freeze(id uint32) *freeze {
	for _, f := range s.freezes {
		if f.id == id {
			return f
		}
	}
	return nil
}

// thaw lets the READs over an exclusion go on. With flagUnbind they find the
// ranges showing nothing.
func (s *server) thaw(m *message) error {
	i := slices.IndexFunc(s.freezes, func(f *freeze) bool { return f.id == m.id })
	if i < 0 {
		return unix.ENOENT
	}
	f := s.freezes[i]
	if m.flags&flagUnbind != 0 {
		for _, sp := range f.spans {
			for r := sp.Off / RangeSize; r*RangeSize < sp.end(); r++ {
				s.bindings[r] = binding{dirty: !f.parked, faults: s.bindings[r].faults}
			}
		}
	}
	s.freezes = slices.Delete(s.freezes, i, i+1)
	f.release()
	m.spans = m.spans[:0]
	return nil
}

func (f *freeze) release() {
	for _, g := range f.gates {
		g.size.Unlock()
		g.put()
	}
	f.gates = nil
	close(f.thawed)
}

// noWrite takes the no-write gate of m.file for an exclusion.
func (s *server) noWrite(m *message) error {
	s.mu.Lock()
	file := s.files[m.file]
	if file == nil {
		s.mu.Unlock()
		return nil // nothing can be written to it
	}
	file.get()
	s.mu.Unlock()
	file.size.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.freeze(m.id)
	if f == nil {
		file.size.Unlock()
		file.put()
		return unix.ENOENT
	}
	f.gates = append(f.gates, file)
	return nil
}
