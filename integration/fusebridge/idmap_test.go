package fusebridge_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

// userNamespace gives a namespace whose ids 0 to 999 are first and those after it.
func userNamespace(t *testing.T, first int) int {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 1000}}
	cmd := exec.Command("sleep", "100")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Skipf("no user namespace here: %v", err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func kernelBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a < major || a == major && b < minor
}

// TestIdmappedMount is what FUSE_ALLOW_IDMAP is for.
func TestIdmappedMount(t *testing.T) {
	const first = 20000
	b, dir := mount(t, fusebridge.Options{}, "--xattr")
	// Others than root must get to it.
	at, err := os.MkdirTemp("", "idmapped")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(at) })
	if err := os.Chmod(at, 0o755); err != nil {
		t.Fatal(err)
	}
	// An answer means that the kernel has that of INIT too, before which it maps no ids of this mount.
	if _, err := os.ReadDir(b.Dir()); err != nil {
		t.Fatal(err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, b.Dir(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatalf("open_tree: %v", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNamespace(t, first))}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		if err == unix.EINVAL && kernelBefore(t, 6, 12) {
			t.Skip("this kernel has no idmapped mounts of FUSE")
		}
		t.Fatalf("mount_setattr: %v", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	as := func(id uint32, script string) string {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = at
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	owner := func(path string) string {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Error(err)
		}
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	if out := as(first+5, "umask 22; mkdir d; echo data > d/f; ln -s f d/l; mkfifo d/p; ln d/f d/hard; mv d/hard d/g; chmod 4711 d/g"); out != "" {
		t.Fatal(out)
	}
	for _, name := range []string{"d", "d/f", "d/l", "d/p"} {
		if got := owner(filepath.Join(dir, name)); got != "5:5" {
			t.Errorf("%s is %s's on the host, want 5:5", name, got)
		}
		if got, want := owner(filepath.Join(at, name)), fmt.Sprintf("%d:%[1]d", first+5); got != want {
			t.Errorf("%s is %s's on the mount, want %s", name, got, want)
		}
	}
	if out := as(first+5, "cat d/f; stat -c %a d/g; echo more >> d/g; stat -c %a d/g"); out != "data\n4711\n711" {
		t.Errorf("the owner: %q", out)
	}
	if out := as(first+6, "echo x > d/f"); !strings.Contains(out, "Permission denied") {
		t.Errorf("another writes: %q", out)
	}
	if err := os.Chown(filepath.Join(at, "d", "f"), first+7, first+8); err != nil {
		t.Error(err)
	}
	if got := owner(filepath.Join(dir, "d", "f")); got != "7:8" {
		t.Errorf("after chown on the mount the file is %s's on the host", got)
	}
	// Ids that the mount does not map are nobody's, and can make nothing.
	if out := as(1000, "touch mine"); !strings.Contains(out, "too large") && !strings.Contains(out, "Permission denied") {
		t.Errorf("an id without a mapping: %q", out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "mine")); err == nil {
		t.Error("an id without a mapping has made a file")
	}
}
