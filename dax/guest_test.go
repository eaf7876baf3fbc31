package dax

import (
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A test's guest is a process that has the window mapped, as the front-end has,
// and touches it from several threads. It has to be another process: a fault
// that waits stops a processor of the Go runtime it happens in.

type guestCall struct {
	ID   uint64
	Op   string
	Off  uint64
	Len  uint64
	Data []byte
	Seed uint64
}

type guestReply struct {
	ID   uint64
	Data []byte
	N    uint64
	Err  string
}

type guest struct {
	t    testing.TB
	cmd  *exec.Cmd
	mu   sync.Mutex
	enc  *gob.Encoder
	next uint64
	wait map[uint64]chan guestReply
}

// startGuest maps the window of m in a new process, which ends with the test.
func startGuest(t testing.TB, m *Manager) *guest {
	t.Helper()
	g := spawnGuest(m, os.Stderr)
	g.t = t
	t.Cleanup(g.kill)
	return g
}

func spawnGuest(m *Manager, stderr io.Writer) *guest {
	cmd := exec.Command("/proc/self/exe", "dax-guest", strconv.FormatUint(m.cfg.Window, 10), strconv.FormatUint(m.back.cfg.segment, 10))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=32", "GOGC=off")
	cmd.Stderr = stderr
	for _, s := range m.back.segs {
		fd, err := unix.FcntlInt(uintptr(s.rw), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			panic(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "segment"))
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	g := &guest{cmd: cmd, enc: gob.NewEncoder(in), wait: make(map[uint64]chan guestReply)}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	go g.replies(out)
	return g
}

func (g *guest) replies(r io.Reader) {
	dec := gob.NewDecoder(r)
	for {
		var rep guestReply
		err := dec.Decode(&rep)
		g.mu.Lock()
		if err != nil {
			for id, c := range g.wait {
				c <- guestReply{ID: id, Err: "the guest is gone"}
				delete(g.wait, id)
			}
			g.mu.Unlock()
			return
		}
		g.wait[rep.ID] <- rep
		delete(g.wait, rep.ID)
		g.mu.Unlock()
	}
}

// start begins c and returns where its reply comes.
func (g *guest) start(c guestCall) chan guestReply {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	c.ID = g.next
	ch := make(chan guestReply, 1)
	g.wait[c.ID] = ch
	if err := g.enc.Encode(&c); err != nil {
		ch <- guestReply{Err: err.Error()}
		delete(g.wait, c.ID)
	}
	return ch
}

func (g *guest) do(c guestCall) guestReply {
	g.t.Helper()
	r := <-g.start(c)
	if r.Err != "" {
		g.t.Errorf("guest: %s at %#x: %s", c.Op, c.Off, r.Err)
	}
	return r
}

func (g *guest) write(off uint64, data []byte) {
	g.t.Helper()
	g.do(guestCall{Op: "write", Off: off, Data: data})
}

func (g *guest) read(off, n uint64) []byte {
	g.t.Helper()
	return g.do(guestCall{Op: "read", Off: off, Len: n}).Data
}

// kill ends the guest, as a front-end that is killed.
func (g *guest) kill() {
	g.cmd.Process.Kill()
	g.cmd.Wait()
}

// guestMain is the guest's process.
func guestMain(args []string) error {
	debug.SetGCPercent(-1)
	window, _ := strconv.ParseUint(args[0], 10, 64)
	segment, _ := strconv.ParseUint(args[1], 10, 64)
	v := &vcpu{segment: segment, enc: gob.NewEncoder(os.Stdout)}
	for off := uint64(0); off < window; off += segment {
		b, err := unix.Mmap(3+len(v.mem), 0, int(min(segment, window-off)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		// As QEMU does to everything that it takes for RAM. A fault then reads
		// at least 2 MiB ahead, whatever readahead is set to.
		if err := unix.Madvise(b, unix.MADV_HUGEPAGE); err != nil {
			return err
		}
		v.mem = append(v.mem, b)
	}
	dec := gob.NewDecoder(os.Stdin)
	for {
		var c guestCall
		if err := dec.Decode(&c); err != nil {
			return nil
		}
		halt := v.halt.Load() // now: a "stop" that comes later must find this call running
		go func() {
			r := v.run(&c, halt)
			r.ID = c.ID
			v.mu.Lock()
			v.enc.Encode(&r)
			v.mu.Unlock()
		}()
	}
}

type vcpu struct {
	mem     [][]byte
	segment uint64
	mu      sync.Mutex
	enc     *gob.Encoder
	halt    atomic.Uint64 // generation of "stop"
}

func (v *vcpu) at(off uint64) []byte { return v.mem[off/v.segment][off%v.segment:] }

func (v *vcpu) run(c *guestCall, h uint64) (r guestReply) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	switch c.Op {
	case "write":
		copy(v.at(c.Off), c.Data)
	case "read":
		r.Data = append([]byte(nil), v.at(c.Off)[:c.Len]...)
	case "sum": // number of bytes that are not Seed
		for _, b := range v.at(c.Off)[:c.Len] {
			if b != byte(c.Seed) {
				r.N++
			}
		}
	case "touch": // reads one byte at every Seed bytes, once; N is how long it takes, in ns
		start := time.Now()
		for o := uint64(0); o < c.Len; o += c.Seed {
			r.Data = append(r.Data[:0], v.at(c.Off + o)[0])
		}
		r.N = uint64(time.Since(start))
	case "dirty": // writes Data at each page's start, once
		for o := uint64(0); o < c.Len; o += 4096 {
			copy(v.at(c.Off+o), c.Data)
		}
	case "watch": // the same, over and over
		for v.halt.Load() == h {
			for _, b := range v.at(c.Off)[:c.Len] {
				if b != byte(c.Seed) {
					r.N++
				}
			}
		}
	case "pwrite": // writes what is there to the start of the file called Data, by a system call
		fd, err := unix.Open(string(c.Data), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			var n int
			n, err = unix.Pwrite(fd, v.at(c.Off)[:c.Len], 0)
			r.N = uint64(n)
			unix.Close(fd)
		}
		if err != nil {
			r.Err = err.Error()
		}
	case "stop":
		v.halt.Add(1)
	case "fault": // touches one byte of each page, over and over
		for v.halt.Load() == h {
			for o := uint64(0); o < c.Len && v.halt.Load() == h; o += 4096 {
				r.N += uint64(v.at(c.Off + o)[0])&1 + 1
			}
		}
	case "store": // writes Data at each page's start, over and over
		for v.halt.Load() == h {
			for o := uint64(0); o < c.Len && v.halt.Load() == h; o += 4096 {
				copy(v.at(c.Off+o), c.Data)
				r.N++
			}
		}
	case "rewrite": // rewrites whole pages and checks what was there
		gen := make([]byte, c.Len/4096)
		for v.halt.Load() == h {
			for o := uint64(0); o < c.Len && v.halt.Load() == h; o += 4096 {
				p, g := v.at(c.Off + o)[:4096], &gen[o/4096]
				for i, b := range p {
					if b != *g && r.Err == "" {
						r.Err = fmt.Sprintf("page %#x+%d: %d, want %d", c.Off+o, i, b, *g)
					}
				}
				*g++
				for i := range p {
					p[i] = *g
				}
				r.N++
			}
		}
		r.Data = gen
	default:
		r.Err = "unknown op"
	}
	return r
}

// testManager makes a Manager whose mapper accepts everything.
func testManager(t testing.TB, cfg Config) *Manager {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("skip: the backing mount needs root")
	}
	if err := unix.Access("/dev/fuse", unix.R_OK); err != nil {
		t.Skip("skip: no /dev/fuse here")
	}
	if cfg.Window == 0 {
		cfg.Window = 16 * RangeSize
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.SetMapper(newFakeFrontend())
	t.Cleanup(func() {
		if err := m.Check(); err != nil {
			t.Error(err)
		}
		m.Close()
	})
	return m
}

// watchdog ends the backing mount if nothing has got done for d: whoever waits for
// it then gets an error, and no process stays unkillable. Who waits for a lock of
// this process does so still; then it ends that too. What counts is exclusions
// that were completed, so that a slow machine is not taken for a hang; a test that
// makes none has d in all, and any has ten times that.
func watchdog(t testing.TB, m *Manager, d time.Duration) {
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		begin := time.Now()
		since, seen := begin, uint64(0)
		for time.Since(since) < d && time.Since(begin) < 10*d {
			select {
			case <-stop:
				return
			case <-time.After(d / 20):
			}
			if n := m.stats.Exclusions.Load(); n != seen {
				since, seen = time.Now(), n
			}
		}
		buf := make([]byte, 1<<20)
		t.Errorf("nothing done for %v, after %d exclusions; aborting the backing mount\n%s", time.Since(since), seen, buf[:runtime.Stack(buf, true)])
		syscall.Kill(m.back.pid, syscall.SIGKILL)
		select {
		case <-stop:
		case <-time.After(10 * time.Second):
			panic("threads of the test wait for each other")
		}
	}()
}

// testFile is a file that can be mapped.
type testFile struct {
	Inode
	*os.File
}

func (f *testFile) OpenDAX(write bool) (int, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	return unix.Open(f.Name(), flags|unix.O_CLOEXEC, 0)
}

func newTestFile(t testing.TB, size int64, fill byte) *testFile {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = fill
	}
	for off := int64(0); off < size; off += int64(len(b)) {
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	return &testFile{File: f}
}

// show maps range i of the window to f from foff.
func show(t testing.TB, m *Manager, op *Op, f *testFile, foff uint64, i uint32) {
	t.Helper()
	if err := m.SetupMapping(op, &f.Inode, f, foff, uint64(i)*RangeSize, RangeSize, SetupRead|SetupWrite); err != nil {
		t.Fatalf("mapping range %d: %v", i, err)
	}
}

func (f *testFile) bytes(t testing.TB, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if k, err := f.ReadAt(b, off); err != nil && err != io.EOF {
		t.Fatal(err)
	} else {
		b = b[:k]
	}
	return b
}
