package frontend_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

const rangeSize = 2 << 20 // FUSE_DAX_SZ

const daxFlags = fuseclient.LinuxInitFlags | fuse.CAP_MAP_ALIGNMENT | fuse.CAP_HAS_INODE_DAX

// backings that can map every file. The third, direct, can't.
var backings = []string{"managed", "passthrough"}

// window boots a guest with a DAX window.
func window(t *testing.T, dir, backing string, size int, fo frontend.Options) (*frontend.Daemon, *fuseclient.Client) {
	t.Helper()
	ownWindow(t)
	d := daemontest.Start(t, dir, "--tag=test", fmt.Sprintf("--dax-window=%dM", size), "--dax-backing="+backing)
	fo.Device = frontend.GenericDevice
	c := daemontest.Mount(t, d, fo, fuseclient.Options{Offer: daxFlags})
	if c.Frontend().Window == nil {
		t.Fatal("the daemon offers no window")
	}
	if c.Flags&fuse.CAP_MAP_ALIGNMENT == 0 {
		t.Error("INIT has no map alignment")
	}
	return d, c
}

// unmapped waits until the last unmapping is committed.
func unmapped(t *testing.T, w *frontend.Window, after string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		m := w.Mappings()
		if len(m) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %s there is mapped %v", after, m)
			return
		}
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12)*7 + byte(i) + seed
	}
	return b
}

// TestWindowShowsEveryFile maps files of all kinds of sizes. The commit comes late, so an early reply would be seen.
func TestWindowShowsEveryFile(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			_, c := window(t, dir, backing, 64, frontend.Options{CommitDelay: 20 * time.Millisecond})
			w := c.Frontend().Window
			for i, size := range []int{1, 6, 13, 4095, 4096, 4097, 8192, rangeSize - 1, rangeSize, rangeSize + 5, 3145733} {
				name := fmt.Sprintf("f%d", size)
				want := pattern(size, byte(i))
				must(t, os.WriteFile(filepath.Join(dir, name), want, 0o600))
				e, err := c.Lookup(root, 1, name)
				must(t, err)
				for off := 0; off < size; off += rangeSize {
					if err := c.Setupmapping(e.NodeId, uint64(off), rangeSize, fuseclient.MapRead, 4*rangeSize); err != nil {
						t.Fatalf("%d bytes: SETUPMAPPING of %d: %v", size, off, err)
					}
					got := make([]byte, min(rangeSize, size-off))
					if err := w.Load(got, 4*rangeSize); err != nil {
						t.Fatalf("%d bytes: load right after SETUPMAPPING: %v", size, err)
					}
					if !bytes.Equal(got, want[off:off+len(got)]) {
						t.Errorf("a file of %d bytes reads wrong from %d on", size, off)
					}
				}
				must(t, c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: 4 * rangeSize, Len: rangeSize}}))
				must(t, c.Forget(e.NodeId, 1))
			}
			if backing != "managed" { // which maps the window once for all
				unmapped(t, w, "REMOVEMAPPING")
			}
		})
	}
}

func TestStoresToTheWindowReachTheFile(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			must(t, os.WriteFile(path, pattern(10_000, 1), 0o600))
			_, c := window(t, dir, backing, 64, frontend.Options{})
			w := c.Frontend().Window
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			o, err := c.Open(root, e.NodeId, unix.O_RDWR, 0, false)
			must(t, err)
			must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 0))
			must(t, w.Load(make([]byte, 100), 0))
			must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0)) // the upgrade
			must(t, w.Store([]byte("stored"), 4090))
			must(t, c.Fsync(root, e.NodeId, o.Fh, true, false))
			want := pattern(10_000, 1)
			copy(want[4090:], "stored")
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("after fsync the file is not what was stored (%d bytes, %v)", len(got), err)
			}

			// A READ sees what was stored, also without fsync.
			must(t, w.Store([]byte("again"), 9000))
			copy(want[9000:], "again")
			got := make([]byte, 10_000)
			n, err := c.Read(root, e.NodeId, o.Fh, got, 0, unix.O_RDWR)
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("READ does not see a store: %d bytes, %v", n, err)
			}

			// An append goes by WRITE and is seen in the mapping, past the old end too.
			_, err = c.Write(root, e.NodeId, o.Fh, pattern(5000, 9), 10_000, unix.O_RDWR, 0)
			must(t, err)
			want = append(want, pattern(5000, 9)...)
			got = make([]byte, 15_000)
			must(t, w.Load(got, 0))
			if !bytes.Equal(got, want) {
				t.Error("the mapping does not show an append")
			}
			must(t, w.Store([]byte("grown"), 14_990))
			copy(want[14_990:], "grown")
			must(t, c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}}))
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("after REMOVEMAPPING the file is not what was stored (%d bytes, %v)", len(got), err)
			}
		})
	}
}

