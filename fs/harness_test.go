package fs

import (
	"encoding/binary"
	"log/slog"
	"runtime"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// guest is a guest's driver as far as fs can see one: it lays requests out in
// memory that it shares with the file system, and reads the replies.
type guest struct {
	t      testing.TB
	fs     *FS
	thread *Thread
	mem    *guestmem.Memory
	ram    []byte
	unique uint64
	uid    uint32
	gid    uint32
	pid    uint32 // 0 is 1
	in     guestmem.Buffers
	out    guestmem.Buffers
	// inline serves as a queue's reader would; again counts what it passed on.
	inline bool
	again  int
}

const (
	guestRAM   = 4 << 20
	requestAt  = 0
	replyAt    = 2 << 20
	replyRoom  = maxWrite + 4096
	guestFlags = fuse.CAP_INIT_EXT | fuse.CAP_MAX_PAGES | fuse.CAP_BIG_WRITES | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS |
		fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_SUBMOUNTS | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK |
		fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS | fuse.CAP_WRITEBACK_CACHE | fuse.CAP_CREATE_SUPP_GROUP | fuse.CAP_SECURITY_CTX
)

func newGuest(t testing.TB, opts Options) *guest {
	g := newGuestRaw(t, opts)
	g.mustInit(guestFlags)
	return g
}

func newGuestRaw(t testing.TB, opts Options) *guest {
	t.Helper()
	runtime.LockOSThread() // the thread's umask and credentials are changed; it ends with the test
	if opts.SharedDir == "" {
		opts.SharedDir = t.TempDir()
	}
	opts.ReaddirPlus, opts.AnnounceSubmounts = true, true
	if opts.Logger == nil && testing.Verbose() {
		opts.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	f, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	thread, err := f.newThread()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, guestRAM); err != nil {
		t.Fatal(err)
	}
	ram, err := unix.Mmap(fd, 0, guestRAM, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, fs: f, thread: thread, ram: ram, mem: new(guestmem.Memory)}
	if err := g.mem.Replace([]guestmem.RegionSpec{{Size: guestRAM, FD: fd, Kind: guestmem.RAM}}); err != nil {
		t.Fatal(err)
	}
	return g
}

// close gives the guest's memory back.
func (g *guest) close() {
	unix.Munmap(g.ram)
	if err := g.mem.Replace(nil); err != nil {
		g.t.Error(err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

func (g *guest) mustInit(flags uint64) *fuse.InitOut {
	g.t.Helper()
	rep, e := g.call(opInit, 0, le(uint32(7), uint32(45), uint32(1<<20), uint32(flags), uint32(flags>>32), [11]uint32{}))
	if e != 0 {
		g.t.Fatalf("INIT: %v", e)
	}
	return overlay[fuse.InitOut](aligned(rep))
}

// le encodes values as the wire does.
func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b = append(append(b, v...), 0)
		case []byte:
			b = append(b, v...)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return b
}

func aligned(b []byte) []byte {
	a := alignedBytes(len(b))
	copy(a, b)
	return a
}

func errno(e int32) unix.Errno { return unix.Errno(-e) }

// call sends one well-formed request and returns the reply's payload.
func (g *guest) call(op uint32, node uint64, body []byte) ([]byte, unix.Errno) {
	g.t.Helper()
	return g.callRoom(op, node, body, replyRoom)
}

func (g *guest) callRoom(op uint32, node uint64, body []byte, room int) ([]byte, unix.Errno) {
	g.t.Helper()
	return g.callExt(op, node, body, nil, room)
}

func (g *guest) callExt(op uint32, node uint64, body, ext []byte, room int) ([]byte, unix.Errno) {
	g.t.Helper()
	g.unique++
	req := le(uint32(inHeaderLen+len(body)+len(ext)), op, g.unique, node, g.uid, g.gid, max(g.pid, 1), uint16(len(ext)/8), uint16(0), body, ext)
	n := g.send(req, room)
	if n == 0 {
		return nil, 0
	}
	rep := g.ram[replyAt:][:n]
	if got := binary.LittleEndian.Uint32(rep); int(got) != n {
		g.t.Fatalf("the used length is %d, the reply says %d", n, got)
	}
	if got := binary.LittleEndian.Uint64(rep[8:]); got != g.unique {
		g.t.Fatalf("the reply is for %d, not %d", got, g.unique)
	}
	return append([]byte(nil), rep[outHeaderLen:]...), errno(int32(binary.LittleEndian.Uint32(rep[4:])))
}

// send puts raw bytes before the file system and returns the used length.
func (g *guest) send(req []byte, room int) int {
	g.t.Helper()
	for mayBlock := !g.inline; ; mayBlock = true {
		n, v := g.serve(req, room, mayBlock)
		switch v {
		case device.Done:
			return int(n)
		case device.Again:
			if mayBlock {
				g.t.Fatal("a request that may block asked for a worker")
			}
			g.again++
		case device.Detach:
		default:
			g.t.Fatalf("verdict %d", v)
		}
	}
}

// serve has raw bytes served once.
func (g *guest) serve(req []byte, room int, mayBlock bool) (written uint32, v device.Verdict) {
	g.t.Helper()
	copy(g.ram[requestAt:], req)
	table := g.mem.Acquire()
	defer table.Release()
	g.in.Reset(table)
	g.out.Reset(table)
	if len(req) > 0 {
		if err := g.in.Append(requestAt, uint32(len(req))); err != nil {
			g.t.Fatal(err)
		}
	}
	if room > 0 {
		if err := g.out.Append(replyAt, uint32(room)); err != nil {
			g.t.Fatal(err)
		}
	}
	return g.thread.Serve(1, &g.in, &g.out, mayBlock)
}

// must fails the test unless e is 0.
func (g *guest) must(what string, e unix.Errno) {
	g.t.Helper()
	if e != 0 {
		g.t.Fatalf("%s: %v", what, e)
	}
}

func (g *guest) entry(rep []byte) *fuse.EntryOut {
	g.t.Helper()
	out := overlay[fuse.EntryOut](aligned(rep))
	if out == nil {
		g.t.Fatalf("an entry of %d bytes", len(rep))
	}
	return out
}

func (g *guest) lookup(dir uint64, name string) (*fuse.EntryOut, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opLookup, dir, le(name))
	if e != 0 {
		return nil, e
	}
	return g.entry(rep), 0
}

// create makes a file and returns its nodeid and an open handle.
func (g *guest) create(dir uint64, name string, flags, mode uint32) (node, fh uint64) {
	g.t.Helper()
	rep, e := g.call(opCreate, dir, le(flags, mode, uint32(0), uint32(0), name))
	g.must("CREATE "+name, e)
	out := overlay[fuse.CreateOut](aligned(rep))
	return out.NodeId, out.Fh
}

func (g *guest) mkdir(dir uint64, name string) uint64 {
	g.t.Helper()
	rep, e := g.call(opMkdir, dir, le(uint32(0o755), uint32(0), name))
	g.must("MKDIR "+name, e)
	return g.entry(rep).NodeId
}

func (g *guest) open(node uint64, flags uint32) (uint64, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opOpen, node, le(flags, uint32(0)))
	if e != 0 {
		return 0, e
	}
	return overlay[fuse.OpenOut](aligned(rep)).Fh, 0
}

func (g *guest) write(node, fh, off uint64, data []byte) (int, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opWrite, node, le(fh, off, uint32(len(data)), uint32(0), uint64(0), uint32(0), uint32(0), data))
	if e != 0 {
		return 0, e
	}
	return int(overlay[fuse.WriteOut](aligned(rep)).Size), 0
}

func (g *guest) read(node, fh, off uint64, size int) ([]byte, unix.Errno) {
	g.t.Helper()
	return g.callRoom(opRead, node, le(fh, off, uint32(size), uint32(0), uint64(0), uint32(0), uint32(0)), outHeaderLen+size)
}

func (g *guest) getattr(node uint64) (*fuse.AttrOut, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opGetattr, node, le(uint32(0), uint32(0), uint64(0)))
	if e != 0 {
		return nil, e
	}
	return overlay[fuse.AttrOut](aligned(rep)), 0
}

// setattr sends a SETATTR with all values 0.
func (g *guest) setattr(node uint64, valid uint32) (*fuse.AttrOut, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opSetattr, node, le(valid, [21]uint32{}))
	if e != 0 {
		return nil, e
	}
	return overlay[fuse.AttrOut](aligned(rep)), 0
}
