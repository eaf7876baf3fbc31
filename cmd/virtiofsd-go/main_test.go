package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the daemon under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "virtiofsd-go-cmd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "virtiofsd-go")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the daemon: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// reference returns rust virtiofsd, or skips the test.
func reference(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("VIRTIOFSD_RUST"); p != "" {
		return p
	}
	for _, p := range []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd-rust"} {
		if out, err := exec.Command(p, "--version").Output(); err == nil && strings.HasPrefix(string(out), "virtiofsd 1.") {
			return p
		}
	}
	t.Skip("rust virtiofsd is not installed (VIRTIOFSD_RUST can name it)")
	return ""
}

// result is how a run of a daemon ended.
type result struct {
	status         int
	stdout, stderr string
}

// runToEnd runs a daemon that is expected to end by itself.
func runToEnd(t *testing.T, dir, prog string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, prog, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %q did not end", prog, args)
	}
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// wrongCommandLines lists command lines that can't work, with the status they
// end with and a part of what is said about them. They are run in a directory
// with a directory "d" and a file "f".
var wrongCommandLines = []struct {
	args   []string
	status int
	says   string
	// ours says that rust virtiofsd does something else, and what.
	ours string
}{
	{args: nil, status: 2, says: "Usage:"},
	{args: args("--bogus"), status: 2, says: "there is no option --bogus"},
	{args: args("-x"), status: 2, says: "there is no option -x"},
	{args: args("--socket-path=s"), status: 2, says: "--shared-dir is missing"},
	{args: args("--shared-dir=d"), status: 2, says: "--socket-path is missing"},
	{args: args("--shared-dir"), status: 2, says: "--shared-dir needs a value"},
	{args: args("--shared-dir= --socket-path=s"), status: 2, says: "--shared-dir: may not be empty", ours: "rust takes it for a directory that does not exist"},
	{args: args("--shared-dir=d --socket-path=s extra"), status: 2, says: `unexpected argument "extra"`},
	{args: args("--shared-dir=d --socket-path=s --fd=3"), status: 2, says: "exclude each other"},
	{args: args("--shared-dir=d --fd=3 --socket-group=root"), status: 2, says: "--socket-group"},
	{args: args("--shared-dir=d --fd=x"), status: 2, says: `--fd: "x" is not a number`},
	{args: args("--shared-dir=nowhere --socket-path=s"), status: 1, says: "nowhere"},
	{args: args("--shared-dir=f --socket-path=s"), status: 1, says: "f is not a directory", ours: "rust shares a single file"},
	{args: args("--shared-dir=d --fd=99"), status: 1, says: "--fd=99"},
	{args: args("--shared-dir=d --fd=0"), status: 1, says: "no socket"},
	{args: args("--shared-dir=d --socket-path=nowhere/s"), status: 1, says: "nowhere"},
	{args: args("--shared-dir=d --socket-path=s --socket-group=no-such-group"), status: 1, says: `there is no group "no-such-group"`},
	{args: args("--shared-dir=d --socket-path=s --cache=some"), status: 2, says: `"some" is not one of auto, always, never, metadata`},
	{args: args("--shared-dir=d --socket-path=s --xattr=yes"), status: 2, says: "--xattr: takes no value"},
	{args: args("--shared-dir=d --socket-path=s --xattr=true"), status: 2, says: "--xattr: takes no value"},
	{args: args("--bogus --help"), status: 2, says: "there is no option --bogus"},
	{args: args("--shared-dir=d --socket-path=s --inode-file-handles=Prefer"), status: 2, says: "is not one of never, prefer"},
	{args: args("--shared-dir=d --socket-path=s --sandbox=Namespace"), status: 2, says: "use --sandbox=none", ours: "rust can isolate itself"},
	{args: args("--shared-dir=d --socket-path=s --posix-acl auto"), status: 2, says: `unexpected argument "auto"`},
	{args: args("--shared-dir=d --socket-path=s --posix-acl=some"), status: 2, says: `"some" is not one of never, auto, always`},
	{args: args("--shared-dir=d --socket-path=s --security-label=some"), status: 2, says: `"some" is not one of never, auto, always`},
	{args: args("--shared-dir=d --socket-path=s --inode-file-handles=some"), status: 2, says: "is not one of never, prefer"},
	{args: args("--shared-dir=d --socket-path=s --log-level=loud"), status: 2, says: `"loud" is not one of`},
	{args: args("--shared-dir=d --socket-path=s --tag="), status: 2, says: "--tag: must have 1 to 36 bytes"},
	{args: args("--shared-dir=d --socket-path=s --tag=x --dax-window=24M"), status: 2, says: "power of two", ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --tag=x --dax-window=1M"), status: 2, says: "power of two", ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --tag=x --dax-window=2M --dax-backing=passthrough --readonly"), status: 2, says: "--readonly needs --dax-backing=managed", ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --tag=x --dax-window=2M --dax-backing=direct --readonly"), status: 2, says: "--readonly needs --dax-backing=managed", ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --dax-files=flag"), status: 2, says: "no effect without --dax-window", ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --tag=x --dax-window=2M --dax-files=some"), status: 2, says: `"some" is not one of size, flag`, ours: "rust has no window"},
	{args: args("--shared-dir=d --socket-path=s --tag=" + strings.Repeat("x", 37)), status: 2, says: "--tag: must have 1 to 36 bytes"},
	{args: []string{"--shared-dir=d", "--socket-path=s", "--tag=a\nb"}, status: 2, says: "newline", ours: "rust takes it, and Linux guests refuse the device"},
	{args: args("--shared-dir=d --socket-path=s --thread-pool-size=-1"), status: 2, says: "--thread-pool-size"},
	{args: args("--shared-dir=d --socket-path=s --thread-pool-size=many"), status: 2, says: "--thread-pool-size"},
	{args: args("--shared-dir=d --socket-path=s --busy-poll=1001"), status: 2, says: "from 0 to 1000"},
	{args: args("--shared-dir=d --socket-path=s --queues=0"), status: 2, says: "from 1 to 64"},
	{args: args("--shared-dir=d --socket-path=s --queues=65"), status: 2, says: "from 1 to 64"},
	{args: args("--shared-dir=d --socket-path=s --rlimit-nofile=-1"), status: 2, says: "--rlimit-nofile"},
	{args: args("--shared-dir=d --socket-path=s --rlimit-nofile=100"), status: 1, says: "limit of open files is 100"},
	{args: args("--shared-dir=d --socket-path=s --rlimit-nofile=100000000000"), status: 1, says: "above"},
	{args: args("-o source=d,nothing --socket-path=s"), status: 2, says: "-o nothing: there is no such option"},
	{args: args("-o source=d,foo=bar --socket-path=s"), status: 2, says: "-o foo=bar: there is no such option"},
	{args: args("-o source=d,cache=never --socket-path=s"), status: 2, says: "cache=none"},
	{args: args("-o source=d,loglevel=error --socket-path=s"), status: 2, says: "loglevel"},
	{args: args("-o xattr --socket-path=s"), status: 2, says: "--shared-dir is missing", ours: "rust says so with status 1"},
	{args: args("--shared-dir=d --socket-path=s --sandbox=namespace"), status: 2, says: "use --sandbox=none", ours: "rust can isolate itself"},
	{args: args("--shared-dir=d --socket-path=s --sandbox=chroot"), status: 2, says: "use --sandbox=none", ours: "rust can isolate itself"},
	{args: args("--shared-dir=d --socket-path=s --sandbox=some"), status: 2, says: `"some" is not one of none`},
	{args: args("--shared-dir=d --socket-path=s --seccomp=kill"), status: 2, says: "use --seccomp=none", ours: "rust has a filter"},
	{args: args("--shared-dir=d --socket-path=s --uid-map=:0:1000:1:"), status: 2, says: "--uid-map is not supported", ours: "rust can"},
	{args: args("--shared-dir=d --socket-path=s --translate-uid=map:0:1000:1"), status: 2, says: "--translate-uid is not supported", ours: "rust can"},
	{args: args("--shared-dir=d --socket-path=s --xattrmap=:map::user.:"), status: 2, says: "--xattrmap is not supported", ours: "rust can"},
	{args: args("--shared-dir=d --socket-path=s --modcaps=+sys_admin"), status: 2, says: "--modcaps is not supported", ours: "rust can"},
	{args: args("--shared-dir=d --socket-path=s --migration-mode=find-paths"), status: 2, says: "--migration-mode is not supported", ours: "rust can"},
}