func TestMappingOverAnotherReplacesIt(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			_, c := window(t, dir, backing, 64, frontend.Options{})
			for i := range 4 {
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte('a' + i)}, 5000), 0o600))
			}
			for i := range 40 {
				e, err := c.Lookup(root, 1, fmt.Sprint(i%4))
				must(t, err)
				must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
				var b [1]byte
				must(t, c.Frontend().Window.Load(b[:], 4999))
				if b[0] != byte('a'+i%4) {
					t.Fatalf("mapping %d shows %q", i, b[0])
				}
			}
		})
	}
}

// TestWindowSurvivesPauseResetAndRemount runs everything that ends mappings, and uses the same places again.
func TestWindowSurvivesPauseResetAndRemount(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "f"), pattern(4*rangeSize, 3), 0o600))
			_, c := window(t, dir, backing, 64, frontend.Options{CommitDelay: 2 * time.Millisecond, BearsReset: true})
			fe := c.Frontend()
			use := func(when string) {
				t.Helper()
				e, err := c.Lookup(root, 1, "f")
				must(t, err)
				for i := range uint64(4) {
					if err := c.Setupmapping(e.NodeId, i*rangeSize, rangeSize, fuseclient.MapRead, (3-i)*rangeSize); err != nil {
						t.Fatalf("%s: SETUPMAPPING: %v", when, err)
					}
					got := make([]byte, 4096)
					if err := fe.Window.Load(got, (3-i)*rangeSize); err != nil {
						t.Fatalf("%s: load: %v", when, err)
					}
					if !bytes.Equal(got, pattern(4*rangeSize, 3)[i*rangeSize:][:4096]) {
						t.Fatalf("%s: range %d reads wrong", when, i)
					}
				}
			}
			use("at first")
			must(t, fe.Stop())
			if n := len(fe.Window.Mappings()); n == 0 {
				t.Error("a pause lost the mappings")
			}
			must(t, fe.Start())
			use("after a pause")
			must(t, c.Destroy())
			if backing != "managed" {
				unmapped(t, fe.Window, "DESTROY")
			}
			must(t, c.Init())
			use("after a remount")
			must(t, fe.Reset())
			must(t, fe.Start())
			must(t, c.Init())
			use("after a reset")
			must(t, c.Init()) // a new kernel that the daemon was told nothing of
			use("after another INIT")
		})
	}
}

// TestResetWithMappingsStartsNoDevice has a guest with mappings reset, and its new kernel look for the device. QEMU would
// crash at its start; here it is a fault. After that, with a new connection, it is there again.
//
// To see it fail: in package vhostuser, let withdraw return at once.
func TestResetWithMappingsStartsNoDevice(t *testing.T) {
	ours(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), pattern(2*rangeSize, 3), 0o600))
	for _, backing := range []string{"managed", "passthrough", "direct"} {
		for _, live := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", backing, live), func(t *testing.T) {
				if os.Geteuid() != 0 && backing != "direct" {
					t.Skip("the backing mount needs root")
				}
				d := daemontest.Start(t, dir, "--tag=test", "--dax-window=16M", "--reconnect", "--dax-backing="+backing)
				c := daemontest.Mount(t, d, frontend.Options{Device: frontend.GenericDevice}, fuseclient.Options{Offer: daxFlags})
				fe := c.Frontend()
				use := func() {
					t.Helper()
					e, err := c.Lookup(root, 1, "f")
					must(t, err)
					must(t, c.Setupmapping(e.NodeId, rangeSize, rangeSize, fuseclient.MapRead, 0))
					got := make([]byte, 4096)
					must(t, fe.Window.Load(got, 0))
					if !bytes.Equal(got, pattern(2*rangeSize, 3)[rangeSize:][:4096]) {
						t.Error("the mapping reads wrong")
					}
				}
				tag := func() string {
					t.Helper()
					config, err := fe.GetConfig(40)
					must(t, err)
					name, _, _ := bytes.Cut(config[:36], []byte{0})
					return string(name)
				}
				use()
				if got := tag(); got != "test" {
					t.Errorf("a running device is called %q", got)
				}
				must(t, fe.Stop())
				must(t, fe.Start())
				use()
				if !live {
					must(t, c.Destroy())
					if backing != "managed" {
						unmapped(t, fe.Window, "DESTROY")
					}
				}
				must(t, fe.Reset())
				if !live || backing == "managed" {
					if got := tag(); got != "test" {
						t.Errorf("after the reset the device is called %q", got)
					}
					must(t, fe.Start())
					must(t, c.Init())
					use()
					return
				}
				for range 2 {
					if got := tag(); got != "" {
						t.Errorf("after the reset the device is called %q", got)
					}
					if fe.Start() == nil {
						t.Fatal("the device started")
					}
				}
				must(t, fe.Reconnect())
				if got := tag(); got != "test" {
					t.Errorf("after a new connection the device is called %q", got)
				}
				must(t, c.Init())
				use()
			})
		}
	}
}

