package fs

import (
	"bytes"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mountFull mounts a file system of n bytes at dir.
func mountFull(t *testing.T, dir, size string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestAWriteFromTheGuestsCacheIsDoneInWholeOrFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags uint32
		want  int
		err   unix.Errno
	}{
		{"of a caller, who is told how much", 0, 64 << 10, 0},
		{"of the cache, where nobody looks at the length", writeCache, 0, unix.ENOSPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			mountFull(t, dir, "64k")
			g := newGuest(t, Options{SharedDir: dir})
			node, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
			data := bytes.Repeat([]byte{1}, 128<<10)
			rep, e := g.call(opWrite, node, le(fh, uint64(0), uint32(len(data)), c.flags, uint64(0), uint32(0), uint32(0), data))
			if e != c.err {
				t.Fatalf("error %v, want %v", e, c.err)
			}
			if e == 0 {
				if got := int(overlay[fuse.WriteOut](aligned(rep)).Size); got != c.want {
					t.Errorf("%d bytes written, want %d", got, c.want)
				}
			}
		})
	}
}

func TestAReadThatFailsInTheMiddleIsNoEndOfFile(t *testing.T) {
	// The second page of the mapping is past the end of its file: a read of it by way of /proc fails.
	fd, err := unix.MemfdCreate("page", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	page := os.Getpagesize()
	if err := unix.Ftruncate(fd, int64(page)); err != nil {
		t.Fatal(err)
	}
	at, err := unix.MmapPtr(fd, 0, nil, uintptr(2*page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.MunmapPtr(at, uintptr(2*page))
	g := newGuest(t, Options{SharedDir: "/proc/self"})
	mem, e := g.lookup(rootID, "mem")
	g.must("LOOKUP", e)
	fh, e := g.open(mem.NodeId, unix.O_RDONLY)
	g.must("OPEN", e)
	off := uint64(uintptr(at))
	if b, e := g.read(mem.NodeId, fh, off, page); e != 0 || len(b) != page {
		t.Fatalf("READ of what is there: %d bytes, %v", len(b), e)
	}
	if b, e := g.read(mem.NodeId, fh, off, 2*page); e != unix.EIO {
		t.Errorf("READ that fails after its first half: %d bytes, %v; want EIO", len(b), e)
	}
}
