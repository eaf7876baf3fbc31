package fuseclient_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }

var root = fuseclient.Caller{}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func destroy(t *testing.T, c *fuseclient.Client) {
	t.Helper()
	if err := c.Destroy(); err != nil && !daemontest.Foreign() {
		t.Errorf("DESTROY: %v", err)
	}
}

// rings are the forms of virtqueue that everything has to work on.
var rings = []struct {
	name string
	opts frontend.Options
}{
	{"split", frontend.Options{}},
	{"split-noindirect", frontend.Options{Without: frontend.FRingIndirect}},
	{"split-noevent", frontend.Options{Without: frontend.FEventIdx}},
	{"split-plain-1024", frontend.Options{Without: frontend.FRingIndirect | frontend.FEventIdx, QueueSize: 1024}},
	{"packed", frontend.Options{Packed: true}},
	{"packed-noindirect", frontend.Options{Packed: true, Without: frontend.FRingIndirect}},
	{"packed-noevent", frontend.Options{Packed: true, Without: frontend.FEventIdx}},
	{"packed-odd-size", frontend.Options{Packed: true, QueueSize: 77}},
	{"noprotocol", frontend.Options{Without: frontend.FProtocolFeatures}},
	{"noreplyack", frontend.Options{WithoutProtocol: frontend.ProtocolReplyAck}},
	{"memtable", frontend.Options{WithoutProtocol: frontend.ProtocolConfigureMemSlots}},
}

// mountRing skips packed rings where the daemon is not ours and has none.
func mountRing(t *testing.T, d *frontend.Daemon, o frontend.Options, co fuseclient.Options) *fuseclient.Client {
	t.Helper()
	fe, err := frontend.New(d.Socket, o)
	must(t, err)
	t.Cleanup(func() {
		fe.Close()
		daemontest.CheckFaults(t, fe)
	})
	must(t, fe.Connect())
	if o.Packed && fe.Features()&frontend.FRingPacked == 0 && daemontest.Foreign() {
		t.Skip("this daemon has no packed rings")
	}
	must(t, fe.Start())
	c := fuseclient.New(fe, co)
	t.Cleanup(c.Close)
	must(t, c.Init())
	return c
}

func TestEveryRingAndLayoutMovesDataUnchanged(t *testing.T) {
	for _, ring := range rings {
		for _, layout := range []fuseclient.Layout{fuseclient.LinuxLayout, fuseclient.SingleLayout, fuseclient.ByteLayout, fuseclient.MixedLayout} {
			t.Run(fmt.Sprintf("%s/%v", ring.name, layout), func(t *testing.T) {
				dir := t.TempDir()
				c := mountRing(t, daemontest.Start(t, dir), ring.opts, fuseclient.Options{Layout: layout})
				created, err := c.Create(root, fuseclient.RootID, "file", unix.O_RDWR, 0o644, 0, 0, c.Extensions(nil, nil))
				must(t, err)
				data := make([]byte, 300_000)
				for i := range data {
					data[i] = byte(rand.Uint32())
				}
				for off := 0; off < len(data); {
					n, err := c.Write(root, created.NodeId, created.Fh, data[off:min(len(data), off+99_999)], int64(off), unix.O_RDWR, 0)
					must(t, err)
					off += n
				}
				onHost, err := os.ReadFile(filepath.Join(dir, "file"))
				must(t, err)
				if !bytes.Equal(onHost, data) {
					t.Fatal("what was written is not what the host has")
				}
				got := make([]byte, len(data))
				for off := 0; off < len(data); {
					n, err := c.Read(root, created.NodeId, created.Fh, got[off:min(len(got), off+77_777)], int64(off), unix.O_RDWR)
					must(t, err)
					if n == 0 {
						t.Fatalf("end of file at %d of %d", off, len(data))
					}
					off += n
				}
				if !bytes.Equal(got, data) {
					t.Fatal("what was read is not what was written")
				}
				must(t, c.Flush(root, created.NodeId, created.Fh, 1))
				must(t, c.CloseHandle(created.NodeId, created.Fh, unix.O_RDWR, 0, 0, false))
				must(t, c.Forget(created.NodeId, 1))
				destroy(t, c)
			})
		}
	}
}

