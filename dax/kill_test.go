package dax

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillAtAnyMoment kills the daemon, the server of the backing mount, the
// front-end, two of them or all, at random moments under load. Each time the ones
// killed must be gone soon, in whatever they were waiting; after the daemon the
// server must follow; and no connection may be left.
//
// To see it fail: drop Pdeathsig, so that only the end of the links tells the
// server of the daemon's: a thread that reads a parked page keeps them open.
func TestKillAtAnyMoment(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("skip: the backing mount needs root")
	}
	ctl := t.TempDir()
	if err := unix.Mount("none", ctl, "fusectl", 0, ""); err != nil {
		t.Skipf("skip: fusectl cannot be mounted here: %v", err)
	}
	defer unix.Unmount(ctl, unix.MNT_DETACH)
	rounds := 60
	if testing.Short() {
		rounds = 12
	}
	for i := range rounds {
		killRound(t, i, ctl)
		if t.Failed() {
			return
		}
	}
}

func killRound(t *testing.T, round int, ctl string) {
	cmd := exec.Command("/proc/self/exe", "dax-daemon", t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the daemon did not start: %v", err)
	}
	var server, front, conn int
	if _, err := fmt.Sscan(line, &server, &front, &conn); err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{"daemon": cmd.Process.Pid, "server": server, "front-end": front}
	which := [][]string{
		{"daemon"}, {"server"}, {"front-end"}, {"daemon", "server"}, {"front-end", "server"},
		{"daemon", "front-end"}, {"server", "front-end", "daemon"}, {"daemon", "front-end", "server"},
	}[round%8]
	time.Sleep(time.Duration(rand.IntN(300_000)) * time.Microsecond)
	for _, w := range which {
		syscall.Kill(pids[w], syscall.SIGKILL)
	}
	what := fmt.Sprintf("round %d, killed %v", round, which)
	for _, w := range which {
		gone(t, what, w, pids[w], ctl, conn, cmd)
	}
	// The rest is ended one by one; none may be stuck either.
	for _, w := range []string{"daemon", "server", "front-end"} {
		if w == "server" {
			gone(t, what+", the daemon after it", w, pids[w], ctl, conn, cmd)
			continue
		}
		syscall.Kill(pids[w], syscall.SIGKILL)
		gone(t, what+", the rest after it", w, pids[w], ctl, conn, cmd)
	}
	cmd.Wait()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(ctl, strconv.Itoa(conn))); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%s: the mount is still there", what)
			abortConnection(ctl, conn)
			break
		}
	}
}

// gone waits until the process is dead or a zombie, and frees it by force if that
// takes too long.
func gone(t *testing.T, what, who string, pid int, ctl string, conn int, cmd *exec.Cmd) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		if processDead(pid) {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("%s: the %s (%d) is still there\n%s", what, who, pid, threadStates(pid))
	abortConnection(ctl, conn)
}

func abortConnection(ctl string, conn int) {
	os.WriteFile(filepath.Join(ctl, strconv.Itoa(conn), "abort"), []byte("1"), 0)
}

func processDead(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return true
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
		if err != nil {
			continue
		}
		if s := string(b[strings.LastIndexByte(string(b), ')')+2:]); s[0] != 'Z' && s[0] != 'X' {
			return false
		}
	}
	return true
}

func threadStates(pid int) string {
	var b strings.Builder
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		for _, f := range []string{"stat", "wchan", "stack"} {
			c, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/%s", pid, task.Name(), f))
			fmt.Fprintf(&b, "%s %s: %s\n", task.Name(), f, c)
		}
	}
	return b.String()
}

// daemonMain is a daemon under load, for the test above: exclusive operations,
// reads of the window by itself, reclaim and setups, while its guest writes.
func daemonMain(dir string) error {
	t := &testing.B{}
	m, err := New(Config{Window: 16 * RangeSize})
	if err != nil {
		return err
	}
	m.SetMapper(newFakeFrontend())
	op := m.NewOp()
	var files [3]*testFile
	for i := range files {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		if err := f.Truncate(5 * RangeSize); err != nil {
			return err
		}
		files[i] = &testFile{File: f}
		for r := range uint32(5) {
			show(t, m, op, files[i], uint64(r)*RangeSize, uint32(i)*5+r)
		}
	}
	g := spawnGuest(m, nil) // it ends by SIGBUS, and says so
	for i := range 4 {
		g.start(guestCall{Op: "store", Off: uint64(i) * 3 * RangeSize, Len: 3 * RangeSize, Data: []byte("dirty")})
		g.start(guestCall{Op: "fault", Off: uint64(i) * 3 * RangeSize, Len: 3 * RangeSize})
	}
	var st unix.Stat_t
	unix.Fstat(m.back.segs[0].rw, &st)
	fmt.Println(m.back.pid, g.cmd.Process.Pid, unix.Minor(st.Dev))
	for i, f := range files {
		go func() {
			op := m.NewOp()
			for {
				if op.BeginTruncate(&f.Inode, 4*RangeSize+5) == nil {
					f.Truncate(4*RangeSize + 5)
					op.End()
				}
				if op.BeginFallocate(&f.Inode, 3, 0, 3*RangeSize) == nil {
					unix.Fallocate(int(f.Fd()), 3, 0, 3*RangeSize)
					op.End()
				}
				m.Sync(op, &f.Inode)
			}
		}()
		go func() {
			b := make([]byte, 65536)
			for off := int64(0); ; off = (off + 65536) % (2 * RangeSize) {
				s, o := m.back.at(span{uint64(i) * 5 * RangeSize, 0})
				unix.Pread(s.rw, b, o+off%RangeSize)
			}
		}()
		go func() {
			op := m.NewOp()
			for {
				m.RemoveMappings(op, []RemoveMapping{{uint64(i)*5*RangeSize + RangeSize, RangeSize}})
				m.SetupMapping(op, &f.Inode, f, RangeSize, uint64(i)*5*RangeSize+RangeSize, RangeSize, SetupWrite)
			}
		}()
	}
	for {
		m.back.invalidate(span{0, m.cfg.Window})
	}
}
