package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// endpoint is where front-ends connect.
type endpoint struct {
	*vhostuser.Listener
	// pid is the locked file that holds the process id; nil for an inherited
	// socket. It is kept open for the lock, and left behind.
	pid *os.File
}

// openEndpoint listens on the socket of the command line, or takes over the
// inherited one.
func openEndpoint(c *config) (*endpoint, error) {
	if c.socketFD >= 0 {
		l, err := vhostuser.ListenFD(c.socketFD)
		if err != nil {
			return nil, fmt.Errorf("--fd=%d: %w", c.socketFD, err)
		}
		return &endpoint{Listener: l}, nil
	}
	dir := filepath.Dir(c.socketPath)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("the directory of the socket, %s, does not exist or is not a directory; make it, or choose another --socket-path", dir)
	}
	mode, gid := os.FileMode(0o700), -1
	if c.socketGroup != "" {
		var err error
		if gid, err = groupID(c.socketGroup); err != nil {
			return nil, err
		}
		mode = 0o770
	}
	pid, err := writePidFile(c.socketPath + ".pid")
	if err != nil {
		return nil, err
	}
	l, err := vhostuser.Listen(c.socketPath, mode, gid)
	if err != nil {
		pid.Close()
		return nil, err
	}
	return &endpoint{Listener: l, pid: pid}, nil
}

// groupID resolves a group name.
func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("--socket-group: there is no group %q; make it, or name another", name)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("--socket-group: group %q has no numeric id (%q); name another", name, g.Gid)
	}
	return gid, nil
}

// writePidFile creates, locks and fills the file with the process id. The lock
// keeps a second daemon from using the same socket; it is of the same kind as
// that of rust virtiofsd.
func writePidFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("the pid file can't be created: %w; choose a --socket-path in a directory that the daemon's user may write to", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if err == unix.EWOULDBLOCK {
				return nil, fmt.Errorf("another daemon uses this socket: %s is locked; end it, or choose another --socket-path", path)
			}
			return nil, fmt.Errorf("the pid file %s can't be locked: %w; choose a --socket-path on a file system with locks", path, err)
		}
		// Somebody may have removed it between open and lock.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		if err := fillPidFile(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("the pid file can't be written: %w; make room, or choose a --socket-path elsewhere", err)
		}
		return f, nil
	}
}

func fillPidFile(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}
