package vhostuser

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestListenServesOneFrontEndAfterTheOther(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := Listen(path, 0o660, -1)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != os.ModeSocket|0o660 {
		t.Errorf("socket has mode %v, %v", st.Mode(), err)
	}
	dev := newFakeDevice()
	for range 3 {
		front, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		sock, err := ln.Accept(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- Serve(context.Background(), sock, dev, Config{}) }()
		p := &peer{t: t, sock: front, dev: dev, done: done}
		p.startUp()
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestModeAndGroupAreInPlaceWhenASocketCanBeConnectedTo(t *testing.T) {
	mode, gid := os.ModeSocket|0o770, os.Getgid()
	if os.Getuid() == 0 {
		gid = 1
	}
	path := filepath.Join(t.TempDir(), "socket")
	to := &unix.SockaddrUnix{Name: path}
	for range 300 {
		found := make(chan unix.Stat_t)
		go func() {
			var st unix.Stat_t
			defer func() { found <- st }()
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			for deadline := time.Now().Add(10 * time.Second); unix.Connect(fd, to) != nil; {
				if time.Now().After(deadline) {
					t.Error("no connection in 10 s")
					return
				}
			}
			if err := unix.Lstat(path, &st); err != nil {
				t.Error(err)
			}
		}()
		ln, err := Listen(path, mode, gid)
		if err != nil {
			t.Fatal(err)
		}
		if st := <-found; st.Mode != unix.S_IFSOCK|0o770 || int(st.Gid) != gid {
			t.Fatalf("a socket that can be connected to has mode %#o and group %d", st.Mode, st.Gid)
		}
		_ = ln.Close()
	}
}

func TestListenReplacesOnlyAStaleSocket(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	l, err := Listen(stale, 0o600, -1)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if _, err := Listen(stale, 0o600, -1); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("live socket: %v", err)
	}
	// The look at the live socket was no connection.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept returned %v", err)
	}
	_ = l.Close()

	for name, make := range map[string]func(path string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("data"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"symlink":   func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path, 0o600, -1); err == nil || !strings.Contains(err.Error(), "is not a socket; remove it") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120)), 0o600, -1); err == nil || !strings.Contains(err.Error(), "choose a shorter one") {
		t.Errorf("long path: %v", err)
	}
	if _, err := Listen(filepath.Join(dir, "no", "such"), 0o600, -1); err == nil {
		t.Error("missing directory")
	}
}

func TestListenFD(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	dup := func(f func() (*os.File, error)) int {
		t.Helper()
		file, err := f()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	l, err := ListenFD(dup(ln.File))
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	front, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	sock, err := l.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenFD(dup(front.File)); err == nil || !strings.Contains(err.Error(), "does not listen") {
		t.Errorf("connected socket: %v", err)
	}
	_ = sock.Close()
	_ = front.Close()
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the inherited socket's path is gone: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenFD(dup(func() (*os.File, error) { return r, nil })); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("pipe: %v", err)
	}
	_ = w.Close()
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenFD(dup(tcp.File)); err == nil || !strings.Contains(err.Error(), "no Unix stream socket") {
		t.Errorf("TCP socket: %v", err)
	}
	_ = tcp.Close()
	if _, err := ListenFD(-1); err == nil {
		t.Error("descriptor -1")
	}
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	checkLeaks(t)
	l, err := Listen(filepath.Join(t.TempDir(), "socket"), 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := l.Accept(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("accept returned %v", err)
	}
	// Without that context it works again.
	front, err := net.Dial("unix", l.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	sock, err := l.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_ = sock.Close()
}
