package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// port is a virtio-serial port as a net.Conn. Deadlines work as for any file that can be polled.
type port struct{ *os.File }

func (port) LocalAddr() net.Addr  { return portAddr{} }
func (port) RemoteAddr() net.Addr { return portAddr{} }

type portAddr struct{}

func (portAddr) Network() string { return "virtio-serial" }
func (portAddr) String() string  { return "agent" }

// findPort returns the device node of the port with the given name.
func findPort(name string, limit time.Duration) (string, error) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		paths, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == name {
				return "/dev/" + filepath.Base(filepath.Dir(path)), nil
			}
		}
	}
	return "", fmt.Errorf("no virtio-serial port named %s: start QEMU with -device virtserialport,name=%s", name, name)
}

// openPort opens the port and waits until the host has connected to it. While it has not, reads return end of file and
// poll reports a hang-up, so there is nothing to wait on.
func openPort(name string) (net.Conn, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&unix.POLLHUP == 0 {
			return port{os.NewFile(uintptr(fd), name)}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}
