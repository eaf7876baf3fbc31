package fusebridge_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour/hostfs"
	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

func TestMain(m *testing.M) {
	fusebridge.Child()
	os.Exit(daemontest.Main(m))
}

func mount(t *testing.T, o fusebridge.Options, daemon ...string) (*fusebridge.Bridge, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this kernel has no FUSE")
	}
	dir := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	d := daemontest.Start(t, dir, daemon...)
	o.Socket = d.Socket
	log := &bytes.Buffer{}
	o.Log = log
	b, err := fusebridge.Mount(o)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil && !forgiven(log.String()) {
			t.Errorf("%v\n%s", err, log)
		}
	})
	return b, dir
}

func forgiven(log string) bool {
	return strings.Contains(log, "the daemon has closed the connection") // a test killed it
}

// TestKernelBehaviour runs the suite through the host's kernel, page cache and mmap included.
func TestKernelBehaviour(t *testing.T) {
	o, err := behaviour.OptionsFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []struct {
		name   string
		daemon []string
		groups []string
		needs  []behaviour.Capability
	}{
		{"cache-auto", []string{"--xattr"}, nil, nil},
		{"cache-never", []string{"--xattr", "--cache=never"}, nil, []behaviour.Capability{behaviour.SharedPages}},
		{"writeback", []string{"--xattr", "--cache=always", "--writeback"}, nil, []behaviour.Capability{behaviour.SharedPages}},
		{"acl", []string{"--xattr", "--posix-acl"}, nil, []behaviour.Capability{behaviour.ACL}},
		// What goes by an option of its own.
		{"locks", []string{"--posix-lock", "--flock"}, []string{"lock"}, nil},
		{"cache-never-mmap", []string{"--cache=never", "--allow-mmap"}, []string{"mmap", "readwrite"}, []behaviour.Capability{behaviour.Mmap}},
		{"cache-metadata", []string{"--cache=metadata"}, []string{"readwrite", "truncate", "fallocate", "rename", "unlinked", "killpriv"}, nil},
		{"no-readdirplus", []string{"--no-readdirplus"}, []string{"readdir", "lookup"}, nil},
		{"direct-io", []string{"--allow-direct-io", "--preserve-noatime"}, []string{"open", "readwrite", "time"}, []behaviour.Capability{behaviour.DirectIO}},
		{"no-handles", []string{"--inode-file-handles=never"}, []string{"unlinked", "rename", "link"}, nil},
	} {
		t.Run(mode.name, func(t *testing.T) {
			b, _ := mount(t, fusebridge.Options{}, mode.daemon...)
			fs, err := hostfs.New(b.Dir())
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			o := o
			o.Groups, o.Require = mode.groups, slices.Concat(o.Require, mode.needs)
			var view behaviour.FS = fs
			if slices.Contains(mode.needs, behaviour.SharedPages) {
				view = sharesPages{fs}
			}
			behaviour.Run(t, view, o)
		})
	}
}

// sharesPages is a mount whose pages Linux does not drop by the file's time (FUSE_AUTO_INVAL_DATA): which mode it has can't be
// seen from outside.
type sharesPages struct{ behaviour.FS }

func (s sharesPages) Lacks(c behaviour.Capability) string {
	if c == behaviour.SharedPages {
		return ""
	}
	return s.FS.Lacks(c)
}

func TestDeadDaemonLeavesNoProcessWaiting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	d := daemontest.Start(t, dir)
	b, err := fusebridge.Mount(fusebridge.Options{Socket: d.Socket, Log: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := os.Create(filepath.Join(b.Dir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(d.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.Done()
	done := make(chan error, 1)
	go func() {
		f.Write(make([]byte, 1<<16))
		f.Close()
		_, err := os.Stat(filepath.Join(b.Dir(), "file2"))
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a file system without a daemon found a file")
		}
	case <-time.After(20 * time.Second):
		b.Abort()
		t.Fatal("a call on the mount hangs")
	}
}

func TestOtherProcessesUseTheMountByPath(t *testing.T) {
	b, dir := mount(t, fusebridge.Options{})
	at := t.TempDir()
	if err := b.Attach(at); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-ec", "cd "+at+"; mkdir d; echo hello > d/f; mv d/f g; cat g; ls -l").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "hello\n") {
		t.Errorf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "g")); err != nil || string(got) != "hello\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
}

func TestReleasedMountEndsWhenItIsUnmounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	d := daemontest.Start(t, t.TempDir())
	b, err := fusebridge.Mount(fusebridge.Options{Socket: d.Socket, Source: "a-name", Log: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	at := t.TempDir()
	if err := b.Attach(at); err != nil {
		t.Fatal(err)
	}
	b.Release()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || !strings.Contains(string(mounts), "a-name "+at+" fuse ") {
		t.Errorf("%v; the mounts are\n%s", err, mounts)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(); err != nil {
		t.Errorf("the bridge: %v", err)
	}
	if err := d.Wait(time.Minute); err != nil {
		t.Errorf("the daemon: %v", err)
	}
}

// TestKilledUserLeavesNothing kills a process that mounted and has files of the mount open, while it writes.
func TestKilledUserLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	for range 5 {
		d := daemontest.Start(t, dir)
		cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
		cmd.Env = append(os.Environ(), victimVariable+"="+d.Socket)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var bridge int
		if _, err := fmt.Fscanln(out, &bridge); err != nil || bridge == 0 {
			t.Fatalf("the victim did not mount: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
		cmd.Process.Kill()
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the killed process does not end")
		}
		for deadline := time.Now().Add(10 * time.Second); unix.Kill(bridge, 0) == nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the bridge goes on without the process that mounted")
			}
		}
		if err := d.Wait(10 * time.Second); err != nil {
			t.Errorf("the daemon: %v", err)
		}
	}
}

const victimVariable = "FUSEBRIDGE_VICTIM"

// TestVictim is what TestKilledUserLeavesNothing kills.
func TestVictim(t *testing.T) {
	socket := os.Getenv(victimVariable)
	if socket == "" {
		t.Skip("a process of another test")
	}
	b, err := fusebridge.Mount(fusebridge.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(b.Dir(), "victim"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(b.PID())
	for i := 0; ; i++ {
		m[i*4096%len(m)]++
		f.WriteAt(make([]byte, 10_000), int64(i%50)*1000)
	}
}
