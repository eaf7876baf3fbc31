package frontend_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestMemoryComesAndGoesUnderLoad plugs memory in, has a file read into it, and takes it away again, while other requests
// are served. Memory that has gone is no longer written to, and neither mapped nor held open by the daemon.
func TestMemoryComesAndGoesUnderLoad(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			const plugged, size, chunk = 1 << 40, 1 << 20, 64 << 10
			dir := t.TempDir()
			content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
			must(t, os.WriteFile(filepath.Join(dir, "f"), content, 0o600))
			d := daemontest.Start(t, dir)
			c := daemontest.Mount(t, d, frontend.Options{Packed: f.packed}, fuseclient.Options{Timeout: 10 * time.Second})
			fe := c.Frontend()
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			o, err := c.Open(root, e.NodeId, unix.O_RDONLY, 0, false)
			must(t, err)
			read := func(gpa uint64) error {
				r, err := c.Acquire(1)
				must(t, err)
				r.Begin(fuseclient.OpRead, e.NodeId, root)
				r.SetArgs(copy(r.Args(), le(o.Fh, uint64(0), uint32(chunk), make([]byte, 20))))
				r.ExpectData(chunk)
				r.UseData(gpa)
				return c.Do(r, nil)
			}
			change := func(req frontend.Request, user uint64, fds ...int) {
				t.Helper()
				m := frontend.Message{Request: req, Flags: frontend.FlagNeedReply, Payload: le(uint64(0), uint64(plugged), uint64(size), user, uint64(0))}
				reply, _, err := fe.Exchange(m, fds...)
				if err != nil || !bytes.Equal(reply.Payload, make([]byte, 8)) {
					t.Fatalf("%v: %v, %v", req, reply, err)
				}
			}
			// mapped counts the pieces of plugged-in memory that the daemon has mapped. It waits for their number to fall to
			// want: what has gone is unmapped behind the reply.
			mapped := func(want int) int {
				for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", d.PID()))
					must(t, err)
					if n := strings.Count(string(maps), "memfd:test"); n <= want || time.Now().After(deadline) {
						return n
					}
				}
			}
			load := startLoad(t, c, 8)
			fds := 0
			for i := range 50 {
				fd := memfd(t, size)
				mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				must(t, err)
				user := uint64(1)<<46 + uint64(i)<<30
				change(frontend.AddMemReg, user, fd)
				at := i % (size/chunk - 1) * chunk
				must(t, read(plugged+uint64(at)))
				if !bytes.Equal(mem[at:at+chunk], content[:chunk]) {
					t.Error("the memory that was plugged in does not hold what was read")
				}
				if i == 10 {
					if n := mapped(1); n != 1 {
						t.Errorf("%d pieces are mapped, want 1", n)
					}
				}
				change(frontend.RemMemReg, user)
				clear(mem)
				if err := read(plugged); err != unix.EIO {
					t.Errorf("a read into memory that has gone: %v", err)
				}
				fe.ForgiveLast() // it has no reply
				if !bytes.Equal(mem, make([]byte, size)) {
					t.Error("memory that has gone was written to")
				}
				must(t, unix.Munmap(mem))
				if i == 10 {
					fds = openFDs(t, d, -1)
				}
			}
			load.stop()
			if n := openFDs(t, d, fds); n > fds {
				t.Errorf("%d descriptors are open, %d before%s", n, fds, fdList(d))
			}
			if n := mapped(0); n != 0 {
				t.Errorf("%d pieces of memory that has gone are mapped", n)
			}
		})
	}
}
