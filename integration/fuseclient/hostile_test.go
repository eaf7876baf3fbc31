package fuseclient_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestBrokenRequestsGetAnError sends requests that no kernel sends, each on its own, and a good one behind each.
func TestBrokenRequestsGetAnError(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "shared")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o600))
	c := daemontest.Mount(t, daemontest.Start(t, dir, "--xattr"), frontend.Options{}, fuseclient.Options{Timeout: 10 * time.Second})
	f, err := c.Create(root, 1, "open", unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
	must(t, err)
	dirH, err := c.Open(root, 1, unix.O_DIRECTORY, 0, true)
	must(t, err)
	ext := c.Extensions(nil, nil)
	anError := []unix.Errno{}
	const deadNode, deadHandle = 0x123456789, 0x987654321

	names := map[string][]unix.Errno{
		"..": anError, "../secret": anError, "a/b": anError, "/etc/passwd": anError, "": anError,
		strings.Repeat("x", 5000): anError, strings.Repeat("x", 256): {unix.ENAMETOOLONG},
	}
	type attempt struct {
		name string
		want []unix.Errno
		do   func() error
	}
	var list []attempt
	add := func(name string, want []unix.Errno, do func() error) { list = append(list, attempt{name, want, do}) }
	for n, want := range names {
		short := n[:min(len(n), 20)]
		if n != ".." { // a lookup of ".." is for NFS, and must stay below the root
			add("lookup of "+short, want, func() error { _, err := c.Lookup(root, 1, n); return err })
		}
		add("mkdir of "+short, want, func() error { _, err := c.Mkdir(root, 1, n, 0o700, 0, ext); return err })
		add("mknod of "+short, want, func() error { _, err := c.Mknod(root, 1, n, unix.S_IFREG|0o600, 0, 0, ext); return err })
		add("create of "+short, want, func() error {
			_, err := c.Create(root, 1, n, unix.O_RDWR, 0o600, 0, 0, ext)
			return err
		})
		add("symlink of "+short, want, func() error { _, err := c.Symlink(root, 1, n, "x", ext); return err })
		add("unlink of "+short, want, func() error { return c.Unlink(root, 1, n) })
		add("rmdir of "+short, want, func() error { return c.Rmdir(root, 1, n) })
		add("rename from "+short, want, func() error { return c.Rename(root, 1, n, 1, "new", 0) })
		add("rename to "+short, want, func() error { return c.Rename(root, 1, "file", 1, n, 0) })
		add("link to "+short, want, func() error { _, err := c.Link(root, f.NodeId, 1, n); return err })
	}
	add("lookup of . stays", []unix.Errno{0}, func() error {
		e, err := c.Lookup(root, 1, ".")
		if err == nil && e.NodeId != 1 {
			return fmt.Errorf("node %d", e.NodeId)
		}
		if err != nil && err != unix.EIO {
			return nil // refused is as good
		}
		return err
	})
	add("lookup of .. in the root stays", []unix.Errno{0}, func() error {
		e, err := c.Lookup(root, 1, "..")
		if err == nil && e.NodeId != 1 {
			return fmt.Errorf("node %d", e.NodeId)
		}
		return nil
	})
	add("unlink of a name with no end", anError, func() error { return rawArgs(c, fuseclient.OpUnlink, 1, []byte("file")) })
	add("unlink of no name", anError, func() error { return rawArgs(c, fuseclient.OpUnlink, 1, nil) })
	add("rename with one name", anError, func() error {
		return rawArgs(c, fuseclient.OpRename, 1, append(make([]byte, 8), "file\x00"...))
	})
	add("symlink with one name", anError, func() error { return rawArgs(c, fuseclient.OpSymlink, 1, []byte("name\x00")) })
	add("setxattr whose value is missing", anError, func() error {
		return rawArgs(c, fuseclient.OpSetxattr, f.NodeId, append([]byte{255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "user.x\x00y"...))
	})
	add("batch forget of nodes that are not there", []unix.Errno{0}, func() error {
		return c.BatchForget(make([]fuseclient.ForgetOne, 2000))
	})
	add("removemapping of more than there is", anError, func() error {
		return rawArgs(c, fuseclient.OpRemovemapping, 1, []byte{255, 255, 255, 255, 0, 0, 0, 0, 1})
	})
	for op := fuseclient.Opcode(0); op < 70; op++ {
		if op == fuseclient.OpForget || op == fuseclient.OpInit || op == fuseclient.OpDestroy || op == fuseclient.OpBatchForget || op == fuseclient.OpInterrupt {
			continue
		}
		add(fmt.Sprintf("opcode %d without a body", op), nil, func() error { return rawArgs(c, op, 1, nil) })
		add(fmt.Sprintf("opcode %d with 4000 bytes of 255", op), nil, func() error {
			return rawArgs(c, op, 1, []byte(strings.Repeat("\xff", 4000)))
		})
	}
	add("opcode 4711", []unix.Errno{unix.ENOSYS}, func() error { return rawArgs(c, 4711, 1, nil) })

	add("getattr of a dead node", anError, func() error { _, err := c.Getattr(root, deadNode, nil); return err })
	add("getattr of node 0", anError, func() error { _, err := c.Getattr(root, 0, nil); return err })
	add("open of a dead node", anError, func() error { _, err := c.Open(root, deadNode, 0, 0, false); return err })
	add("lookup in a dead node", anError, func() error { _, err := c.Lookup(root, deadNode, "x"); return err })
	add("lookup in a file", anError, func() error { _, err := c.Lookup(root, f.NodeId, "x"); return err })
	add("read of a dead handle", anError, func() error { _, err := c.Read(root, f.NodeId, deadHandle, make([]byte, 10), 0, 0); return err })
	add("read of a directory's handle", anError, func() error { _, err := c.Read(root, 1, dirH.Fh, make([]byte, 10), 0, 0); return err })
	add("readdir of a file's handle", anError, func() error { _, err := c.Readdir(root, f.NodeId, f.Fh, 0, 4096, false); return err })
	add("write to a dead handle", anError, func() error { _, err := c.Write(root, f.NodeId, deadHandle, []byte("x"), 0, 0, 0); return err })
	add("read from 2^63", nil, func() error { _, err := c.Read(root, f.NodeId, f.Fh, make([]byte, 10), -1<<63, 0); return err })
	add("write at 2^64-1", anError, func() error { _, err := c.Write(root, f.NodeId, f.Fh, []byte("x"), -1, 0, 0); return err })
	add("a size of 2^64-1", anError, func() error {
		_, err := c.Setattr(root, f.NodeId, fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE, Size: ^uint64(0)})
		return err
	})
	add("fallocate from 2^64-1 on", anError, func() error { return c.Fallocate(root, f.NodeId, f.Fh, 0, -1, -1) })
	add("seek by 99", anError, func() error { _, err := c.Lseek(root, f.NodeId, f.Fh, 0, 99); return err })
	add("readdir from 2^64-1", nil, func() error { _, err := c.Readdir(root, 1, dirH.Fh, ^uint64(0), 4096, true); return err })
	add("open of a fifo does not hang", nil, func() error {
		e, err := c.Mknod(root, 1, "fifo", unix.S_IFIFO|0o600, 0, 0, ext)
		if err != nil {
			return err
		}
		_, err = c.Open(root, e.NodeId, unix.O_RDONLY, 0, false)
		return err
	})
	add("an unknown ioctl", anError, func() error {
		r, _, err := c.Ioctl(root, f.NodeId, f.Fh, 0, 0xdeadbeef, 0, make([]byte, 100), 100)
		if err == nil && r < 0 {
			err = unix.Errno(-r)
		}
		return err
	})

	for _, a := range list {
		t.Run(a.name, func(t *testing.T) {
			err := a.do()
			switch {
			case err == unix.ETIMEDOUT:
				t.Fatal("no reply")
			case a.want == nil:
			case len(a.want) == 0:
				if _, ok := err.(unix.Errno); !ok {
					t.Errorf("got %v, want an error", err)
				}
			case len(a.want) == 1 && a.want[0] == 0:
				if err != nil {
					t.Errorf("got %v", err)
				}
			case err != a.want[0]:
				t.Errorf("got %v, want %v", err, a.want[0])
			}
			if _, err := c.Getattr(root, 1, nil); err != nil {
				t.Fatalf("a good request afterwards: %v", err)
			}
		})
	}
	if got, err := os.ReadFile(filepath.Join(top, "secret")); err != nil || string(got) != "secret" {
		t.Errorf("the file outside: %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "data" {
		t.Errorf("the file inside: %q, %v", got, err)
	}
	if list, err := os.ReadDir(top); err != nil || len(list) != 2 {
		t.Errorf("beside the shared directory: %v, %v", list, err)
	}
}

// rawArgs sends a request with any body.
func rawArgs(c *fuseclient.Client, op fuseclient.Opcode, node uint64, args []byte) error {
	return c.Raw(op, node, args, 4096)
}

// TestLengthThatLies sends headers whose length is not that of the request.
func TestLengthThatLies(t *testing.T) {
	c := daemontest.Mount(t, daemontest.Start(t, t.TempDir()), frontend.Options{}, fuseclient.Options{Polled: true})
	do := func(r *fuseclient.Request) unix.Errno {
		must(t, r.SubmitAsIs(1))
		must(t, c.Kick(1))
		var done [1]*fuseclient.Request
		for c.Reap(1, done[:]) == 0 {
			must(t, c.Frontend().Queue(1).WaitTimeout(10*time.Second))
		}
		return r.Err
	}
	r, err := c.Acquire(1)
	must(t, err)
	begin := func(op fuseclient.Opcode, args int, length uint32) {
		r.Begin(op, 1, root)
		clear(r.Args()[:args])
		r.SetArgs(args)
		h := r.Header()
		h.Unique, h.Length = h.Unique+2, length
		r.ExpectData(200)
	}
	begin(fuseclient.OpInit, 64, 104)
	copy(r.Args(), []byte{7, 0, 0, 0, 45})
	if e := do(r); e != 0 {
		t.Fatalf("INIT: %v", e)
	}
	for _, length := range []uint32{0, 1, 39, 40, 55, 57, 4096, 1 << 31, ^uint32(0)} {
		begin(fuseclient.OpGetattr, 16, length)
		if e := do(r); e == 0 && !daemontest.Foreign() {
			t.Errorf("a GETATTR of 56 bytes that says %d was served", length)
		}
		begin(fuseclient.OpGetattr, 16, 56)
		if e := do(r); e != 0 {
			t.Fatalf("a good GETATTR after one that says %d: %v", length, e)
		}
	}
}

// TestWaitingLockHoldsUpNothing has more requests wait for a lock than the daemon has threads for that: they hold up
// neither other requests nor those that wait for another lock.
func TestWaitingLockHoldsUpNothing(t *testing.T) {
	if daemontest.Foreign() {
		t.Skip("this daemon forwards no locks")
	}
	for _, pool := range []string{"2", "0"} {
		for _, o := range []frontend.Options{{}, {Packed: true}, {Inflight: true}} {
			o.QueueSize = 1024
			t.Run(fmt.Sprintf("thread-pool-size=%s,packed=%t,inflight=%t", pool, o.Packed, o.Inflight), func(t *testing.T) { waitingLocks(t, pool, o) })
		}
	}
}

func waitingLocks(t *testing.T, pool string, o frontend.Options) {
	c := daemontest.Mount(t, daemontest.Start(t, t.TempDir(), "--flock", "--thread-pool-size="+pool),
		o, fuseclient.Options{Timeout: 20 * time.Second, MaxData: 4096})
	if c.Flags&fuse.CAP_FLOCK_LOCKS == 0 {
		t.Fatal("the daemon forwards no flock")
	}
	lock := func(typ uint32) fuse.FileLock { return fuse.FileLock{End: 1<<63 - 1, Typ: typ} }
	var owner atomic.Uint64
	// locked makes a file and locks it.
	locked := func(name string) (file fuse.CreateOut, unlock func()) {
		f, err := c.Create(root, 1, name, unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
		must(t, err)
		mine := owner.Add(1)
		must(t, c.Setlk(root, f.NodeId, f.Fh, mine, lock(unix.F_WRLCK), fuse.LK_FLOCK, false))
		return f, func() { must(t, c.Setlk(root, f.NodeId, f.Fh, mine, lock(unix.F_UNLCK), fuse.LK_FLOCK, false)) }
	}
	// wait has n requests wait for the lock of a file, and give it back as soon as they have it.
	wait := func(node uint64, n int) (got chan error) {
		got = make(chan error, n)
		for range n {
			o, err := c.Open(root, node, unix.O_RDWR, 0, false)
			must(t, err)
			go func() {
				mine := owner.Add(1)
				err := c.Setlk(root, node, o.Fh, mine, lock(unix.F_WRLCK), fuse.LK_FLOCK, true)
				if err == nil {
					err = c.Setlk(root, node, o.Fh, mine, lock(unix.F_UNLCK), fuse.LK_FLOCK, false)
				}
				got <- err
			}()
		}
		return got
	}
	all := func(what string, got chan error) {
		t.Helper()
		for range cap(got) {
			select {
			case err := <-got:
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s never get their lock", what)
			}
		}
	}
	f, unlockF := locked("f")
	const waiters, others = 300, 10
	got := wait(f.NodeId, waiters)
	for c.Frontend().Queue(1).InFlight() < waiters {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	for range 100 {
		if _, err := c.Write(root, f.NodeId, f.Fh, []byte("x"), 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Lookup(root, 1, "f"); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("200 requests took %v beside waiting locks", d)
	}
	g, unlockG := locked("g")
	gotOther := wait(g.NodeId, others)
	for c.Frontend().Queue(1).InFlight() < waiters+others {
		time.Sleep(time.Millisecond)
	}
	unlockG()
	all("those that wait for the other lock", gotOther)
	// A pause in between loses none of the waiters.
	must(t, c.Frontend().Stop())
	must(t, c.Frontend().Start())
	unlockF()
	all("the waiters", got)
}

func TestFastPathDoesNotAllocate(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
	d := daemontest.Start(t, dir)
	setup := daemontest.Mount(t, d, frontend.Options{}, fuseclient.Options{})
	e, err := setup.Lookup(root, 1, "f")
	must(t, err)
	o, err := setup.Open(root, e.NodeId, unix.O_RDWR, 0, false)
	must(t, err)
	setup.Close()
	c := fuseclient.New(setup.Frontend(), fuseclient.Options{Polled: true})
	var done [8]*fuseclient.Request
	if n := testing.AllocsPerRun(200, func() {
		for i := range len(done) {
			r, err := c.Acquire(1)
			must(t, err)
			if i%2 == 0 {
				r.Begin(fuseclient.OpGetattr, e.NodeId, root)
				r.Getattr()
			} else {
				r.Begin(fuseclient.OpRead, e.NodeId, root)
				r.Read(o.Fh, 4096, 128<<10, 0)
			}
			must(t, r.Submit())
		}
		must(t, c.Kick(1))
		for got := 0; got < len(done); {
			n := c.Reap(1, done[:])
			for _, r := range done[:n] {
				if r.Err != 0 {
					t.Fatal(r.Err)
				}
				c.Release(r)
			}
			if got += n; n == 0 {
				must(t, c.Wait(1))
			}
		}
	}); n > 0 {
		t.Errorf("%v allocations for %d requests", n, len(done))
	}
}