func args(line string) []string { return strings.Fields(line) }

func testDir(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWrongCommandLinesEndWithOneSentence(t *testing.T) {
	for _, tt := range wrongCommandLines {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			r := runToEnd(t, testDir(t), binary, append(tt.args, quiet(tt.args)...)...)
			if r.status != tt.status {
				t.Errorf("status %d, want %d", r.status, tt.status)
			}
			if !strings.Contains(r.stderr, tt.says) {
				t.Errorf("said %q, want something with %q", r.stderr, tt.says)
			}
			if r.stdout != "" {
				t.Errorf("wrote %q to standard output", r.stdout)
			}
			if n := strings.Count(r.stderr, "\n"); n != 1 && len(tt.args) > 0 {
				t.Errorf("said %d lines, want one: %q", n, r.stderr)
			}
		})
	}
}

func TestMessagesAtTheStartSayWhatToDo(t *testing.T) {
	dir := testDir(t)
	unwritable := "/proc/self" // for root too
	held, err := os.Create(filepath.Join(dir, "held.pid"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for line, says := range map[string][]string{
		"--shared-dir=nowhere --socket-path=s":                                 {"nowhere", "name one with --shared-dir"},
		"--shared-dir=f --socket-path=s":                                       {"f is not a directory", "name the directory that it is in"},
		"--shared-dir=d --socket-path=nowhere/s":                               {"nowhere", "make it, or choose another --socket-path"},
		"--shared-dir=d --socket-path=" + unwritable + "/s":                    {unwritable + "/s.pid", "choose a --socket-path in a directory"},
		"--shared-dir=d --socket-path=held":                                    {"held.pid is locked", "end it, or choose another --socket-path"},
		"--shared-dir=d --socket-path=s --socket-group=no-such-group":          {"no-such-group", "make it, or name another"},
		"--shared-dir=d --socket-path=s --control-socket=" + unwritable + "/c": {"--control-socket: listening on " + unwritable + "/c", "choose a path in a directory"},
		"--shared-dir=d --socket-path=s --rlimit-nofile=100":                   {"is 100", "raise it"},
		"--shared-dir=d --socket-path=s --rlimit-nofile=100000000000":          {"above the", "ask for less"},
		"--shared-dir=/proc --socket-path=s --inode-file-handles=mandatory":    {"no usable file handles", "use --inode-file-handles=prefer"},
	} {
		r := runToEnd(t, dir, binary, append(args(line), "--log-level=error")...)
		for _, want := range says {
			if r.status != 1 || !strings.Contains(r.stderr, want) {
				t.Errorf("%s: status %d; said %q, want %q in it", line, r.status, r.stderr, want)
			}
		}
	}
}

// quiet keeps the log out of the messages, unless the case is about the log.
func quiet(args []string) []string {
	for _, a := range args {
		if len(args) == 0 || strings.HasPrefix(a, "--log-level") || a == "--shared-dir" || strings.Contains(a, "loglevel") {
			return nil
		}
	}
	if len(args) == 0 {
		return nil
	}
	return []string{"--log-level=error"}
}

func TestWrongCommandLinesEndLikeRust(t *testing.T) {
	rust := reference(t)
	for _, tt := range wrongCommandLines {
		if tt.ours != "" || strings.Contains(strings.Join(tt.args, " "), "--queues") {
			continue
		}
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			if r := runToEnd(t, testDir(t), rust, tt.args...); r.status != tt.status {
				t.Errorf("rust virtiofsd: status %d, ours %d; it says %q", r.status, tt.status, r.stderr)
			}
		})
	}
}