// TestNoWindowMessageReachesAStoppedFrontend pauses while callers map and unmap. QEMU would crash; here it is a fault. The
// callers see nothing of the pauses.
//
// To see it fail: in package vhostuser, send a request whole at once.
func TestNoWindowMessageReachesAStoppedFrontend(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			for i := range 8 {
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), pattern(rangeSize, byte(i)), 0o600))
			}
			_, c := window(t, dir, backing, 64, frontend.Options{CommitDelay: time.Millisecond})
			var ended atomic.Bool
			var wg sync.WaitGroup
			for i := range uint64(8) {
				wg.Go(func() {
					e, err := c.Lookup(root, 1, fmt.Sprint(i))
					if err != nil {
						t.Errorf("lookup: %v", err)
						return
					}
					for !ended.Load() {
						if err := c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, i*rangeSize); err != nil {
							t.Errorf("SETUPMAPPING: %v", err)
							return
						}
						got := make([]byte, 16)
						if err := c.Frontend().Window.Load(got, i*rangeSize+4096); err != nil || !bytes.Equal(got, pattern(rangeSize, byte(i))[4096:4112]) {
							t.Errorf("the mapping shows %x, %v", got, err)
							return
						}
						if err := c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: i * rangeSize, Len: rangeSize}}); err != nil {
							t.Errorf("REMOVEMAPPING: %v", err)
							return
						}
					}
				})
			}
			for range 40 {
				time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
				must(t, c.Frontend().Stop())
				time.Sleep(time.Millisecond)
				must(t, c.Frontend().Start())
			}
			ended.Store(true)
			wg.Wait()
			e, err := c.Lookup(root, 1, "5")
			must(t, err)
			must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 5*rangeSize))
			got := make([]byte, 4096)
			must(t, c.Frontend().Window.Load(got, 5*rangeSize))
			if !bytes.Equal(got, pattern(4096, 5)) {
				t.Error("the mapping after the pauses reads wrong")
			}
		})
	}
}

// TestMemoryRegionsStayBelowQemusLimit asks for more mappings than a VM may have regions.
func TestMemoryRegionsStayBelowQemusLimit(t *testing.T) {
	for _, backing := range backings[:1] { // the other refuses a window that could come to it
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			const ranges = 560
			f, err := os.Create(filepath.Join(dir, "f"))
			must(t, err)
			must(t, f.Truncate(ranges*rangeSize))
			must(t, f.Close())
			_, c := window(t, dir, backing, 2048, frontend.Options{})
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			refused := 0
			for i := range uint64(ranges) {
				switch err := c.Setupmapping(e.NodeId, i*rangeSize, rangeSize, fuseclient.MapRead, i*rangeSize); err {
				case nil:
				case unix.EAGAIN:
					t.Fatal("EAGAIN makes the guest's kernel loop")
				default:
					refused++
				}
			}
			if n := len(c.Frontend().Window.Mappings()); n > 509 {
				t.Errorf("%d mappings", n)
			} else {
				t.Logf("%d mappings, %d refused", n, refused)
			}
		})
	}
}

