package fs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A guest sends CREATE for a name that it believes to be free. What somebody else has made
// there meanwhile it opens only if it is a file, and else gives nothing back.
func TestCreateOfWhatIsThereLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		make func(path string) error
		want unix.Errno
	}{
		{"directory", func(p string) error { return os.Mkdir(p, 0o700) }, unix.EISDIR},
		{"fifo", func(p string) error { return unix.Mkfifo(p, 0o600) }, unix.ENXIO},
		{"socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) }, unix.ENXIO},
		{"symlink", func(p string) error { return os.Symlink("nowhere", p) }, unix.ELOOP},
		{"file", func(p string) error { return os.WriteFile(p, nil, 0o600) }, 0},
	} {
		if err := c.make(filepath.Join(dir, c.name)); err != nil {
			t.Fatal(err)
		}
		g := newGuest(t, Options{SharedDir: dir})
		before := openDescriptors(t)
		// A directory can be opened for reading.
		_, e := g.call(opCreate, rootID, le(uint32(unix.O_RDONLY|unix.O_CREAT), uint32(0o600), uint32(0), uint32(0), c.name))
		if e != c.want {
			t.Errorf("CREATE where a %s is: %v, want %v", c.name, e, c.want)
		}
		if n := openDescriptors(t); e != 0 && n != before {
			t.Errorf("%d descriptors are left of a CREATE where a %s is", n-before, c.name)
		}
	}
}
