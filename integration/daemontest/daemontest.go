// Package daemontest gives tests a running virtio-fs daemon: this project's, built for the occasion, or any other that
// VIRTIOFSD_TEST_COMMAND names. It needs no root and no QEMU. A test package uses it with
//
//	func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }
//
// VIRTIOFSD_TEST_BUILDFLAGS are more flags for go build; with -race, a data race of the daemon fails the test.
//
// It trusts nobody and holds no locks that callers see.
package daemontest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs the tests and removes the daemon that was built for them.
func Main(m *testing.M) int {
	code := m.Run()
	if build.dir != "" {
		os.RemoveAll(build.dir)
	}
	return code
}

// Foreign says whether the daemon is not this project's.
func Foreign() bool { return os.Getenv(frontend.CommandVariable) != "" }

// Command is the daemon's command line, with {socket} and {dir} in it.
func Command(tb testing.TB) []string {
	tb.Helper()
	if s := os.Getenv(frontend.CommandVariable); s != "" {
		return strings.Fields(s)
	}
	build.once.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "daemontest"); build.err != nil {
			return
		}
		args := []string{"build", "-o", build.dir}
		args = append(args, strings.Fields(os.Getenv("VIRTIOFSD_TEST_BUILDFLAGS"))...)
		out, err := exec.Command("go", append(args, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go")...).CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("build the daemon: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		tb.Fatal(build.err)
	}
	return []string{filepath.Join(build.dir, "virtiofsd-go"), "--sandbox=none", "--socket-path={socket}", "--shared-dir={dir}"}
}

// CheckFaults fails the test for every fault of the daemon. A daemon that is not ours is forgiven what is known of rust
// virtiofsd: it completes DESTROY without a reply.
func CheckFaults(tb testing.TB, f *frontend.Frontend) {
	tb.Helper()
	for _, s := range f.Faults() {
		if Foreign() && strings.HasPrefix(s, "opcode 38,") {
			continue
		}
		tb.Errorf("fault of the daemon: %s", s)
	}
}

// Start runs the daemon on dir with more arguments. It ends with the test; what it printed is shown if that failed.
func Start(tb testing.TB, dir string, more ...string) *frontend.Daemon {
	tb.Helper()
	// The path of a socket is limited to 108 bytes, so not tb.TempDir.
	sockets, err := os.MkdirTemp("", "vfs")
	if err != nil {
		tb.Fatal(err)
	}
	log := &logBuffer{}
	d, err := frontend.StartDaemon(append(Command(tb), more...), filepath.Join(sockets, "s"), dir, log)
	if err != nil {
		os.RemoveAll(sockets)
		tb.Fatalf("%v\n%s", err, log)
	}
	tb.Cleanup(func() {
		if err := d.Stop(); err != nil {
			tb.Error(err)
		}
		os.RemoveAll(sockets)
		if strings.Contains(log.String(), "DATA RACE") {
			tb.Error("the daemon has a data race")
		}
		if tb.Failed() {
			tb.Logf("the daemon printed:\n%s", log)
		}
	})
	return d
}

// Connect boots a guest on the daemon. Faults that the daemon commits until the test ends fail it.
func Connect(tb testing.TB, d *frontend.Daemon, o frontend.Options) *frontend.Frontend {
	tb.Helper()
	o.KickOnStart = o.KickOnStart || Foreign()
	f, err := frontend.Open(d.Socket, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		f.Close()
		CheckFaults(tb, f)
	})
	return f
}

// Mount boots a guest and does the FUSE handshake.
func Mount(tb testing.TB, d *frontend.Daemon, fo frontend.Options, co fuseclient.Options) *fuseclient.Client {
	tb.Helper()
	c := fuseclient.New(Connect(tb, d, fo), co)
	tb.Cleanup(c.Close)
	if !co.Polled {
		if err := c.Init(); err != nil {
			tb.Fatalf("INIT: %v", err)
		}
	}
	return c
}

// logBuffer keeps the last part of what is written to it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 1<<20 {
		l.buf.Next(l.buf.Len() - 1<<19)
	}
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
