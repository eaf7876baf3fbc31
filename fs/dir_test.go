package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirent is an entry as the guest sees it.
type dirent struct {
	name string
	off  uint64 // behind it
}

// opendir returns a handle of the root.
func (g *guest) opendir() uint64 {
	g.t.Helper()
	rep, e := g.call(opOpendir, rootID, le(uint32(0), uint32(0)))
	g.must("OPENDIR", e)
	return overlay[fuse.OpenOut](aligned(rep)).Fh
}

// list sends one READDIR or READDIRPLUS and takes back the lookups.
func (g *guest) list(op uint32, fh, off uint64, size int) (list []dirent, e unix.Errno) {
	g.t.Helper()
	rep, e := g.callRoom(op, rootID, le(fh, off, uint32(size), [5]uint32{}), outHeaderLen+size)
	for b := aligned(rep); len(b) > 0; {
		if op == opReaddirplus {
			if node := overlay[fuse.EntryOut](b).NodeId; node != 0 {
				defer g.call(opForget, node, le(uint64(1)))
			}
			b = b[sizeOf[fuse.EntryOut]():]
		}
		de := overlay[direntHeader](b)
		list = append(list, dirent{string(b[24 : 24+de.NameLen]), de.Off})
		b = b[24+(de.NameLen+7)&^7:]
	}
	return list, e
}

func namesOf(list []dirent) (names []string) {
	for _, d := range list {
		names = append(names, d.name)
	}
	return names
}

func TestDirectoriesAreReadFromAnyOffset(t *testing.T) {
	dir := t.TempDir()
	const files = 400
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%0*d", 3+i*7%200, i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir})
	for _, op := range []uint32{opReaddir, opReaddirplus} {
		fh := g.opendir()
		var all []dirent
		for {
			off := uint64(0)
			if len(all) > 0 {
				off = all[len(all)-1].off
			}
			list, e := g.list(op, fh, off, 4096)
			g.must("READDIR", e)
			if len(list) == 0 {
				break
			}
			all = append(all, list...)
		}
		if len(all) != files+2 {
			t.Fatalf("op %d: %d entries", op, len(all))
		}
		// From there the guest goes on, or elsewhere.
		for i := range all {
			at := i * 37 % (len(all) - 1)
			for range 1 + i%3 {
				list, e := g.list(op, fh, all[at].off, 400+at)
				g.must("READDIR", e)
				want := all[at+1:][:min(len(list), len(all)-at-1)]
				if len(list) == 0 || !slices.Equal(list, want) {
					t.Fatalf("op %d: behind entry %d come %q, want %q", op, at, namesOf(list), namesOf(want))
				}
				if at += len(list); at >= len(all)-1 {
					break
				}
			}
		}
		// Too little room for any entry takes nothing away.
		g.must("READDIR", func() unix.Errno { _, e := g.list(op, fh, 0, 4096); return e }())
		if _, e := g.list(op, fh, all[9].off, 24); e != unix.EINVAL {
			t.Errorf("op %d: room for no entry: %v", op, e)
		}
		if list, _ := g.list(op, fh, all[9].off, 4096); len(list) == 0 || list[0] != all[10] {
			t.Errorf("op %d: entry 10 is %q after a READDIR without room", op, namesOf(list))
		}
	}
}

func TestRewoundDirectoryShowsWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("old-%02d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir})
	fh := g.opendir()
	if _, e := g.list(opReaddir, fh, 0, 24); e != unix.EINVAL {
		t.Fatalf("room for no entry: %v", e)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	list, e := g.list(opReaddir, fh, 0, 1<<16)
	g.must("READDIR", e)
	if !slices.Contains(namesOf(list), "new") {
		t.Errorf("read from the start: %q", namesOf(list))
	}
}

func TestRepliesToReaddirAreFull(t *testing.T) {
	dir := t.TempDir()
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("name-%07d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir})
	for op, entry := range map[uint32]int{opReaddir: 24 + 16, opReaddirplus: sizeOf[fuse.EntryOut]() + 24 + 16} {
		fh, off := g.opendir(), uint64(0)
		for range 2 {
			list, e := g.list(op, fh, off, 1<<15)
			g.must("READDIR", e)
			// "." and ".." are shorter.
			if want := 1 << 15 / entry; len(list) != want && len(list) != want+1 {
				t.Errorf("op %d: %d entries in a reply with room for %d", op, len(list), want)
			}
			off = list[len(list)-1].off
		}
	}
}