// TestRegionsOfOtherDevicesCount has other devices of the VM take memory regions, and give them back.
func TestRegionsOfOtherDevicesCount(t *testing.T) {
	ownWindow(t)
	const limit, ranges = 32, 8
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), pattern(ranges*rangeSize, 1), 0o600))
	d := daemontest.Start(t, dir, "--tag=test", fmt.Sprintf("--dax-window=%dM", ranges*2), "--dax-backing=passthrough", fmt.Sprintf("--dax-max-regions=%d", limit))
	c := daemontest.Mount(t, d, frontend.Options{Device: frontend.GenericDevice}, fuseclient.Options{Offer: daxFlags})
	other := memfd(t, rangeSize)
	tell := func(r frontend.Request, i uint64, fds ...int) {
		t.Helper()
		var p []byte
		for _, v := range []uint64{0, 1<<45 + i*rangeSize, rangeSize, 1<<46 + i*rangeSize, 0} {
			p = binary.LittleEndian.AppendUint64(p, v)
		}
		reply, _, err := c.Frontend().Exchange(frontend.Message{Request: r, Flags: frontend.FlagVersion | frontend.FlagNeedReply, Payload: p}, fds...)
		if err != nil || binary.LittleEndian.Uint64(reply.Payload) != 0 {
			t.Fatalf("%v: %v, %v", r, reply, err)
		}
	}
	const others = limit - ranges/2
	for i := range uint64(others) {
		tell(frontend.AddMemReg, i, other)
	}
	e, err := c.Lookup(root, 1, "f")
	must(t, err)
	mapped := 0
	for i := range uint64(ranges) {
		switch err := c.Setupmapping(e.NodeId, i*rangeSize, rangeSize, fuseclient.MapRead, i*rangeSize); err {
		case nil:
			mapped++
		case unix.EIO:
		default:
			t.Errorf("SETUPMAPPING without regions left: %v", err)
		}
	}
	if mapped == 0 || mapped > limit-others {
		t.Errorf("%d ranges are mapped beside %d regions of others; %d regions are the limit", mapped, others, limit)
	}
	for i := range uint64(others) {
		tell(frontend.RemMemReg, i)
	}
	for i := range uint64(ranges) {
		must(t, c.Setupmapping(e.NodeId, i*rangeSize, rangeSize, fuseclient.MapRead, i*rangeSize))
	}
}

// TestBuffersInTheWindow writes from and reads into pages that are mapped files.
func TestBuffersInTheWindow(t *testing.T) {
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "a"), pattern(64<<10, 1), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "b"), make([]byte, 64<<10), 0o600))
			_, c := window(t, dir, backing, 64, frontend.Options{})
			open := func(name string) (uint64, uint64) {
				e, err := c.Lookup(root, 1, name)
				must(t, err)
				o, err := c.Open(root, e.NodeId, unix.O_RDWR, 0, false)
				must(t, err)
				return e.NodeId, o.Fh
			}
			a, _ := open("a")
			b, fh := open("b")
			must(t, c.Setupmapping(a, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))

			r, err := c.Acquire(1)
			must(t, err)
			r.Begin(fuseclient.OpWrite, b, root)
			r.Write(fh, 0, 32<<10, unix.O_RDWR, 0)
			r.UseData(frontend.WindowGPA)
			must(t, c.Do(r, func(r *fuseclient.Request) {
				if n := r.WriteOut().Size; n != 32<<10 {
					t.Errorf("%d bytes written", n)
				}
			}))
			got, err := os.ReadFile(filepath.Join(dir, "b"))
			must(t, err)
			if !bytes.Equal(got[:32<<10], pattern(32<<10, 1)) || !bytes.Equal(got[32<<10:], make([]byte, 32<<10)) {
				t.Error("a WRITE from the window wrote something else")
			}

			must(t, os.WriteFile(filepath.Join(dir, "b"), pattern(64<<10, 99), 0o600))
			r, err = c.Acquire(1)
			must(t, err)
			r.Begin(fuseclient.OpRead, b, root)
			r.Read(fh, 4096, 8192, unix.O_RDWR)
			r.UseData(frontend.WindowGPA + 16384)
			must(t, c.Do(r, nil))
			want := pattern(64<<10, 1)
			copy(want[16384:], pattern(64<<10, 99)[4096:4096+8192])
			seen := make([]byte, 64<<10)
			must(t, c.Frontend().Window.Load(seen, 0))
			if !bytes.Equal(seen, want) {
				t.Error("a READ into the window does not show there")
			}
			must(t, c.Removemapping(a, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}}))
			if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("a READ into the window does not reach its file (%v)", err)
			}

			// Past the end of the mapping there is no memory: that request fails, and nothing else.
			r, err = c.Acquire(1)
			must(t, err)
			r.Begin(fuseclient.OpWrite, b, root)
			r.Write(fh, 0, 4096, unix.O_RDWR, 0)
			r.UseData(frontend.WindowGPA + 40*rangeSize)
			if err := c.Do(r, nil); err == nil {
				t.Error("a WRITE from a place in the window where nothing is mapped succeeded")
			}
			c.Frontend().ForgiveLast() // the daemon could only complete it without a reply
			alive(t, c)
		})
	}
}

