package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mountImage mounts a new file system of its own, in a file, at dir, and returns that file.
func mountImage(t *testing.T, dir string, mkfs ...string) (image string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	image = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 320<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Skipf("%s: %v\n%s", mkfs[0], err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("no mount of an image here: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return image
}

func contains(t *testing.T, path string, what []byte) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(b, what)
}

func TestSubmountsAreAnnouncedAndSyncedByThemselves(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "sub")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	image := mountImage(t, at, "mkfs.ext4", "-q")
	g := newGuest(t, Options{SharedDir: dir})
	sub, e := g.lookup(rootID, "sub")
	g.must("LOOKUP", e)
	if sub.Attr.Flags&fuse.ATTR_SUBMOUNT == 0 {
		t.Error("LOOKUP does not say that it is a mount")
	}
	inner := g.mkdir(sub.NodeId, "dir")
	if got, e := g.lookup(sub.NodeId, "dir"); e != 0 || got.Attr.Flags != 0 {
		t.Errorf("a directory in it: %v, flags %#x", e, got.Attr.Flags)
	}
	if got := g.plusFlags(rootID)["sub"]; got&fuse.ATTR_SUBMOUNT == 0 {
		t.Error("READDIRPLUS does not say that it is a mount")
	}
	if got := g.plusFlags(sub.NodeId)["dir"]; got != 0 {
		t.Errorf("READDIRPLUS of it: flags %#x", got)
	}
	node, fh := g.create(inner, "f", unix.O_RDWR, 0o600)
	if _, e := g.call(opRename2, inner, le(uint64(rootID), uint32(0), uint32(0), "f", "f")); e != unix.EXDEV {
		t.Errorf("RENAME out of it: %v", e)
	}

	// Somebody else may sync everything at any time, but not always.
	early := 0
	const tries = 8
	for i := range tries {
		marker := bytes.Repeat(fmt.Appendf(nil, "only after its own SYNCFS %d ", i), 1000)[:8192]
		_, e = g.write(node, fh, uint64(i)<<20, marker)
		g.must("WRITE", e)
		_, e = g.call(opSyncfs, rootID, le(uint64(0)))
		g.must("SYNCFS of the root", e)
		if contains(t, image, marker[:4096]) {
			early++
		}
		_, e = g.call(opSyncfs, sub.NodeId, le(uint64(0)))
		g.must("SYNCFS of the submount", e)
		if !contains(t, image, marker[:4096]) {
			t.Fatal("SYNCFS of the submount has not written its data")
		}
		if early <= i {
			break
		}
	}
	if early == tries {
		t.Error("SYNCFS of the root writes the submount's data")
	}

	// A guest that does not know of mounts, and one that must not.
	g.fs.opts.AnnounceSubmounts = false
	g.mustInit(guestFlags)
	if sub, e = g.lookup(rootID, "sub"); e != 0 || sub.Attr.Flags != 0 {
		t.Errorf("without announcement: %v, flags %#x", e, sub.Attr.Flags)
	}
	node, fh = g.create(sub.NodeId, "unannounced", unix.O_RDWR, 0o600)
	syncfsWrites(t, g, image, node, fh)
}

// syncfsWrites checks that a SYNCFS of the root writes the data of a file to the image that it is on.
func syncfsWrites(t *testing.T, g *guest, image string, node, fh uint64) {
	t.Helper()
	marker := bytes.Repeat(fmt.Appendf(nil, "with the root, %s ", t.Name()), 1000)[:8192]
	_, e := g.write(node, fh, 0, marker)
	g.must("WRITE", e)
	_, e = g.call(opSyncfs, rootID, le(uint64(0)))
	g.must("SYNCFS of the root", e)
	if !contains(t, image, marker[:4096]) {
		t.Error("SYNCFS of the root has not written the data")
	}
}

func TestFilesThatAreMountsAreSyncedWithTheRoot(t *testing.T) {
	elsewhere, dir := t.TempDir(), t.TempDir()
	image := mountImage(t, elsewhere, "mkfs.ext4", "-q")
	file, at := filepath.Join(elsewhere, "f"), filepath.Join(dir, "f")
	for _, path := range []string{file, at} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mount here: %v", err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	g := newGuest(t, Options{SharedDir: dir})
	f, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	fh, e := g.open(f.NodeId, unix.O_RDWR)
	g.must("OPEN", e)
	syncfsWrites(t, g, image, f.NodeId, fh)
}

