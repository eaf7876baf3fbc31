package frontend_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// mortal is a daemon that is killed at work and started again on the same in-flight area.
type mortal struct {
	t     *testing.T
	dir   string
	fe    *frontend.Frontend
	c     *fuseclient.Client
	start func() *frontend.Daemon
	d     *frontend.Daemon

	done  atomic.Int64 // requests that were answered
	ended atomic.Bool
	wg    sync.WaitGroup
}

func startMortal(t *testing.T, packed bool) *mortal {
	dir := t.TempDir()
	sockets, err := os.MkdirTemp("", "vfs")
	must(t, err)
	log := &bytes.Buffer{}
	m := &mortal{t: t, dir: dir, start: func() *frontend.Daemon {
		d, err := frontend.StartDaemon(append(daemontest.Command(t), "--thread-pool-size=2"), filepath.Join(sockets, "s"), dir, log)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		return d
	}}
	m.d = m.start()
	m.fe, err = frontend.Open(m.d.Socket, frontend.Options{Inflight: true, Packed: packed, Queues: 3})
	must(t, err)
	if m.fe.Protocol()&frontend.ProtocolInflightShmFD == 0 {
		t.Fatal("the daemon offers no in-flight tracking")
	}
	m.c = fuseclient.New(m.fe, fuseclient.Options{Timeout: 20 * time.Second})
	must(t, m.c.Init())
	t.Cleanup(func() {
		m.ended.Store(true)
		m.wg.Wait()
		m.c.Close()
		for _, s := range m.fe.Faults() {
			t.Errorf("fault of the daemon: %s", s)
		}
		m.fe.Close()
		m.d.Stop()
		os.RemoveAll(sockets)
		if t.Failed() {
			t.Logf("the daemons printed:\n%s", log)
		}
	})
	return m
}

// caller makes requests until the test ends: step makes the i-th ones and returns false to give up.
func (m *mortal) caller(step func(i int) bool) {
	m.wg.Go(func() {
		for i := 0; !m.ended.Load() && step(i); i++ {
			m.done.Add(1)
		}
	})
}

// die kills the daemon n times, each after some more requests, and lets the callers end.
func (m *mortal) die(n int) {
	m.t.Helper()
	for range n {
		for from := m.done.Load(); m.done.Load() < from+50 && !m.t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		m.d.Kill()
		m.d = m.start()
		must(m.t, m.fe.Reconnect())
	}
	m.ended.Store(true)
	m.wg.Wait()
	alive(m.t, m.c)
}

func (m *mortal) host(name string) string { return filepath.Join(m.dir, name) }

func (m *mortal) exists(name string) bool {
	_, err := os.Lstat(m.host(name))
	return err == nil
}

// TestKilledDaemonLosesNoRequest kills the daemon at random moments under load: every request gets one reply, and what
// was replied to has happened.
func TestKilledDaemonLosesNoRequest(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			m := startMortal(t, f.packed)
			for g := range 8 {
				m.caller(func(i int) bool {
					name := fmt.Sprintf("d%d.%d", g, i)
					// EEXIST: it was done, and the daemon was killed before it could say so.
					if _, err := m.c.Mkdir(root, 1, name, 0o700, 0, m.c.Extensions(nil, nil)); err != nil && err != unix.EEXIST {
						t.Errorf("mkdir %s: %v", name, err)
						return false
					}
					if !m.exists(name) {
						t.Errorf("mkdir %s was answered, and it is not there", name)
						return false
					}
					return true
				})
			}
			m.die(10)
		})
	}
}

// TestKilledDaemonDoesNothingTwice has requests in flight that must not be carried out twice: an exchange of two names,
// an appending write, a file made, renamed and removed. One that the daemon carried out and could not answer any more
// may end with an error, but its effect is there once.
func TestKilledDaemonDoesNothingTwice(t *testing.T) {
	ours(t)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			m := startMortal(t, f.packed)
			for g := range 6 {
				m.exchange(fmt.Sprint("a", g), fmt.Sprint("b", g))
			}
			appended := make([]*appender, 4)
			for g := range appended {
				appended[g] = m.appender(fmt.Sprint("log", g))
			}
			for g := range 4 {
				m.nameGames(fmt.Sprint("n", g))
			}
			m.die(15)
			for _, a := range appended {
				a.check()
			}
		})
	}
}

