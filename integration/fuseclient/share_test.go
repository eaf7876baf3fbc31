package fuseclient_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestInterruptEndsAWaitForALock has the host hold the lock.
func TestInterruptEndsAWaitForALock(t *testing.T) {
	if daemontest.Foreign() {
		t.Skip("this daemon forwards no locks")
	}
	dir := t.TempDir()
	c := daemontest.Mount(t, daemontest.Start(t, dir, "--flock", "--posix-lock"), frontend.Options{}, fuseclient.Options{})
	f, err := c.Create(root, 1, "f", unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
	must(t, err)
	host, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
	must(t, err)
	defer host.Close()
	must(t, unix.FcntlFlock(host.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	must(t, unix.Flock(int(host.Fd()), unix.LOCK_EX))
	for _, flags := range []uint32{0, fuse.LK_FLOCK} {
		ended := make(chan error, 1)
		begin := time.Now()
		go func() {
			ended <- c.Setlk(root, f.NodeId, f.Fh, 1, fuse.FileLock{End: 1<<63 - 1, Typ: unix.F_WRLCK}, flags, true)
		}()
		for c.Frontend().Queue(1).InFlight() == 0 {
			time.Sleep(time.Millisecond)
		}
		must(t, c.Interrupt(1)) // a request that there never was
		select {
		case err := <-ended:
			t.Fatalf("flags %d: the wait ended by itself: %v", flags, err)
		case <-time.After(200 * time.Millisecond):
		}
		// The client numbers its requests by twos; one of the last is the waiter.
		a := c.LastUnique()
		for u := a; u > 0 && u+20 > a; u -= 2 {
			must(t, c.Interrupt(u))
		}
		select {
		case err := <-ended:
			if err != unix.EINTR {
				t.Errorf("flags %d: the wait ends with %v", flags, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("flags %d: a wait of %v was not interrupted", flags, time.Since(begin))
		}
	}
	// The daemon remembers none of those that came too late.
	_, err = c.Getattr(root, f.NodeId, nil)
	must(t, err)
}

// TestNothingOutsideTheShareIsReachedWhileNamesChange has the host exchange directories and files of the share with
// symbolic links to things outside it, as fast as it can, while two clients' worth of requests go through those names.
func TestNothingOutsideTheShareIsReachedWhileNamesChange(t *testing.T) {
	base := t.TempDir()
	share, outside := filepath.Join(base, "share"), filepath.Join(base, "outside")
	const secret = "this must never be seen"
	for _, err := range []error{
		os.Mkdir(share, 0o777), os.Mkdir(outside, 0o777), os.Mkdir(filepath.Join(share, "d"), 0o777), os.Mkdir(filepath.Join(share, "e"), 0o777),
		os.WriteFile(filepath.Join(outside, "f"), []byte(secret), 0o666), os.WriteFile(filepath.Join(outside, "victim"), nil, 0o666),
		os.Symlink(outside, filepath.Join(share, "dlink")), os.Symlink(filepath.Join(outside, "f"), filepath.Join(share, "flink")),
		os.WriteFile(filepath.Join(share, "f"), []byte("inside"), 0o666), os.WriteFile(filepath.Join(share, "d", "f"), []byte("inside"), 0o666),
		os.Symlink(outside, filepath.Join(share, "d", "dlink")),
	} {
		must(t, err)
	}
	before := listing(t, outside)
	c := daemontest.Mount(t, daemontest.Start(t, share, "--xattr"), frontend.Options{}, fuseclient.Options{})

	var stop atomic.Bool
	swaps := make(chan int)
	go func() {
		n := 0
		for !stop.Load() {
			for _, p := range [][2]string{{"d", "dlink"}, {"f", "flink"}} {
				if unix.Renameat2(unix.AT_FDCWD, filepath.Join(share, p[0]), unix.AT_FDCWD, filepath.Join(share, p[1]), unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
			// A directory that the guest may be in leaves the share and comes back.
			os.Rename(filepath.Join(share, "e"), filepath.Join(base, "e"))
			os.Rename(filepath.Join(base, "e"), filepath.Join(share, "e"))
		}
		swaps <- n
	}()
	ext := c.Extensions(nil, nil)
	buf := make([]byte, 4096)
	reached := map[string]int{}
	read := func(node uint64, what string) {
		o, err := c.Open(root, node, unix.O_RDWR, 0, false)
		if err != nil {
			return
		}
		n, err := c.Read(root, node, o.Fh, buf, 0, 0)
		if err == nil && bytes.Contains(buf[:n], []byte(secret)) {
			t.Errorf("%s: the guest has read what is outside", what)
		}
		reached[what]++
		must(t, c.CloseHandle(node, o.Fh, 0, 0, 0, false))
	}
	everything := []string{"d/f", "dlink/f", "d/new", "dlink/new", "e/new", "f", "flink"}
	// On a slow machine a round takes long, and a name may be the wrong kind in each of a few.
	complete := func() bool {
		for _, what := range everything {
			if reached[what] == 0 {
				return false
			}
		}
		return true
	}
	begin := time.Now()
	for i := 0; !t.Failed() && (time.Since(begin) < 3*time.Second || !complete() && time.Since(begin) < time.Minute); i++ {
		name := fmt.Sprintf("n%d", i%50)
		for _, top := range []string{"d", "dlink", "e"} {
			d, err := c.Lookup(root, 1, top)
			if err != nil {
				continue
			}
			if f, err := c.Lookup(root, d.NodeId, "f"); err == nil {
				read(f.NodeId, top+"/f")
				must(t, c.Forget(f.NodeId, 1))
			}
			if f, err := c.Create(root, d.NodeId, name, unix.O_RDWR|unix.O_TRUNC, 0o666, 0, 0, ext); err == nil {
				reached[top+"/new"]++
				must(t, c.CloseHandle(f.NodeId, f.Fh, 0, 0, 0, false))
				must(t, c.Forget(f.NodeId, 1))
			}
			c.Mkdir(root, d.NodeId, name+"d", 0o777, 0, ext)
			c.Symlink(root, d.NodeId, name+"l", "x", ext)
			c.Rename(root, d.NodeId, name, 1, name, 0)
			c.Rename(root, 1, name, d.NodeId, "victim", 0)
			c.Unlink(root, d.NodeId, "victim")
			c.Unlink(root, d.NodeId, name+"l")
			c.Rmdir(root, d.NodeId, name+"d")
			c.Setattr(root, d.NodeId, fuse.SetAttrInCommon{Valid: fuse.FATTR_MODE, Mode: 0o777})
			must(t, c.Forget(d.NodeId, 1))
		}
		for _, top := range []string{"f", "flink"} {
			if f, err := c.Lookup(root, 1, top); err == nil {
				read(f.NodeId, top)
				c.Setattr(root, f.NodeId, fuse.SetAttrInCommon{Valid: fuse.FATTR_SIZE, Size: 6})
				c.Setxattr(root, f.NodeId, "user.x", []byte("x"), 0, 0)
				must(t, c.Forget(f.NodeId, 1))
			}
			if f, err := c.Create(root, 1, top, unix.O_RDWR|unix.O_TRUNC, 0o666, 0, 0, ext); err == nil {
				c.Write(root, f.NodeId, f.Fh, []byte("inside"), 0, 0, 0)
				must(t, c.CloseHandle(f.NodeId, f.Fh, 0, 0, 0, false))
				must(t, c.Forget(f.NodeId, 1))
			}
		}
	}
	stop.Store(true)
	if n := <-swaps; n < 100 {
		t.Errorf("only %d exchanges", n)
	}
	for _, what := range everything {
		if reached[what] == 0 {
			t.Errorf("%s was never the guest's: the test shows nothing", what)
		}
	}
	if after := listing(t, outside); after != before {
		t.Errorf("outside it is changed:\n%s\nbefore:\n%s", after, before)
	}
}

// listing describes all that is in a directory.
func listing(t *testing.T, dir string) (s string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	paths := []string{dir}
	for _, e := range list {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	for _, path := range paths {
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		data, _ := os.ReadFile(path)
		size, _ := unix.Listxattr(path, nil)
		s += fmt.Sprintf("%s %o %d bytes %q, %d of attributes\n", path, st.Mode, st.Size, data, size)
	}
	return s
}

// TestWalkOfATreeOfMoreFilesThanDescriptors shows a daemon that goes on.
func TestWalkOfATreeOfMoreFilesThanDescriptors(t *testing.T) {
	if daemontest.Foreign() {
		t.Skip("its limit is its own")
	}
	const files, limit = 4000, 2000
	dir := t.TempDir()
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	for _, handles := range []string{"never", "prefer"} {
		t.Run("inode-file-handles="+handles, func(t *testing.T) {
			d := daemontest.Start(t, dir, "--inode-file-handles="+handles, fmt.Sprintf("--rlimit-nofile=%d", limit), "--queues=1")
			c := daemontest.Mount(t, d, frontend.Options{}, fuseclient.Options{})
			descriptors := func() int {
				list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
				must(t, err)
				return len(list)
			}
			for round := range 2 {
				var known []uint64
				var refused int
				for i := range files {
					e, err := c.Lookup(root, 1, fmt.Sprint(i))
					switch {
					case err == nil:
						known = append(known, e.NodeId)
					case errors.Is(err, unix.ENFILE):
						refused++
					default:
						t.Fatalf("LOOKUP %d: %v", i, err)
					}
				}
				if n := descriptors(); n > limit {
					t.Errorf("%d descriptors are open", n)
				}
				switch {
				case handles == "never" && (refused == 0 || len(known) < limit/4):
					t.Errorf("%d files are known, %d refused", len(known), refused)
				case handles == "prefer" && refused > 0:
					t.Errorf("%d files were refused though they have file handles", refused)
				}
				// What is known goes on working, and so does the root.
				for _, node := range known[:100] {
					_, err := c.Getattr(root, node, nil)
					must(t, err)
				}
				if _, err := c.Statfs(root, 1); err != nil {
					t.Errorf("STATFS: %v", err)
				}
				o, err := c.Open(root, 1, unix.O_DIRECTORY, 0, true)
				if err == nil {
					_, err = c.Readdir(root, 1, o.Fh, 0, 4096, true)
					must(t, c.CloseHandle(1, o.Fh, 0, 0, 0, true))
				}
				if err != nil && !(handles == "never" && err == unix.ENFILE) {
					t.Errorf("READDIRPLUS in round %d: %v", round, err)
				}
				for some := range slices.Chunk(known, 100) {
					var list []fuseclient.ForgetOne
					for _, node := range some {
						list = append(list, fuseclient.ForgetOne{Node: node, N: 1})
					}
					must(t, c.BatchForget(list))
				}
			}
			_, err := c.Create(root, 1, "new", unix.O_RDWR, 0o600, 0, 0, c.Extensions(nil, nil))
			must(t, err)
			must(t, os.Remove(filepath.Join(dir, "new")))
		})
	}
}