func TestHelpNamesEveryOptionOfRust(t *testing.T) {
	rust := reference(t)
	theirs := runToEnd(t, ".", rust, "--help").stdout
	ours := runToEnd(t, ".", binary, "--help").stdout
	// Left out on purpose: the daemon says what to do instead.
	elsewhere := []string{"--xattrmap", "--modcaps", "--uid-map", "--gid-map", "--translate-uid", "--translate-gid", "--migration-"}
next:
	for line := range strings.SplitSeq(theirs, "\n") {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "=")
		name, _, _ = strings.Cut(strings.TrimSuffix(name, ","), "[")
		if !strings.HasPrefix(name, "-") || len(name) < 2 || name == "-" {
			continue
		}
		for _, e := range elsewhere {
			if strings.HasPrefix(name, e) {
				continue next
			}
		}
		if !strings.Contains(ours, " "+name) {
			t.Errorf("--help does not have %s", name)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	r := runToEnd(t, ".", binary, "--help")
	if r.status != 0 || r.stderr != "" {
		t.Errorf("--help: status %d, standard error %q", r.status, r.stderr)
	}
	for line := range strings.SplitSeq(r.stdout, "\n") {
		if len(line) > 82 {
			t.Errorf("a line of %d characters: %q", len(line), line)
		}
	}
	if short := runToEnd(t, ".", binary, "-h"); short != r {
		t.Error("-h and --help differ")
	}
}

func TestHelpAndVersionEndTheCommandLine(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		for _, line := range []string{"--help --bogus", "-h extra", "--version --cache=some", "-V --shared-dir", "--cache=auto -hV"} {
			if r := runToEnd(t, ".", prog, args(line)...); r.status != 0 || r.stdout == "" || r.stderr != "" {
				t.Errorf("%s: %+v", line, r)
			}
		}
	})
}