func TestSyncfsTellsOnceOfWhatWasLost(t *testing.T) {
	const other, gone = 1 << 40, 1<<40 + 1
	for _, announced := range []bool{true, false} {
		g := newGuest(t, Options{})
		g.fs.opts.AnnounceSubmounts = announced
		g.mustInit(guestFlags)
		mounts := &g.fs.mounts
		mounts.m[other] = &mount{id: other, dir: true, fd: -1, refs: 1}
		for _, c := range []struct {
			what string
			on   uint64
			told bool
		}{
			{"the root", g.fs.rootInode.mnt.id, true},
			{"a mount", other, !announced},
			{"a mount that is gone", gone, true},
			{"no mount that is known", 0, true},
		} {
			mounts.lose(c.on, unix.ENOSPC)
			want := unix.Errno(0)
			if c.told {
				want = unix.ENOSPC
			}
			for _, want := range []unix.Errno{want, 0} {
				if _, e := g.call(opSyncfs, rootID, le(uint64(0))); e != want {
					t.Errorf("announced %v: SYNCFS of the root after a loss on %s: %v, want %v", announced, c.what, e, want)
				}
			}
		}
		if e := mounts.takeLost(mounts.m[other], announced); (e == unix.ENOSPC) != announced {
			t.Errorf("announced %v: a SYNCFS of the mount would tell %v", announced, e)
		}
		mounts.lose(other, unix.ENOSPC)
		g.fs.Reset()
		if len(mounts.lost) > 0 {
			t.Error("the next guest would hear of it")
		}
		delete(mounts.m, other)
	}
}

// plusFlags lists a directory and returns the attribute flags of its entries.
func (g *guest) plusFlags(node uint64) map[string]uint32 {
	g.t.Helper()
	rep, e := g.call(opOpendir, node, le(uint32(0), uint32(0)))
	g.must("OPENDIR", e)
	fh := overlay[fuse.OpenOut](aligned(rep)).Fh
	b, e := g.call(opReaddirplus, node, le(fh, uint64(0), uint32(32<<10), uint32(0), uint64(0), uint32(0), uint32(0)))
	g.must("READDIRPLUS", e)
	flags := map[string]uint32{}
	for b = aligned(b); len(b) > 0; {
		entry := overlay[fuse.EntryOut](b)
		head := sizeOf[fuse.EntryOut]()
		n := int(binary.LittleEndian.Uint32(b[head+16:]))
		flags[string(b[head+24:][:n])] = entry.Attr.Flags
		b = b[head+(24+n+7)&^7:]
	}
	return flags
}

func TestProjectIDs(t *testing.T) {
	dir := t.TempDir()
	mountImage(t, dir, "mkfs.xfs", "-q")
	g := newGuest(t, Options{SharedDir: dir})
	const project, inherit = 4242, 0x200 // FS_XFLAG_PROJINHERIT
	set := func(node, fh uint64, xflags uint32) unix.Errno {
		arg := le(xflags, uint32(0), uint32(0), uint32(project), uint32(0), uint64(0))
		_, e := g.ioctl(node, fh, fsIocFssetxattr, arg, 0)
		return e
	}
	get := func(node, fh uint64) uint32 {
		t.Helper()
		out, e := g.ioctl(node, fh, fsIocFsgetxattr, nil, fsxattrLen)
		g.must("FSGETXATTR", e)
		return binary.LittleEndian.Uint32(out[12:])
	}
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
	if got := get(node, fh); got != 0 {
		t.Errorf("a new file is of project %d", got)
	}
	g.must("FSSETXATTR", set(node, fh, 0))
	if got := get(node, fh); got != project {
		t.Errorf("project %d", got)
	}
	d := g.mkdir(rootID, "d")
	rep, e := g.call(opOpendir, d, le(uint32(0), uint32(0)))
	g.must("OPENDIR", e)
	g.must("FSSETXATTR of a directory", set(d, overlay[fuse.OpenOut](aligned(rep)).Fh, inherit))
	node, fh = g.create(d, "f", unix.O_RDWR, 0o600)
	if got := get(node, fh); got != project {
		t.Errorf("a file in a directory of project %d is of project %d", project, got)
	}
	if _, e := g.call(opRename2, rootID, le(d, uint32(0), uint32(0), "f", "g")); e != 0 {
		t.Errorf("RENAME within a project: %v", e)
	}
	g.create(rootID, "h", unix.O_RDWR, 0o600)
	if _, e := g.call(opRename2, rootID, le(d, uint32(0), uint32(0), "h", "h")); e != unix.EXDEV {
		t.Errorf("RENAME into another project: %v", e)
	}
}

// ioctl is a restricted FUSE_IOCTL.
func (g *guest) ioctl(node, fh uint64, cmd uint32, data []byte, room uint32) ([]byte, unix.Errno) {
	g.t.Helper()
	rep, e := g.call(opIoctl, node, le(fh, uint32(0), cmd, uint64(0), uint32(len(data)), room, data))
	if e != 0 {
		return nil, e
	}
	return rep[sizeOf[fuse.IoctlOut]():], 0
}

func TestFsVerity(t *testing.T) {
	for _, salt := range []string{"", "a grain of salt, and another one"} {
		t.Run(fmt.Sprintf("a salt of %d bytes", len(salt)), func(t *testing.T) { fsVerity(t, salt) })
	}
}