// exchange exchanges two names again and again, each of which says on the host who has it.
func (m *mortal) exchange(a, b string) {
	must(m.t, os.WriteFile(m.host(a), []byte("0"), 0o600))
	must(m.t, os.WriteFile(m.host(b), []byte("1"), 0o600))
	state := func() string {
		s, err := os.ReadFile(m.host(a))
		if err != nil {
			m.t.Error(err)
		}
		return string(s)
	}
	m.caller(func(i int) bool {
		before := state()
		err := m.c.Rename(root, 1, a, 1, b, unix.RENAME_EXCHANGE)
		switch {
		case err == unix.EIO: // done or not: the daemon that was killed knows
		case err != nil:
			m.t.Errorf("exchange of %s and %s: %v", a, b, err)
			return false
		case state() == before:
			m.t.Errorf("exchange %d of %s and %s was answered, and has not happened or twice", i, a, b)
			return false
		}
		return true
	})
}

// nameGames makes, renames and removes files.
func (m *mortal) nameGames(prefix string) {
	m.caller(func(i int) bool {
		name, other := fmt.Sprintf("%s.%d", prefix, i), fmt.Sprintf("%s.%d.renamed", prefix, i)
		file, err := m.c.Create(root, 1, name, unix.O_RDWR|unix.O_EXCL, 0o600, 0, 0, m.c.Extensions(nil, nil))
		if err == nil {
			_ = m.c.CloseHandle(file.NodeId, file.Fh, 0, 0, 0, false) // of the daemon before, perhaps
		}
		if err != nil && err != unix.EEXIST || !m.exists(name) {
			m.t.Errorf("create %s: %v, it exists: %t", name, err, m.exists(name))
			return false
		}
		err = m.c.Rename(root, 1, name, 1, other, 0)
		if err != nil && err != unix.ENOENT || m.exists(name) || !m.exists(other) {
			m.t.Errorf("rename %s to %s: %v, they exist: %t, %t", name, other, err, m.exists(name), m.exists(other))
			return false
		}
		err = m.c.Unlink(root, 1, other)
		if err != nil && err != unix.ENOENT || m.exists(other) {
			m.t.Errorf("unlink %s: %v, it exists: %t", other, err, m.exists(other))
			return false
		}
		return true
	})
}

// appender appends numbered records to a file of its own.
type appender struct {
	m        *mortal
	name     string
	answered map[string]bool
}

func (m *mortal) appender(name string) *appender {
	must(m.t, os.WriteFile(m.host(name), nil, 0o600))
	a := &appender{m: m, name: name, answered: map[string]bool{}}
	var node, fh uint64
	m.caller(func(i int) bool {
		if fh == 0 {
			e, err := m.c.Lookup(root, 1, name)
			if err != nil {
				m.t.Errorf("lookup of %s: %v", name, err)
				return false
			}
			o, err := m.c.Open(root, e.NodeId, unix.O_WRONLY|unix.O_APPEND, 0, false)
			if err != nil {
				return true // killed between the two
			}
			node, fh = e.NodeId, o.Fh
		}
		record := fmt.Sprintf("%08d", i)
		if n, err := m.c.Write(root, node, fh, []byte(record+"\n"), 0, unix.O_WRONLY|unix.O_APPEND, 0); err != nil {
			fh = 0 // the file was open in the daemon that was killed
		} else if n == len(record)+1 {
			a.answered[record] = true
		}
		return true
	})
	return a
}

// check wants each record that was answered in the file once, and the others at most once.
func (a *appender) check() {
	t := a.m.t
	b, err := os.ReadFile(a.m.host(a.name))
	must(t, err)
	count := map[string]int{}
	for record := range strings.Lines(string(b)) {
		count[strings.TrimSuffix(record, "\n")]++
	}
	for record, n := range count {
		if n != 1 || len(record) != 8 {
			t.Errorf("%s has %q %d times", a.name, record, n)
		}
	}
	for record := range a.answered {
		if count[record] == 0 {
			t.Errorf("%s has no %q, which was answered", a.name, record)
		}
	}
	if len(a.answered) < 10 {
		t.Errorf("only %d records were appended to %s", len(a.answered), a.name)
	}
}