func TestVersionIsPrinted(t *testing.T) {
	r := runToEnd(t, ".", binary, "--version")
	if r.status != 0 || !strings.HasPrefix(r.stdout, "virtiofsd-go ") || r.stderr != "" {
		t.Errorf("--version: %+v", r)
	}
}

// backendCapabilities is the schema of QEMU's vhost-user.json as far as it
// concerns a file system.
type backendCapabilities struct {
	Type     string   `json:"type"`
	Features []string `json:"features"`
}

func TestPrintCapabilitiesIsWhatLibvirtReads(t *testing.T) {
	read := func(prog string) (c backendCapabilities) {
		r := runToEnd(t, ".", prog, "--print-capabilities")
		if r.status != 0 {
			t.Errorf("%s: status %d", prog, r.status)
		}
		d := json.NewDecoder(strings.NewReader(r.stdout))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			t.Errorf("%s: %v in %q", prog, err, r.stdout)
		}
		return c
	}
	ours := read(binary)
	if ours.Type != "fs" {
		t.Errorf("type %q", ours.Type)
	}
	theirs := map[string]bool{}
	for _, f := range read(reference(t)).Features {
		theirs[f] = true
	}
	for _, f := range ours.Features {
		if !theirs[f] {
			t.Errorf("feature %q is not one of rust virtiofsd's", f)
		}
		delete(theirs, f)
	}
	// The state of a guest can't be migrated.
	delete(theirs, "migrate-precopy")
	for f := range theirs {
		t.Errorf("feature %q is missing", f)
	}
}

// daemon is one that runs until it is told to end.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
}

func start(t *testing.T, dir, prog string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(prog, args...), ended: make(chan struct{})}
	d.cmd.Dir = dir
	d.cmd.Stderr = &d.stderr
	d.run()
	return d
}

func (d *daemon) run() {
	d.t.Helper()
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { d.cmd.Wait(); close(d.ended) }()
	d.t.Cleanup(func() { d.cmd.Process.Kill(); <-d.ended })
}

// status waits for the end.
func (d *daemon) status() int {
	d.t.Helper()
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		d.t.Fatalf("the daemon did not end")
		return -1
	}
}

