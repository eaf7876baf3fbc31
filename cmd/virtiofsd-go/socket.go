package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// endpoint is where front-ends connect.
type endpoint struct {
	*net.UnixListener
	// path is the socket to remove at the end, "" for an inherited one.
	path string
	// pid is the locked file that holds the process id. It is kept open for
	// the lock, and left behind.
	pid *os.File
}

// openEndpoint listens on the socket of the command line, or takes over the
// inherited one.
func openEndpoint(c *config) (*endpoint, error) {
	if c.socketFD >= 0 {
		return inheritedEndpoint(c.socketFD)
	}
	dir := filepath.Dir(c.socketPath)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("the directory of the socket, %s, does not exist or is not a directory", dir)
	}
	gid := -1
	if c.socketGroup != "" {
		var err error
		if gid, err = groupID(c.socketGroup); err != nil {
			return nil, err
		}
	}
	pid, err := writePidFile(c.socketPath + ".pid")
	if err != nil {
		return nil, err
	}
	e := &endpoint{path: c.socketPath, pid: pid}
	if err := e.listen(gid); err != nil {
		pid.Close()
		return nil, err
	}
	return e, nil
}

func (e *endpoint) listen(gid int) error {
	// The lock on the pid file says that no other daemon uses the path.
	if err := os.Remove(e.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the old socket %s can't be removed: %w", e.path, err)
	}
	mask := 0o077
	if gid >= 0 {
		mask = 0o007
	}
	old := unix.Umask(mask)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("can't listen on the socket %s: %w", e.path, err)
	}
	l.SetUnlinkOnClose(true)
	e.UnixListener = l
	if gid >= 0 {
		if err := os.Chown(e.path, -1, gid); err != nil {
			l.Close()
			return fmt.Errorf("the group of the socket can't be set: %w", err)
		}
	}
	return nil
}

// groupID resolves a group name.
func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("--socket-group: there is no group %q", name)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("--socket-group: group %q has no numeric id (%q)", name, g.Gid)
	}
	return gid, nil
}

func inheritedEndpoint(fd int) (*endpoint, error) {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		if err == nil {
			err = errors.New("it is not listening")
		}
		return nil, fmt.Errorf("--fd=%d is not a listening socket: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "inherited socket")
	l, err := net.FileListener(f)
	f.Close() // FileListener has a duplicate of its own
	if err != nil {
		return nil, fmt.Errorf("--fd=%d can't be used: %w", fd, err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("--fd=%d is not a Unix socket", fd)
	}
	ul.SetUnlinkOnClose(false)
	return &endpoint{UnixListener: ul}, nil
}

// writePidFile creates, locks and fills the file with the process id. The lock
// keeps a second daemon from using the same socket; it is of the same kind as
// that of rust virtiofsd.
func writePidFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("the pid file can't be created: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if err == unix.EWOULDBLOCK {
				return nil, fmt.Errorf("another daemon uses this socket: %s is locked", path)
			}
			return nil, fmt.Errorf("the pid file %s can't be locked: %w", path, err)
		}
		// Somebody may have removed it between open and lock.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		if err := f.Truncate(0); err == nil {
			_, err = fmt.Fprintln(f, os.Getpid())
			if err == nil {
				return f, nil
			}
		}
		f.Close()
		return nil, fmt.Errorf("the pid file %s can't be written", path)
	}
}
