package fusebridge

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a bridge.
type Options struct {
	Socket string // of the daemon
	Queues int    // with hiprio; default 2
	Packed bool
	// Restarts has the bridge wait for another daemon at the socket when one has died, and give it the requests in flight.
	Restarts bool
	Source   string    // the device's name in the table of mounts; default "fusebridge"
	Log      io.Writer `json:"-"` // what the bridge says; default standard error
}

// Bridge is a mount and the process that serves it.
type Bridge struct {
	mount int // of fsmount
	conn  uint32
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}
	err   error
}

// Mount connects to a daemon and mounts what it serves.
func Mount(o Options) (b *Bridge, err error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	file := os.NewFile(uintptr(dev), "/dev/fuse")
	b, err = start(o, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	// The kernel asks for INIT from here on. Once this process has closed its copy, the bridge is the only holder.
	b.mount, err = mountFuse(dev, cmp.Or(o.Source, "fusebridge"))
	file.Close()
	if err == nil {
		_, err = io.WriteString(b.stdin, childMounted)
	}
	if err == nil {
		b.conn, err = connection(b.mount)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Dir is the mount's root as a path of this process. Another process of root's finds it as /proc/PID/fd/N.
func (b *Bridge) Dir() string { return "/proc/self/fd/" + strconv.Itoa(b.mount) }

// PID is the bridge's process.
func (b *Bridge) PID() int { return b.cmd.Process.Pid }

// Attach makes the mount visible at dir until Close, for programs that need a path.
func (b *Bridge) Attach(dir string) error {
	return unix.MoveMount(b.mount, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// Release leaves the mount to those who see it where it is attached: it lasts until they have unmounted it.
func (b *Bridge) Release() {
	unix.Close(b.mount)
	b.mount = -1
}

// Wait waits for the bridge to end by itself and returns what went wrong with it, and faults of the daemon: nothing, if the
// file system was unmounted.
func (b *Bridge) Wait() error {
	<-b.done
	return b.err
}

// Close unmounts and waits for the bridge to end. If files of the mount are open, they fail from then on. It returns what
// went wrong with the bridge, and faults of the daemon.
func (b *Bridge) Close() error {
	served := true
	select {
	case <-b.done:
		served = false
	default:
	}
	if b.mount >= 0 {
		unix.Unmount(b.Dir(), unix.MNT_DETACH) // if it was attached
		unix.Close(b.mount)
		b.mount = -1
	}
	select {
	case <-b.done:
		b.stdin.Close()
		var e *exec.ExitError
		if served && errors.As(b.err, &e) && e.ExitCode() == childAborted {
			return nil // the kernel has told the unmount like that
		}
		return b.err
	case <-time.After(5 * time.Second):
	}
	b.Abort()
	b.stdin.Close()
	select {
	case <-b.done:
	case <-time.After(5 * time.Second):
		b.cmd.Process.Kill()
		<-b.done
	}
	return errors.New("the mount was busy and had to be aborted")
}

// Abort fails all requests, now and later.
func (b *Bridge) Abort() error {
	return os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", b.conn), []byte("1"), 0)
}

func start(o Options, fuse *os.File) (*Bridge, error) {
	if o.Queues == 0 {
		o.Queues = 2
	}
	config, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &Bridge{mount: -1, cmd: exec.Command(exe), done: make(chan struct{})}
	b.cmd.Env = append(os.Environ(), childVariable+"="+string(config))
	b.cmd.ExtraFiles = []*os.File{fuse}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	b.cmd.Stderr = o.Log
	if o.Log == nil {
		b.cmd.Stderr = os.Stderr
	}
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	ready := make(chan string, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig goes by the thread that forked
		if err := b.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line
		b.err = b.cmd.Wait()
		close(b.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the bridge: %w", err)
	}
	if line := <-ready; line != childReady {
		<-b.done
		return nil, fmt.Errorf("the bridge could not connect to the daemon: %v", b.err)
	}
	return b, nil
}

// mountFuse mounts with the options that virtio-fs has, attached nowhere.
func mountFuse(dev int, source string) (int, error) {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, kv := range [][2]string{
		{"source", source}, {"fd", strconv.Itoa(dev)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return -1, fmt.Errorf("mount option %s=%s: %w", kv[0], kv[1], err)
		}
	}
	for _, flag := range []string{"default_permissions", "allow_other"} {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			return -1, fmt.Errorf("mount option %s: %w", flag, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create the superblock: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mnt, nil
}

// connection is the number of the mount's directory in /sys/fs/fuse/connections, found without asking the daemon.
func connection(mount int) (uint32, error) {
	var s unix.Statx_t
	err := unix.Statx(mount, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &s)
	return s.Dev_minor, err
}
