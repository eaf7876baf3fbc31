package frontend_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestDirtyLogNamesExactlyTheChangedPages compares all of guest memory before and after requests of every kind with what
// the log says: each page that the device has written to is marked, in replies as in rings, and no other.
func TestDirtyLogNamesExactlyTheChangedPages(t *testing.T) {
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			skipPacked(t, f.packed)
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte{0xa5}, 100_000), 0o600))
			must(t, os.Symlink("to/nowhere", filepath.Join(dir, "link")))
			c := daemontest.Mount(t, daemontest.Start(t, dir, "--xattr"),
				frontend.Options{Packed: f.packed, Regions: frontend.PCRegions(16 << 20)}, fuseclient.Options{Polled: true, MaxData: 128 << 10})
			fe := c.Frontend()
			if fe.Features()&frontend.FLogAll == 0 || fe.Protocol()&frontend.ProtocolLogShmFD == 0 {
				if daemontest.Foreign() {
					t.Skip("this daemon does not log")
				}
				t.Fatal("the daemon does not log")
			}
			log, err := fe.StartLog()
			must(t, err)
			l := &logged{t: t, c: c, log: log}
			le64 := binary.LittleEndian.Uint64
			l.do("INIT", fuseclient.OpInit, 0, le(uint32(7), uint32(45), make([]byte, 56)), 64, 0)
			node := le64(l.do("LOOKUP", fuseclient.OpLookup, 1, []byte("f\x00"), 128, 0))
			link := le64(l.do("LOOKUP of a link", fuseclient.OpLookup, 1, []byte("link\x00"), 128, 0))
			l.do("LOOKUP of nothing", fuseclient.OpLookup, 1, []byte("nothing\x00"), 128, 0)
			l.do("an unknown opcode", 999, 1, nil, 128, 0)
			l.do("GETATTR", fuseclient.OpGetattr, node, make([]byte, 16), 104, 0)
			l.do("READLINK", fuseclient.OpReadlink, link, nil, 0, 4096)
			l.do("STATFS", fuseclient.OpStatfs, 1, nil, 80, 0)
			l.do("LISTXATTR", fuseclient.OpListxattr, node, le(uint32(1000), uint32(0)), 0, 1000)
			fh := le64(l.do("OPEN", fuseclient.OpOpen, node, le(uint32(2), uint32(0)), 16, 0))
			l.do("READ", fuseclient.OpRead, node, le(fh, uint64(0), uint32(100_000), make([]byte, 20)), 0, 100_000)
			l.do("READ at the end", fuseclient.OpRead, node, le(fh, uint64(99_000), uint32(50_000), make([]byte, 20)), 0, 50_000)
			l.do("WRITE", fuseclient.OpWrite, node, le(fh, uint64(0), uint32(5), make([]byte, 20), []byte("hello")), 8, 0)
			l.do("FSYNC", fuseclient.OpFsync, node, le(fh, uint64(0)), 0, 0)
			dh := le64(l.do("OPENDIR", fuseclient.OpOpendir, 1, make([]byte, 8), 16, 0))
			l.do("READDIRPLUS", fuseclient.OpReaddirplus, 1, le(dh, uint64(0), uint32(8192), make([]byte, 20)), 0, 8192)
			l.forget(node)
			if l.marked < 20 {
				t.Errorf("only %d pages were marked in all", l.marked)
			}

			must(t, fe.StopLog())
			log.Clear()
			l.off = true
			l.do("READ without the log", fuseclient.OpRead, node, le(fh, uint64(0), uint32(100_000), make([]byte, 20)), 0, 100_000)
			if p := log.Pages(); len(p) != 0 && !daemontest.Foreign() {
				t.Errorf("pages %#x are marked though logging is off", p)
			}
		})
	}
}

// logged makes requests, one at a time, and checks the log after each.
type logged struct {
	t      *testing.T
	c      *fuseclient.Client
	log    *frontend.DirtyLog
	off    bool // the log is
	marked int
}

// do makes a request with room for a reply of that many bytes and data, and returns the reply.
func (l *logged) do(what string, op fuseclient.Opcode, node uint64, args []byte, size, data int) []byte {
	l.t.Helper()
	r, err := l.c.Acquire(1)
	must(l.t, err)
	r.Begin(op, node, root)
	r.SetArgs(copy(r.Args(), args))
	r.Expect(size, true)
	if data > 0 {
		r.ExpectData(data)
	}
	l.serve(what, r, 1)
	return append(bytes.Clone(r.Reply()), make([]byte, 128)...)
}

func (l *logged) forget(node uint64) {
	l.t.Helper()
	r, err := l.c.Acquire(0)
	must(l.t, err)
	r.Begin(fuseclient.OpForget, node, root)
	r.SetArgs(copy(r.Args(), le(uint64(1))))
	r.NoReply()
	l.serve("FORGET", r, 0)
}

// serve compares memory as the driver left it with what the device made of it. The rings run only in between, so that all
// that the device does is seen.
func (l *logged) serve(what string, r *fuseclient.Request, queue int) {
	t, fe := l.t, l.c.Frontend()
	t.Helper()
	must(t, fe.Stop())
	// What the device writes differs from what is there.
	for _, b := range [][]byte{r.Reply(), r.Data()} {
		for i := range b {
			b[i] = 0xee
		}
	}
	must(t, r.Submit())
	l.log.Clear()
	before := memory(fe)
	must(t, fe.Start())
	must(t, fe.Queue(queue).ForceKick())
	var done [1]*fuseclient.Request
	for deadline := time.Now().Add(10 * time.Second); l.c.Reap(queue, done[:]) == 0; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: no reply", what)
		}
	}
	must(t, fe.Stop())
	if !l.off {
		l.compare(what, before)
	}
	must(t, fe.Start())
}

func (l *logged) compare(what string, before map[uint64][]byte) {
	fe := l.c.Frontend()
	for gpa, mem := range before {
		now := fe.Mem.Bytes(gpa, uint64(len(mem)))
		for off := 0; off < len(mem); off += frontend.PageSize {
			page := gpa + uint64(off)
			changed := !bytes.Equal(mem[off:off+frontend.PageSize], now[off:off+frontend.PageSize])
			switch marked := l.log.Dirty(page); {
			case changed && !marked:
				l.t.Errorf("%s: the page at %#x was written and is not marked", what, page)
			case marked && !changed && !isRing(fe, page):
				l.t.Errorf("%s: the page at %#x is marked and was not written", what, page)
			}
		}
	}
	l.marked += len(l.log.Pages())
}

// memory is a copy of guest memory, by region.
func memory(fe *frontend.Frontend) map[uint64][]byte {
	regions := map[uint64][]byte{}
	for _, r := range fe.Mem.Regions() {
		regions[r.GPA] = bytes.Clone(fe.Mem.Bytes(r.GPA, r.Size))
	}
	return regions
}

// isRing says whether the device may write to a page what is there already, because it belongs to a ring.
func isRing(fe *frontend.Frontend, page uint64) bool {
	for i := range fe.NumQueues() {
		q := fe.Queue(i)
		if page == q.UsedGPA&^(frontend.PageSize-1) || page == q.DescGPA&^(frontend.PageSize-1) {
			return true
		}
	}
	return false
}
