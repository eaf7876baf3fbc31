package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What is in the worker's directory, a tmpfs that nobody else sees.
const (
	hostBase = "root"  // the directory's name among the logs
	hostRoot = "check" // check's root
	hostDisk = "disk"  // the file system with the served directories
)

// mountRow is a part of what check's root is made of. Names are relative to the worker's directory.
type mountRow struct {
	source, target, fs string
	flags              uintptr
	data               string
}

// makeHostRoot makes check's root of the image and of xfstests, neither of which is written, and enters the directory
// that all of it is in.
func makeHostRoot(base, image, xfstests string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// A test that runs away fills this, not the memory.
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "mode=755,size=25%"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", base, err)
	}
	// Relative names: a socket's must be short, and overlayfs takes : and , for its own.
	if err := os.Chdir(base); err != nil {
		return err
	}
	for _, dir := range []string{hostRoot, hostDisk, "image", "new", "work", "xfstests", "xfstests.new", "xfstests.work", filepath.Base(resultsDir)} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	lower, err := os.Open(image)
	if err != nil {
		return err
	}
	defer lower.Close()
	if err := mountLoop(lower, "image", unix.MS_RDONLY); err != nil {
		return err
	}
	if err := makeDiskFor(os.NewFile(hostImageFD, "image")); err != nil {
		return err
	}
	for _, m := range []mountRow{
		{"overlay", hostRoot, "overlay", 0, "lowerdir=image,upperdir=new,workdir=work"},
		{xfstests, "xfstests", "", unix.MS_BIND, ""},
		{"overlay", hostRoot + testsDir, "overlay", 0, "lowerdir=xfstests,upperdir=xfstests.new,workdir=xfstests.work"},
		{filepath.Base(resultsDir), hostRoot + resultsDir, "", unix.MS_BIND, ""},
		{"proc", hostRoot + "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", hostRoot + "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"tmpfs", hostRoot + "/dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"devpts", hostRoot + "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=666,mode=620"},
		{"tmpfs", hostRoot + "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=10%"},
		{"tmpfs", hostRoot + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=10%"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return makeDevices(hostRoot + "/dev")
}

// makeDevices makes what programs need; no disks.
func makeDevices(dev string) error {
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"kmsg", 1, 11}, {"tty", 5, 0}} {
		path := filepath.Join(dev, d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make %s: %w", path, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeDiskFor makes the file system for the shares in an image, and their directories.
func makeDiskFor(image *os.File) error {
	defer image.Close()
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{image}
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a file system for the served directories: %w\n%s", err, out)
	}
	if err := mountLoop(image, hostDisk, 0); err != nil {
		return err
	}
	for _, share := range shares {
		if err := os.Mkdir(filepath.Join(hostDisk, share), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// mountLoop mounts an image of ext4. The loop device frees itself when it is unmounted.
func mountLoop(image *os.File, target string, flags uintptr) error {
	device, err := attachLoop(image, flags&unix.MS_RDONLY != 0)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := unix.Mount(device.Name(), target, "ext4", flags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", device.Name(), target, err)
	}
	return nil
}

func attachLoop(image *os.File, readOnly bool) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		device.Close()
		if err != unix.EBUSY { // somebody was faster
			return nil, fmt.Errorf("set up %s: %w", device.Name(), err)
		}
	}
}

// inHostRoot is a path of check's, as the worker finds it.
func inHostRoot(path string) string { return hostRoot + "/" + strings.TrimPrefix(path, "/") }