func TestManyCallersOnTwoQueuesGetTheirOwnReplies(t *testing.T) {
	for _, ring := range []int{0, 4} {
		t.Run(rings[ring].name, func(t *testing.T) {
			dir := t.TempDir()
			const files = 64
			for i := range files {
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, 1000+i), 0o644))
			}
			o := rings[ring].opts
			o.Queues = 3
			args := []string{"--queues=2"}
			if daemontest.Foreign() {
				o.Queues, args = 2, nil
			}
			c := mountRing(t, daemontest.Start(t, dir, args...), o, fuseclient.Options{MaxData: 64 << 10})
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(g), 1))
					buf := make([]byte, 2000)
					for range 300 {
						i := rnd.IntN(files)
						e, err := c.Lookup(root, fuseclient.RootID, fmt.Sprint(i))
						if err != nil || e.Size != uint64(1000+i) {
							t.Errorf("lookup of %d: %v, size %d", i, err, e.Size)
							return
						}
						f, err := c.Open(root, e.NodeId, unix.O_RDONLY, 0, false)
						if err != nil {
							t.Errorf("open: %v", err)
							return
						}
						n, err := c.Read(root, e.NodeId, f.Fh, buf, 0, 0)
						if err != nil || n != 1000+i || buf[0] != byte(i) || buf[n-1] != byte(i) {
							t.Errorf("read of %d: %v, %d bytes", i, err, n)
							return
						}
						if err := c.CloseHandle(e.NodeId, f.Fh, 0, 0, 0, false); err != nil {
							t.Errorf("release: %v", err)
						}
						if err := c.Forget(e.NodeId, 1); err != nil {
							t.Errorf("forget: %v", err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestEveryOperationIsAnswered(t *testing.T) {
	dir := t.TempDir()
	c := daemontest.Mount(t, daemontest.Start(t, dir, "--xattr"), frontend.Options{}, fuseclient.Options{})
	ext := c.Extensions(nil, nil)
	t.Logf("INIT: flags in force %#x, max_write %d, max_pages %d, time_gran %d", c.Flags, c.Got.Reply.MaxWrite, c.Got.Reply.MaxPages, c.Got.Reply.TimeGran)

	d, err := c.Mkdir(root, 1, "d", 0o755, 0, ext)
	must(t, err)
	f, err := c.Create(root, d.NodeId, "f", unix.O_RDWR, 0o640, 0o022, 0, ext)
	must(t, err)
	if f.Mode != unix.S_IFREG|0o640 {
		t.Errorf("mode of a new file is %o", f.Mode)
	}
	l, err := c.Symlink(root, 1, "l", "d/f", ext)
	must(t, err)
	if target, err := c.Readlink(root, l.NodeId); err != nil || target != "d/f" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	_, err = c.Mknod(root, 1, "fifo", unix.S_IFIFO|0o600, 0, 0, ext)
	must(t, err)
	n, err := c.Write(root, f.NodeId, f.Fh, []byte("hello, world"), 0, unix.O_RDWR, 0)
	if err != nil || n != 12 {
		t.Errorf("write: %d, %v", n, err)
	}
	a, err := c.Getattr(root, f.NodeId, &f.Fh)
	if err != nil || a.Size != 12 {
		t.Errorf("getattr: size %d, %v", a.Size, err)
	}
	a, err = c.Setattr(root, f.NodeId, fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE, Size: 5})
	if err != nil || a.Size != 5 {
		t.Errorf("setattr: size %d, %v", a.Size, err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(root, f.NodeId, f.Fh, buf, 0, 0); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read: %q, %v", buf[:n], err)
	}
	must(t, c.Fsync(root, f.NodeId, f.Fh, true, false))
	if _, err := c.Statfs(root, 1); err != nil {
		t.Errorf("statfs: %v", err)
	}
	if err := c.Syncfs(root, 1); err != nil && err != unix.ENOSYS {
		t.Errorf("syncfs: %v", err)
	}
	must(t, c.Setxattr(root, f.NodeId, "user.x", []byte("value"), 0, 0))
	if n, err := c.Getxattr(root, f.NodeId, "user.x", nil); err != nil || n != 5 {
		t.Errorf("getxattr size: %d, %v", n, err)
	}
	if n, err := c.Getxattr(root, f.NodeId, "user.x", buf); err != nil || string(buf[:n]) != "value" {
		t.Errorf("getxattr: %q, %v", buf[:n], err)
	}
	if n, err := c.Listxattr(root, f.NodeId, buf); err != nil || !bytes.Contains(buf[:n], []byte("user.x\x00")) {
		t.Errorf("listxattr: %q, %v", buf[:n], err)
	}
	must(t, c.Removexattr(root, f.NodeId, "user.x"))
	if err := c.Access(root, f.NodeId, unix.R_OK); err != nil && err != unix.ENOSYS {
		t.Errorf("access: %v", err)
	}
	must(t, c.Fallocate(root, f.NodeId, f.Fh, 0, 0, 1<<20))
	if _, err := c.Lseek(root, f.NodeId, f.Fh, 0, unix.SEEK_DATA); err != nil {
		t.Errorf("lseek: %v", err)
	}
	for _, long := range []bool{false, true} {
		done, err := c.CopyFileRange(root, f.NodeId, f.Fh, 0, f.NodeId, f.Fh, 4096, 5, long)
		if err != nil && !(long && err == unix.ENOSYS) || err == nil && done != 5 {
			t.Errorf("copy_file_range %v: %d, %v", long, done, err)
		}
	}
	if s, err := c.Statx(root, f.NodeId, nil, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME); err != nil && err != unix.ENOSYS {
		t.Errorf("statx: %v", err)
	} else if err == nil && s.Size != 1<<20 {
		t.Errorf("statx: size %d", s.Size)
	}
	if tmp, err := c.Tmpfile(root, d.NodeId, unix.O_RDWR|unix.O_TMPFILE, 0o600, 0, ext); err == nil {
		if _, err := c.Link(root, tmp.NodeId, d.NodeId, "was-tmp"); err != nil {
			t.Errorf("link of a tmpfile: %v", err)
		}
		must(t, c.CloseHandle(tmp.NodeId, tmp.Fh, 0, 0, 0, false))
	} else {
		t.Logf("tmpfile: %v", err)
		if !daemontest.Foreign() {
			t.Fail()
		}
	}
	_, err = c.Link(root, f.NodeId, 1, "hard")
	must(t, err)
	must(t, c.Rename(root, 1, "hard", d.NodeId, "harder", 0))
	must(t, c.Rename(root, d.NodeId, "harder", d.NodeId, "f", unix.RENAME_EXCHANGE))
	must(t, c.Unlink(root, d.NodeId, "harder"))

	dh, err := c.Open(root, d.NodeId, unix.O_DIRECTORY, 0, true)
	must(t, err)
	for _, plus := range []bool{false, true} {
		list, err := c.Readdir(root, d.NodeId, dh.Fh, 0, 4096, plus)
		must(t, err)
		names := map[string]bool{}
		for _, e := range list {
			names[e.Name] = true
			if plus && e.Name == "f" && e.Entry.Size != 1<<20 {
				t.Errorf("readdirplus: size %d", e.Entry.Size)
			}
		}
		if !names["f"] {
			t.Errorf("readdir plus=%v: %v", plus, names)
		}
	}
	must(t, c.Fsync(root, d.NodeId, dh.Fh, false, true))
	must(t, c.CloseHandle(d.NodeId, dh.Fh, 0, 0, 0, true))
	must(t, c.CloseHandle(f.NodeId, f.Fh, 0, 0, 0, false))
	if err := c.Rmdir(root, 1, "d"); err != unix.ENOTEMPTY {
		t.Errorf("rmdir of a directory with files: %v", err)
	}
	if _, err := c.Lookup(root, 1, "nothing"); err != unix.ENOENT {
		t.Errorf("lookup of nothing: %v", err)
	}
	must(t, c.BatchForget([]fuseclient.ForgetOne{{Node: f.NodeId, N: 1}, {Node: l.NodeId, N: 1}}))
	destroy(t, c)
}