// TestReadIntoTheWindowMakesNoFileLonger reads into the page that holds the end of a mapped file, as direct I/O into mapped
// memory does: what lies past the end is lost, as with a store there.
func TestReadIntoTheWindowMakesNoFileLonger(t *testing.T) {
	const size = 4096 + 100
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "a"), pattern(size, 1), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "b"), pattern(64<<10, 99), 0o600))
			_, c := window(t, dir, backing, 64, frontend.Options{})
			a, err := c.Lookup(root, 1, "a")
			must(t, err)
			b, err := c.Lookup(root, 1, "b")
			must(t, err)
			o, err := c.Open(root, b.NodeId, unix.O_RDONLY, 0, false)
			must(t, err)
			must(t, c.Setupmapping(a.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
			for _, at := range []uint64{4096, 8192} { // the page with the end, and the one after it
				r, err := c.Acquire(1)
				must(t, err)
				r.Begin(fuseclient.OpRead, b.NodeId, root)
				r.Read(o.Fh, 0, 4096, unix.O_RDONLY)
				r.UseData(frontend.WindowGPA + at)
				must(t, c.Do(r, nil))
			}
			must(t, c.Removemapping(a.NodeId, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}}))
			got, err := os.ReadFile(filepath.Join(dir, "a"))
			must(t, err)
			want := append(pattern(4096, 1), pattern(100, 99)...)
			if !bytes.Equal(got, want) {
				t.Errorf("the file has %d bytes, want %d; those of the end are right: %v", len(got), size, bytes.HasPrefix(got, want))
			}
		})
	}
}

func TestBrokenMappingsGetAnError(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), pattern(rangeSize, 1), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	_, c := window(t, dir, "managed", 16, frontend.Options{})
	f, err := c.Lookup(root, 1, "f")
	must(t, err)
	d, err := c.Lookup(root, 1, "d")
	must(t, err)
	const rw = fuseclient.MapRead | fuseclient.MapWrite
	for _, a := range []struct {
		name                           string
		node, foffset, length, moffset uint64
	}{
		{"past the window", f.NodeId, 0, rangeSize, 8 * rangeSize},
		{"over the end of the window", f.NodeId, 0, 2 * rangeSize, 7 * rangeSize},
		{"a window offset that is not aligned", f.NodeId, 0, rangeSize, 4096},
		{"a file offset that is not aligned", f.NodeId, 77, rangeSize, 0},
		{"no length", f.NodeId, 0, 0, 0},
		{"a length of 2^63", f.NodeId, 0, 1 << 63, 0},
		{"offset and length overflow", f.NodeId, 0, ^uint64(rangeSize - 1), rangeSize},
		{"a file offset of 2^63", f.NodeId, 1 << 63, rangeSize, 0},
		{"a directory", d.NodeId, 0, rangeSize, 0},
		{"a dead node", 0xdeadbeef, 0, rangeSize, 0},
	} {
		if err := c.Setupmapping(a.node, a.foffset, a.length, rw, a.moffset); err == nil || err == unix.EAGAIN || err == unix.ETIMEDOUT {
			t.Errorf("%s: %v", a.name, err)
		}
	}
	if err := c.Removemapping(f.NodeId, []fuseclient.Removal{{Moffset: 1 << 50, Len: 1 << 60}}); err == unix.ETIMEDOUT {
		t.Error(err)
	}
	must(t, c.Setupmapping(f.NodeId, 0, rangeSize, rw, 0))
	got := make([]byte, 100)
	must(t, c.Frontend().Window.Load(got, 0))
	if !bytes.Equal(got, pattern(100, 1)) {
		t.Error("a good mapping afterwards reads wrong")
	}
}