// connect connects to the socket as soon as it is there.
func (d *daemon) connect(path string) net.Conn {
	d.t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			d.t.Cleanup(func() { c.Close() })
			return c
		}
		select {
		case <-d.ended:
			d.t.Fatalf("the daemon has ended with status %d: %s", d.cmd.ProcessState.ExitCode(), &d.stderr)
		default:
		}
		if time.Since(begin) > 20*time.Second {
			d.t.Fatal(err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// both runs a test for the daemon and for rust virtiofsd, which has to behave
// in the same way.
func both(t *testing.T, f func(t *testing.T, prog string)) {
	t.Run("ours", func(t *testing.T) { f(t, binary) })
	t.Run("rust", func(t *testing.T) { f(t, reference(t)) })
}

func TestSocketAndPidFile(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		dir := testDir(t)
		sock := filepath.Join(dir, "s")
		// One that a daemon which was killed has left behind.
		old, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		old.SetUnlinkOnClose(false)
		old.Close()
		d := start(t, dir, prog, "--sandbox=none", "--shared-dir=d", "--socket-path=s")
		c := d.connect(sock)
		st, err := os.Stat(sock)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != os.ModeSocket|0o700 {
			t.Errorf("the socket has mode %v", st.Mode())
		}
		pid, _ := os.ReadFile(sock + ".pid")
		if string(pid) != strconv.Itoa(d.cmd.Process.Pid)+"\n" {
			t.Errorf("the pid file has %q, the process is %d", pid, d.cmd.Process.Pid)
		}
		if st, _ := os.Stat(sock + ".pid"); st.Mode() != 0o600 {
			t.Errorf("the pid file has mode %v", st.Mode())
		}
		if r := runToEnd(t, dir, prog, "--sandbox=none", "--shared-dir=d", "--socket-path=s"); r.status != 1 {
			t.Errorf("a second daemon on the same socket: %+v", r)
		}
		c.Close()
		if s := d.status(); s != 0 {
			t.Errorf("status %d after the front-end has gone: %s", s, &d.stderr)
		}
		if exists(sock) {
			t.Error("the socket is left behind")
		}
		if !exists(sock + ".pid") {
			t.Error("the pid file was removed")
		}
	})
}

func TestSocketGroup(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		if os.Getuid() != 0 {
			t.Skip("only root can give the socket to another group")
		}
		dir := testDir(t)
		sock := filepath.Join(dir, "s")
		d := start(t, dir, prog, "--sandbox=none", "--shared-dir=d", "--socket-path=s", "--socket-group=daemon")
		d.connect(sock)
		mode, group := socketRights(t, sock)
		// rust virtiofsd gives the socket its group after it has begun to listen.
		for begin := time.Now(); prog != binary && group != 1 && time.Since(begin) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
			mode, group = socketRights(t, sock)
		}
		if mode != os.ModeSocket|0o770 || group != 1 {
			t.Errorf("the socket has mode %v and group %d", mode, group)
		}
	})
}

func socketRights(t *testing.T, path string) (os.FileMode, uint32) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode(), st.Sys().(*syscall.Stat_t).Gid
}

func TestInheritedSocket(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		dir := testDir(t)
		sock := filepath.Join(dir, "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		d := &daemon{t: t, cmd: exec.Command(prog, "--sandbox=none", "--shared-dir=d", "--fd=3"), ended: make(chan struct{})}
		d.cmd.Dir, d.cmd.Stderr, d.cmd.ExtraFiles = dir, &d.stderr, []*os.File{f}
		d.run()
		f.Close()
		d.connect(sock).Close()
		if s := d.status(); s != 0 {
			t.Errorf("status %d after the front-end has gone: %s", s, &d.stderr)
		}
		if !exists(sock) {
			t.Error("a socket that belongs to somebody else was removed")
		}
		if exists(sock + ".pid") {
			t.Error("there is a pid file")
		}
	})
}