func fsVerity(t *testing.T, salt string) {
	dir := t.TempDir()
	if !hasVerity(t, dir) {
		mountImage(t, dir, "mkfs.ext4", "-q", "-O", "verity")
	}
	g := newGuest(t, Options{SharedDir: dir})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
	_, e := g.write(node, fh, 0, []byte("data"))
	g.must("WRITE", e)
	g.call(opRelease, node, le(fh, [2]uint64{}))
	fh, e = g.open(node, unix.O_RDONLY)
	g.must("OPEN", e)
	measure := func() ([]byte, unix.Errno) {
		return g.ioctl(node, fh, fsIocMeasureVerity, le(uint16(0), uint16(64)), 4+64)
	}
	if _, e := measure(); e == unix.EOPNOTSUPP {
		t.Skip("this kernel has no fs-verity")
	} else if e != unix.ENODATA {
		t.Errorf("MEASURE_VERITY before: %v", e)
	}
	_, e = g.ioctl(node, fh, fsIocEnableVerity, append(verityArg(1, 4096, uint32(len(salt)), 0), salt...), 0)
	g.must("ENABLE_VERITY", e)
	digest, e := measure()
	g.must("MEASURE_VERITY", e)
	if alg, size := binary.LittleEndian.Uint16(digest), binary.LittleEndian.Uint16(digest[2:]); alg != 1 || size != 32 || len(digest) < 36 {
		t.Fatalf("algorithm %d, %d bytes of digest, %d in all", alg, size, len(digest))
	}
	if want := verityDigest([]byte("data"), []byte(salt)); !bytes.Equal(digest[4:36], want) {
		t.Errorf("digest %x, want %x", digest[4:36], want)
	}
	if _, e := g.open(node, unix.O_RDWR); e != unix.EPERM {
		t.Errorf("OPEN to write: %v", e)
	}
}

func hasVerity(t *testing.T, dir string) bool {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, e := sysIoctl(int(f.Fd()), fsIocMeasureVerity, make([]byte, 4+verityDigestMax))
	return e == unix.ENODATA
}

// verityDigest is the digest of a file of one block (Documentation/filesystems/fsverity.rst).
func verityDigest(data, salt []byte) []byte {
	block := make([]byte, 4096)
	copy(block, data)
	padded := make([]byte, (len(salt)+63)/64*64) // to the block size of SHA-256
	copy(padded, salt)
	root := sha256.Sum256(append(padded, block...))
	descriptor := make([]byte, 256)
	descriptor[0], descriptor[1], descriptor[2], descriptor[3] = 1, 1, 12, byte(len(salt))
	binary.LittleEndian.PutUint64(descriptor[8:], uint64(len(data)))
	copy(descriptor[16:], root[:])
	copy(descriptor[80:], salt)
	sum := sha256.Sum256(descriptor)
	return sum[:]
}

// verityArg is struct fsverity_enable_arg.
func verityArg(version, block, salt, sig uint32) []byte {
	return le(version, uint32(1), block, salt, uint64(0xdead), sig, uint32(0), uint64(0xbeef), [11]uint64{})
}

func TestVerityRequestsThatCanNotBeServed(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
	for _, c := range []struct {
		name string
		cmd  uint32
		data []byte
		want unix.Errno
	}{
		{"too short", fsIocEnableVerity, make([]byte, 127), unix.EINVAL},
		{"another version", fsIocEnableVerity, verityArg(2, 4096, 0, 0), unix.EINVAL},
		{"a salt that is not there", fsIocEnableVerity, verityArg(1, 4096, 8, 0), unix.EINVAL},
		{"a salt that is not all there", fsIocEnableVerity, append(verityArg(1, 4096, 8, 0), 1, 2, 3, 4, 5, 6, 7), unix.EINVAL},
		{"a signature that is not there", fsIocEnableVerity, append(verityArg(1, 4096, 8, 1), 1, 2, 3, 4, 5, 6, 7, 8), unix.EINVAL},
		{"too long a salt", fsIocEnableVerity, append(verityArg(1, 4096, 33, 0), make([]byte, 33)...), unix.EINVAL},
		{"too long a signature", fsIocEnableVerity, append(verityArg(1, 4096, 0, 16129), make([]byte, 16129)...), unix.EINVAL},
		{"lengths that overflow", fsIocEnableVerity, verityArg(1, 4096, 1<<32-1, 1<<32-1), unix.EINVAL},
		{"a digest without a size", fsIocMeasureVerity, make([]byte, 3), unix.EINVAL},
		{"another request", 0x12345678, make([]byte, 64), unix.ENOTTY},
	} {
		if _, e := g.ioctl(node, fh, c.cmd, c.data, 256); e != c.want {
			t.Errorf("%s: %v, want %v", c.name, e, c.want)
		}
	}
}
