package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listener waits for front-ends on a Unix socket.
type Listener struct {
	ln *net.UnixListener
}

// Listen makes a socket at path with the permission bits mode and, if gid is not
// negative, the group gid. Whoever can connect finds both in place. It replaces a
// socket that no process has open, and nothing else. Close removes the path.
func Listen(path string, mode os.FileMode, gid int) (*Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket (is the limit of open files reached?): %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // the listener has a descriptor of its own
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("listening on %s: the path is longer than a socket's name can be (107 bytes); choose a shorter one", path)
		}
		return nil, fmt.Errorf("listening on %s: %w; choose a path in a directory that the daemon's user may write to", path, err)
	}
	ln, err := listenBound(f, path, mode, gid)
	if err != nil {
		_ = os.Remove(path)
		return nil, err
	}
	return &Listener{ln}, nil
}

// listenBound gives the socket f, bound to path, its mode and group before anybody can connect to it.
func listenBound(f *os.File, path string, mode os.FileMode, gid int) (*net.UnixListener, error) {
	if err := os.Chmod(path, mode.Perm()); err != nil {
		return nil, fmt.Errorf("setting the mode of the socket: %w; choose a path on a file system that has modes", err)
	}
	if gid >= 0 {
		if err := os.Lchown(path, -1, gid); err != nil {
			return nil, fmt.Errorf("setting the group of the socket: %w; choose a group that the daemon's user is in, or start the daemon as root", err)
		}
	}
	if err := unix.Listen(int(f.Fd()), unix.SOMAXCONN); err != nil {
		return nil, fmt.Errorf("listening on %s (is the limit of open files reached?): %w", path, err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listening on %s (is the limit of open files reached?): %w", path, err)
	}
	stream := ln.(*net.UnixListener)
	stream.SetUnlinkOnClose(true)
	return stream, nil
}

// removeStale removes a socket at path that nobody has open. It looks without
// connecting, which a listening daemon would take for its front-end.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for a socket (choose another path): %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; remove it or choose another path", path)
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("looking for a listener on %s (is the limit of open files reached?): %w", path, err)
	}
	defer unix.Close(probe)
	// A live stream socket is of the wrong type; a dead one refuses.
	err = unix.Connect(probe, &unix.SockaddrUnix{Name: path})
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("another process listens on %s; end it or choose another path", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a stale socket (remove it yourself, or choose another path): %w", err)
	}
	return nil
}

// ListenFD uses the listening Unix stream socket fd, which it takes, on an
// error as well. Close leaves its path alone.
func ListenFD(fd int) (*Listener, error) {
	f := os.NewFile(uintptr(fd), "vhost-user socket")
	if f == nil {
		return nil, fmt.Errorf("%d is no file descriptor; pass the number of a listening Unix stream socket", fd)
	}
	defer f.Close()
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, fmt.Errorf("file descriptor %d is no socket (%w); pass a listening Unix stream socket", fd, err)
	}
	if listening == 0 {
		return nil, fmt.Errorf("the socket at file descriptor %d does not listen; pass one that listen(2) was called on", fd)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("using the socket at file descriptor %d: %w; pass a listening Unix stream socket", fd, err)
	}
	stream, ok := ln.(*net.UnixListener)
	if !ok || stream.Addr().Network() != "unix" {
		_ = ln.Close()
		return nil, fmt.Errorf("file descriptor %d is no Unix stream socket; pass a listening one", fd)
	}
	stream.SetUnlinkOnClose(false)
	return &Listener{stream}, nil
}

// Accept waits for the next front-end until ctx ends. Front-ends are to be
// served one after the other, so while one is, the next waits in the backlog.
func (l *Listener) Accept(ctx context.Context) (*net.UnixConn, error) {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = l.ln.SetDeadline(time.Now())
		close(woken)
	})
	sock, err := l.ln.AcceptUnix()
	if !stop() {
		<-woken
		_ = l.ln.SetDeadline(time.Time{})
	}
	if ctx.Err() != nil {
		if sock != nil {
			_ = sock.Close()
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("waiting for a front-end (is the limit of open files reached?): %w", err)
	}
	return sock, nil
}

// Close stops listening and removes a path that Listen made.
func (l *Listener) Close() error { return l.ln.Close() }