// A front-end that does not speak vhost-user costs its connection, and the
// daemon ends as it does when a front-end goes away.
func TestGarbageEndsTheConnection(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		dir := testDir(t)
		d := start(t, dir, prog, "--sandbox=none", "--shared-dir=d", "--socket-path=s")
		c := d.connect(filepath.Join(dir, "s"))
		c.Write(bytes.Repeat([]byte{0xa5}, 64))
		if s := d.status(); s != 0 {
			t.Errorf("status %d", s)
		}
	})
}

func TestReconnectGoesOnAccepting(t *testing.T) {
	dir := testDir(t)
	sock := filepath.Join(dir, "s")
	d := start(t, dir, binary, "--shared-dir=d", "--socket-path=s", "--reconnect")
	for i := range 5 {
		c := d.connect(sock)
		if i%2 == 1 {
			c.Write(bytes.Repeat([]byte{0xa5}, 64))
		}
		c.Close()
	}
	d.connect(sock)
	d.cmd.Process.Signal(syscall.SIGTERM)
	if s := d.status(); s != 0 {
		t.Errorf("status %d after SIGTERM: %s", s, &d.stderr)
	}
	if exists(sock) {
		t.Error("the socket is left behind")
	}
}

func TestSignalsEndInOrder(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		for _, connected := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v connected=%v", sig, connected), func(t *testing.T) {
				dir := testDir(t)
				sock := filepath.Join(dir, "s")
				d := start(t, dir, binary, "--shared-dir=d", "--socket-path=s")
				c := d.connect(sock)
				if !connected {
					// The connection is taken at once; start anew without one.
					c.Close()
					d.status()
					d = start(t, dir, binary, "--shared-dir=d", "--socket-path=s")
					for !exists(sock) {
						time.Sleep(time.Millisecond)
					}
				}
				d.cmd.Process.Signal(sig)
				if s := d.status(); s != 0 {
					t.Errorf("status %d: %s", s, &d.stderr)
				}
				if exists(sock) {
					t.Error("the socket is left behind")
				}
			})
		}
	}
}

// commandLinesOfOthers are what programs that start rust virtiofsd pass to it.
func TestCommandLinesOfOthersStart(t *testing.T) {
	for name, line := range map[string]string{
		"libvirt as root":          "--shared-dir d --socket-path s",
		"libvirt, options":         "--shared-dir d --cache always --xattr --thread-pool-size=8 --rlimit-nofile=10000 --log-level debug --socket-path s",
		"libvirt before options":   "-o source=d,cache=always,xattr,no_flock,no_posix_lock -d --socket-path s",
		"kata":                     "--syslog --cache=auto --shared-dir=d --socket-path=s --inode-file-handles=prefer --thread-pool-size=1 --announce-submounts",
		"podman machine":           "--sandbox none --socket-path s --shared-dir d --seccomp=none",
		"last one wins":            "--shared-dir=nowhere --shared-dir=d --socket-path=s --cache=never --cache=auto --killpriv-v2 --no-killpriv-v2",
		"all switches":             "--shared-dir=d --socket-path=s --posix-acl --security-label=auto --writeback --allow-direct-io --allow-mmap --no-readdirplus --readonly --no-announce-submounts --preserve-noatime --inode-file-handles=never --tag=x --queues=4",
		"the old name of a socket": "--shared-dir=d --socket=s -f",
		"two names of a socket":    "--shared-dir=d --socket=t --socket-path=s",
		"capitals":                 "--shared-dir=d --socket-path=s --sandbox=None --cache=ALWAYS --log-level=Warn",
	} {
		t.Run(name, func(t *testing.T) {
			dir := testDir(t)
			d := start(t, dir, binary, args(line)...)
			d.connect(filepath.Join(dir, "s")).Close()
			if s := d.status(); s != 0 {
				t.Errorf("status %d: %s", s, &d.stderr)
			}
		})
	}
}

func TestLogLevelOffSaysNothing(t *testing.T) {
	dir := testDir(t)
	d := start(t, dir, binary, "--shared-dir=d", "--socket-path=s", "--log-level=off", "-f")
	d.connect(filepath.Join(dir, "s")).Close()
	d.status()
	if d.stderr.Len() != 0 {
		t.Errorf("said %q", &d.stderr)
	}
}
