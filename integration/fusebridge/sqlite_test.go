package fusebridge_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

// Each transaction inserts a batch of items and counts it, so that who sees half of one knows it.
const (
	makeDatabase = "create table item(id integer primary key, batch int, x blob); create index i on item(batch); create table committed(batch int); insert into committed values (0);"
	commitBatch  = "begin immediate; insert into item(batch, x) select batch + 1, randomblob(abs(random()) % 6000) from committed, (values (1), (2), (3), (4), (5)); " +
		"update item set x = randomblob(100) where id % 7 = (select batch % 7 from committed); update committed set batch = batch + 1; commit; select batch from committed;\n"
	// Prints what is wrong.
	lookAtBatches = "select 'committed ' || batch || ', there ' || (select count(*) / 5.0 from item) || ', last ' || (select coalesce(max(batch), 0) from item) from committed " +
		"where 5 * batch != (select count(*) from item) or batch != (select coalesce(max(batch), 0) from item);\n"
)

// TestDatabaseSurvivesKilledDaemon kills the daemon again and again while one program writes to a database and another
// reads it. Their open files end with it, and they open them anew. What the writer was told to be committed stays, nobody
// sees half a transaction, and sqlite finds the database whole.
func TestDatabaseSurvivesKilledDaemon(t *testing.T) {
	switch _, err := exec.LookPath("sqlite3"); {
	case err != nil:
		t.Skip("needs sqlite3: scripts/bootstrap test")
	case os.Geteuid() != 0:
		t.Skip("mounting needs root")
	case daemontest.Foreign():
		t.Skip("the daemon under test may keep no requests in flight")
	}
	for _, journal := range []string{"delete", "truncate", "wal"} {
		t.Run(journal, func(t *testing.T) { killedUnderDatabase(t, journal) })
	}
}

func killedUnderDatabase(t *testing.T, journal string) {
	shared, mounted, log := t.TempDir(), t.TempDir(), &bytes.Buffer{}
	sockets, err := os.MkdirTemp("", "vfs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	start := func() *frontend.Daemon {
		d, err := frontend.StartDaemon(daemontest.Command(t), filepath.Join(sockets, "s"), shared, log)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		return d
	}
	d := start()
	defer func() { d.Stop() }()
	bridge := &bytes.Buffer{}
	b, err := fusebridge.Mount(fusebridge.Options{Socket: d.Socket, Restarts: true, Log: bridge})
	if err != nil {
		t.Fatalf("%v\n%s", err, bridge)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Errorf("%v\n%s", err, bridge)
		}
	}()
	starter := startIn(t, mounted, b.Attach)
	defer close(starter)

	s := &database{t: t, starter: starter, path: filepath.Join(mounted, "db"), journal: journal}
	if out, err := s.ask(makeDatabase); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.group.Go(s.write)
	s.group.Go(s.read)
	stop := sync.OnceFunc(func() {
		s.ended.Store(true)
		s.group.Wait()
	})
	defer stop()
	for range 6 {
		enough := s.committed.Load() + 1 + rand.Int64N(10)
		for deadline := time.Now().Add(3 * time.Minute); s.committed.Load() < enough && !t.Failed(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nothing is written: %s", s.lastError())
			}
		}
		d.Kill()
		d = start()
	}
	stop()
	t.Logf("%d transactions; the last error was %s", s.committed.Load(), s.lastError())
	for _, where := range []string{mounted, shared} {
		s.path = filepath.Join(where, "db")
		if out, err := s.ask("pragma integrity_check;" + lookAtBatches + fmt.Sprintf("select 'lost' from committed where batch < %d;", s.committed.Load())); err != nil || out != "ok\n" {
			t.Errorf("in %s: %v\n%s", where, err, out)
		}
	}
}

// The main thread can't end, so what leaves its thread in another namespace must not run there.
func init() { runtime.LockOSThread() }

// startIn returns a channel for what starts programs in a mount namespace of their own, where the bridge is attached at dir
// until the channel is closed. (A mount that all can see is held by whoever makes a namespace meanwhile.)
func startIn(t *testing.T, dir string, attach func(string) error) chan<- func() {
	t.Helper()
	starter, ready := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread() // and no unlocking: the thread ends, and its namespace
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = attach(dir)
		}
		ready <- err
		for start := range starter {
			start()
		}
		unix.Unmount(dir, unix.MNT_DETACH)
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return starter
}

// database is one with a writer and a reader.
type database struct {
	t             *testing.T
	starter       chan<- func()
	path, journal string
	ended         atomic.Bool
	group         sync.WaitGroup
	committed     atomic.Int64
	mu            sync.Mutex
	complaint     string
}

func (s *database) lastError() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complaint
}

// command is a sqlite that ends at the first error.
func (s *database) command() *exec.Cmd {
	return exec.Command("sqlite3", "-batch", "-bail", "-cmd", ".timeout 60000", "-cmd", "pragma synchronous=full", s.path)
}

func (s *database) start(cmd *exec.Cmd) error {
	done := make(chan error)
	s.starter <- func() { done <- cmd.Start() }
	return <-done
}

func (s *database) ask(statements string) (string, error) {
	cmd := s.command()
	cmd.Stdin = strings.NewReader(statements)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// write commits batches, each of which is printed, and begins anew when an error has ended the program.
func (s *database) write() {
	s.again("pragma journal_mode="+s.journal+";\n", commitBatch, func(line string) error {
		if line == s.journal {
			return nil
		}
		n, err := strconv.ParseInt(line, 10, 64)
		if err == nil && n <= s.committed.Load() {
			err = fmt.Errorf("batch %d is written after %d", n, s.committed.Load())
		}
		if err == nil {
			s.committed.Store(n)
		}
		return err
	})
}

func (s *database) read() {
	s.again("", lookAtBatches, func(line string) error { return fmt.Errorf("the reader sees: %s", line) })
}

func (s *database) again(first, then string, heard func(string) error) {
	for !s.ended.Load() && !s.t.Failed() {
		cmd := s.command()
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		in, err := cmd.StdinPipe()
		if err != nil {
			s.t.Error(err)
			return
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = s.start(cmd)
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		go func() {
			_, err := io.WriteString(in, first)
			for err == nil && !s.ended.Load() {
				_, err = io.WriteString(in, then)
			}
			in.Close()
		}()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if err := heard(lines.Text()); err != nil {
				s.t.Error(err)
				cmd.Process.Kill()
			}
		}
		if cmd.Wait() != nil {
			s.mu.Lock()
			s.complaint = complaint.String()
			s.mu.Unlock()
		}
	}
}
