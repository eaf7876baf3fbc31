package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const rootDisk = "/dev/vda"

type mount struct {
	source, target, fstype string
	flags                  uintptr
	options                string
}

// boot goes from the initramfs to the root disk and starts the serving process.
func boot() error {
	if err := mountAll("/dev", mount{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"}); err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	for _, path := range modules {
		if err := loadModule(path); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	if err := waitFor(rootDisk, 10*time.Second); err != nil {
		return err
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	// One tmpfs holds the writable layer; it is below /root only by way of the overlay.
	if err := mountAll("/root disk",
		mount{rootDisk, "/lower", "ext4", unix.MS_RDONLY, ""},
		mount{"tmpfs", "/writable", "tmpfs", 0, "mode=755"},
	); err != nil {
		return err
	}
	for _, dir := range []string{"/writable/upper", "/writable/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mountAll("/overlay", mount{"overlay", "/newroot", "overlay", 0, "lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work"}); err != nil {
		return err
	}
	if err := unix.Mount("/dev", "/newroot/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := switchRoot("/newroot"); err != nil {
		return err
	}
	if err := mountAll("/",
		mount{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		mount{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		mount{"debugfs", "/sys/kernel/debug", "debugfs", 0, ""},
		mount{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666"},
		mount{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mount{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		mount{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	); err != nil {
		return err
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2", "/etc/mtab": "/proc/self/mounts"} {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	if err := os.WriteFile(servePath, self, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"poweroff", "halt", "shutdown", "reboot"} {
		link := "/usr/local/sbin/" + name
		os.Remove(link)
		if err := os.Symlink(servePath, link); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return err
	}
	if out, err := exec.Command("/usr/sbin/ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "agent: loopback stays down: %v: %s", err, out)
	}
	cmd := exec.Command(servePath)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Start()
}

func mountAll(what string, mounts ...mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options); err != nil {
			return fmt.Errorf("%s: mount %s on %s: %w", what, m.fstype, m.target, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE)
}

// switchRoot makes dir the root, as pivot_root cannot where the root is the initramfs.
func switchRoot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

func waitFor(path string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not appear", path)
		}
	}
}

// reap waits for every orphan of the guest, for ever.
func reap() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			fmt.Fprintln(os.Stderr, "agent: the serving process is gone")
			os.Exit(1)
		}
	}
}

// stop ends the guest: file systems first, so that their servers see an orderly unmount.
func stop(restart bool) error {
	unix.Sync()
	if err := unmountShares(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
	}
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if restart {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.Reboot(how)
}
