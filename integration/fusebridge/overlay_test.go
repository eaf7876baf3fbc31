package fusebridge_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

// TestCopyUpKeepsWhatChownTakes has an overlay copy files with set-id bits and capabilities up to the share.
func TestCopyUpKeepsWhatChownTakes(t *testing.T) {
	for _, mode := range []struct {
		name   string
		daemon []string
	}{
		{"the daemon takes the bits", []string{"--xattr", "--killpriv-v2"}},
		{"the guest takes the bits", []string{"--xattr", "--no-killpriv-v2"}},
		{"writeback", []string{"--xattr", "--writeback"}},
	} {
		t.Run(mode.name, func(t *testing.T) { copyUp(t, mode.daemon) })
	}
}

func copyUp(t *testing.T, daemon []string) {
	const uid, gid = 4321, 1234
	// struct vfs_cap_data, revision 2: effective, CAP_NET_RAW permitted
	capability := string([]byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	runtime.LockOSThread() // the requests of each of its own calls must come from one thread
	defer runtime.UnlockOSThread()
	b, _ := mount(t, fusebridge.Options{}, daemon...)
	share, lower, at := t.TempDir(), t.TempDir(), t.TempDir()
	if err := b.Attach(share); err != nil {
		t.Fatal(err)
	}
	upper, work := filepath.Join(share, "upper"), filepath.Join(share, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := func(path string, mode uint32, capable bool) {
		t.Helper()
		if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if capable {
			if err := unix.Setxattr(path, "security.capability", []byte(capability), 0); err != nil {
				t.Skipf("no capabilities of files here: %v", err)
			}
		}
	}
	check := func(what, path string, owner, mode uint32, capable bool) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != owner || st.Mode&0o7777 != mode {
			t.Errorf("%s: mode %o, of %d; want %o, of %d", what, st.Mode&0o7777, st.Uid, mode, owner)
		}
		buf := make([]byte, 64)
		n, err := unix.Getxattr(path, "security.capability", buf)
		if got := err == nil && string(buf[:n]) == capability; got != capable || err != nil && err != unix.ENODATA {
			t.Errorf("%s: capabilities %x (%v), want some: %v", what, buf[:max(n, 0)], err, capable)
		}
	}
	cases := []struct {
		name    string
		mode    uint32
		capable bool
	}{
		{"setuid", 0o4755, false},
		{"setid", 0o6711, true},
		{"setgid-alone", 0o2644, false},
		{"capable", 0o755, true},
		{"plain", 0o640, false},
	}
	for _, c := range cases {
		file(filepath.Join(lower, c.name), c.mode, c.capable)
		file(filepath.Join(lower, c.name+"-chowned"), c.mode, c.capable)
	}
	if err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Skipf("no overlay here: %v", err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	for _, c := range cases {
		path := filepath.Join(at, c.name)
		if err := unix.Utimes(path, nil); err != nil {
			t.Fatal(err)
		}
		check(c.name+", copied up", path, uid, c.mode, c.capable)
		check(c.name+", in the upper layer", filepath.Join(upper, c.name), uid, c.mode, c.capable)

		// chown(2) takes all, but for set-group-ID without execution, which root keeps.
		left := c.mode &^ unix.S_ISUID
		if left&unix.S_IXGRP != 0 {
			left &^= unix.S_ISGID
		}
		chowned := filepath.Join(at, c.name+"-chowned")
		if err := os.Chown(chowned, uid+1, gid+1); err != nil {
			t.Error(err)
		}
		check(c.name+", copied up by chown", chowned, uid+1, left, false)
		for what, path := range map[string]string{"in the overlay": path, "on the share": filepath.Join(share, c.name)} {
			file(path, c.mode, c.capable)
			if err := unix.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, uid+1, gid+1); err != nil {
				t.Error(err)
			}
			check(c.name+", chowned "+what+" right after chmod", path, uid+1, left, false)
		}
	}
}
