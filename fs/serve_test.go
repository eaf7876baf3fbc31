package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
)

func TestBadRequestsGetTheirError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir, Xattr: true})
	file, e := g.lookup(rootID, "file")
	g.must("LOOKUP", e)
	fh, e := g.open(file.NodeId, unix.O_RDWR)
	g.must("OPEN", e)
	long := strings.Repeat("x", 5000)
	dead := uint64(7)<<32 | file.NodeId
	cases := []struct {
		name string
		op   uint32
		node uint64
		body []byte
		ext  []byte
		room int
		want unix.Errno
		// ordinary is what a guest may ask in good faith; the rest counts as bad.
		ordinary bool
	}{
		{name: "unknown opcode", op: 999, node: rootID, want: unix.ENOSYS},
		{name: "opcode 0", op: 0, node: rootID, want: unix.ENOSYS},
		{name: "opcode 2^32-1", op: ^uint32(0), node: rootID, want: unix.ENOSYS},
		{name: "LOOKUP of ..", op: opLookup, node: rootID, body: le(".."), want: unix.EINVAL},
		{name: "LOOKUP of .", op: opLookup, node: rootID, body: le("."), want: unix.EINVAL},
		{name: "LOOKUP of nothing", op: opLookup, node: rootID, body: le(""), want: unix.EINVAL},
		{name: "LOOKUP without a name", op: opLookup, node: rootID, want: unix.EINVAL},
		{name: "LOOKUP of a path", op: opLookup, node: rootID, body: le("../etc/passwd"), want: unix.EINVAL},
		{name: "LOOKUP of an absolute path", op: opLookup, node: rootID, body: le("/etc"), want: unix.EINVAL},
		{name: "LOOKUP of 256 bytes", ordinary: true, op: opLookup, node: rootID, body: le(long[:256]), want: unix.ENAMETOOLONG},
		{name: "LOOKUP of 255 bytes", ordinary: true, op: opLookup, node: rootID, body: le(long[:255]), want: unix.ENOENT},
		{name: "LOOKUP of 5000 bytes", op: opLookup, node: rootID, body: le(long), want: unix.ENAMETOOLONG},
		{name: "LOOKUP without a NUL", op: opLookup, node: rootID, body: []byte("file"), want: unix.EINVAL},
		{name: "LOOKUP in a file", ordinary: true, op: opLookup, node: file.NodeId, body: le("x"), want: unix.ENOTDIR},
		{name: "LOOKUP of 300 KiB", op: opLookup, node: rootID, body: make([]byte, 300<<10), want: unix.EINVAL},
		{name: "nodeid 0", op: opGetattr, node: 0, body: make([]byte, 16), want: unix.EBADF},
		{name: "nodeid of another generation", op: opGetattr, node: dead, body: make([]byte, 16), want: unix.EBADF},
		{name: "nodeid 2^64-1", op: opGetattr, node: ^uint64(0), body: make([]byte, 16), want: unix.EBADF},
		{name: "GETATTR cut short", op: opGetattr, node: rootID, body: make([]byte, 15), want: unix.EINVAL},
		{name: "GETATTR without room", op: opGetattr, node: rootID, body: make([]byte, 16), room: outHeaderLen, want: unix.EINVAL},
		{name: "READ of a dead handle", op: opRead, node: file.NodeId, body: le(fh+1, [4]uint64{}), want: unix.EBADF},
		{name: "READ of another inode's handle", op: opRead, node: rootID, body: le(fh, [4]uint64{}), want: unix.EBADF},
		{name: "READ at 2^63", ordinary: true, op: opRead, node: file.NodeId, body: le(fh, uint64(1)<<63, uint32(10), [5]uint32{}), want: unix.EINVAL},
		{name: "WRITE of more than there is", op: opWrite, node: file.NodeId, body: le(fh, uint64(0), uint32(100), [5]uint32{}, "abc"), want: unix.EINVAL},
		{name: "WRITE of 2^32-1", op: opWrite, node: file.NodeId, body: le(fh, uint64(0), ^uint32(0), [5]uint32{}, "abc"), want: unix.EINVAL},
		{name: "WRITE at 2^63-1", ordinary: true, op: opWrite, node: file.NodeId, body: le(fh, uint64(1)<<63-1, uint32(4), [5]uint32{}, "abc"), want: unix.EFBIG},
		{name: "SETATTR to size 2^63", ordinary: true, op: opSetattr, node: file.NodeId, body: le(uint32(fuse.FATTR_SIZE), uint32(0), uint64(0), uint64(1)<<63, [8]uint64{}), want: unix.EFBIG},
		{name: "READDIR of a file", ordinary: true, op: opReaddir, node: file.NodeId, body: le(fh, uint64(0), uint32(4096), [5]uint32{}), want: unix.ENOTDIR},
		{name: "OPENDIR of a file", ordinary: true, op: opOpendir, node: file.NodeId, body: le(uint32(0), uint32(0)), want: unix.ENOTDIR},
		{name: "READLINK of a file", ordinary: true, op: opReadlink, node: file.NodeId, want: unix.EINVAL},
		{name: "MKDIR of ..", op: opMkdir, node: rootID, body: le(uint32(0o755), uint32(0), ".."), want: unix.EINVAL},
		{name: "CREATE of a path", op: opCreate, node: rootID, body: le([4]uint32{}, "a/b"), want: unix.EINVAL},
		{name: "RENAME to ..", op: opRename, node: rootID, body: le(uint64(rootID), "file", ".."), want: unix.EINVAL},
		{name: "RENAME with one name", op: opRename, node: rootID, body: le(uint64(rootID), "file"), want: unix.EINVAL},
		{name: "RENAME into a dead directory", op: opRename, node: rootID, body: le(dead, "file", "x"), want: unix.EBADF},
		{name: "RENAME2 with unknown flags", ordinary: true, op: opRename2, node: rootID, body: le(uint64(rootID), uint32(1<<9), uint32(0), "file", "x"), want: unix.EINVAL},
		{name: "LINK of a dead inode", op: opLink, node: rootID, body: le(dead, "x"), want: unix.EBADF},
		{name: "SYMLINK without a target", op: opSymlink, node: rootID, body: le("x"), want: unix.EINVAL},
		{name: "SETXATTR of more than there is", op: opSetxattr, node: file.NodeId, body: le(uint32(1000), uint32(0), "user.a", "v"), want: unix.EINVAL},
		{name: "SETXATTR of 2^32-1", op: opSetxattr, node: file.NodeId, body: le(^uint32(0), uint32(0), "user.a", "v"), want: unix.EINVAL},
		{name: "SETXATTR cut short", op: opSetxattr, node: file.NodeId, body: le(uint32(0)), want: unix.EINVAL},
		{name: "GETXATTR without a name", ordinary: true, op: opGetxattr, node: file.NodeId, body: le(uint32(10), uint32(0), ""), want: unix.ERANGE},
		{name: "IOCTL of something else", ordinary: true, op: opIoctl, node: file.NodeId, body: le(fh, uint32(0), uint32(0x5401), [3]uint64{}), want: unix.ENOTTY},
		{name: "IOCTL of more than there is", op: opIoctl, node: file.NodeId, body: le(fh, uint32(0), uint32(fsIocSetflags), uint64(0), ^uint32(0), uint32(0)), want: unix.EINVAL},
		{name: "LSEEK to SEEK_SET", ordinary: true, op: opLseek, node: file.NodeId, body: le(fh, uint64(0), uint32(0), uint32(0)), want: unix.EINVAL},
		{name: "COPY_FILE_RANGE with flags", ordinary: true, op: opCopyFileRange, node: file.NodeId, body: le(fh, uint64(0), file.NodeId, fh, uint64(5), uint64(1), uint64(1)), want: unix.EINVAL},
		{name: "an extension that is longer than the request", op: opMkdir, node: rootID, body: le(uint32(0o755), uint32(0), "d"), ext: le(uint32(4096), uint32(extGroups)), want: unix.EINVAL},
		{name: "an extension of length 0", op: opMkdir, node: rootID, body: le(uint32(0o755), uint32(0), "d"), ext: le(uint32(0), uint32(extGroups)), want: unix.EINVAL},
		{name: "an extension of an unknown kind", op: opMkdir, node: rootID, body: le(uint32(0o755), uint32(0), "d"), ext: le(uint32(16), uint32(77), uint64(0)), want: unix.EINVAL},
		{name: "a million groups", op: opMkdir, node: rootID, body: le(uint32(0o755), uint32(0), "d"), ext: le(uint32(16), uint32(extGroups), uint32(1000000), uint32(5)), want: unix.EINVAL},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			room := c.room
			if room == 0 {
				room = replyRoom
			}
			before := g.fs.Stats().BadRequests.Load()
			if _, e := g.callExt(c.op, c.node, c.body, c.ext, room); e != c.want {
				t.Errorf("got %v, want %v", e, c.want)
			}
			if n := g.fs.Stats().BadRequests.Load() - before; n != 1 && !c.ordinary || n != 0 && c.ordinary {
				t.Errorf("counted %d times as a bad request", n)
			}
		})
	}
	g.t = t
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("a bad request changed the directory: %v", names)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "file")); string(got) != "0123456789" {
		t.Errorf("a bad request changed the file: %q", got)
	}
	if _, e := g.getattr(rootID); e != 0 {
		t.Errorf("GETATTR afterwards: %v", e)
	}
	if n := g.fs.Stats().Bugs.Load(); n != 0 {
		t.Errorf("%d requests were bugs of ours", n)
	}
}

func TestRequestsThatCanNotBeAnsweredAreDropped(t *testing.T) {
	g := newGuest(t, Options{})
	for _, c := range []struct {
		name string
		req  []byte
		room int
	}{
		{"nothing at all", nil, 0},
		{"no header", nil, 4096},
		{"half a header", make([]byte, 20), 4096},
		{"no room for a reply", le(uint32(56), uint32(opGetattr), uint64(1), uint64(rootID), [4]uint32{}, [2]uint64{}), 0},
		{"half the room for a header", le(uint32(56), uint32(opGetattr), uint64(1), uint64(rootID), [4]uint32{}, [2]uint64{}), 8},
		{"FORGET cut short", le(uint32(40), uint32(opForget), uint64(1), uint64(rootID), [4]uint32{}), 0},
	} {
		if n := g.send(c.req, c.room); n != 0 {
			t.Errorf("%s: used length %d", c.name, n)
		}
	}
	for _, length := range []uint32{0, 1, 40, 55, 57, 1 << 20, ^uint32(0)} {
		n := g.send(le(length, uint32(opGetattr), uint64(9), uint64(rootID), [4]uint32{}, [2]uint64{}), 4096)
		if e := errno(int32(binary.LittleEndian.Uint32(g.ram[replyAt+4:]))); n != outHeaderLen || e != unix.EIO {
			t.Errorf("a header of length %d: used length %d, %v", length, n, e)
		}
	}
}

func TestNothingIsServedBeforeInit(t *testing.T) {
	g := newGuestRaw(t, Options{})
	if _, e := g.getattr(rootID); e != unix.EIO {
		t.Errorf("GETATTR before INIT: %v", e)
	}
	if _, e := g.call(opInit, 0, le(uint32(7), uint32(20), uint32(0), uint32(0))); e != unix.EPROTO {
		t.Errorf("INIT of protocol 7.20: %v", e)
	}
	rep, e := g.call(opInit, 0, le(uint32(8), uint32(0), uint32(0), uint32(0)))
	if out := overlay[fuse.InitOut](aligned(rep)); e != 0 || out.Major != 7 || g.fs.session.Load() != nil {
		t.Errorf("INIT of protocol 8: %v, %+v", e, out)
	}
	out := g.mustInit(guestFlags)
	if out.MaxWrite != maxWrite || out.MaxPages != maxPages || out.TimeGran != 1 {
		t.Errorf("INIT: %+v", out)
	}
	if _, e := g.getattr(rootID); e != 0 {
		t.Errorf("GETATTR: %v", e)
	}
	if _, e := g.call(opDestroy, 0, nil); e != 0 {
		t.Errorf("DESTROY: %v", e)
	}
	if _, e := g.getattr(rootID); e != unix.EIO {
		t.Errorf("GETATTR after DESTROY: %v", e)
	}
}

func TestNothingOutsideTheSharedDirectoryIsReached(t *testing.T) {
	base := t.TempDir()
	shared, secret := filepath.Join(base, "shared"), filepath.Join(base, "secret")
	for _, err := range []error{os.Mkdir(shared, 0o755), os.WriteFile(secret, []byte("secret"), 0o644),
		os.Symlink(secret, filepath.Join(shared, "link")), os.Symlink(base, filepath.Join(shared, "dirlink")),
		os.Mkdir(filepath.Join(shared, "dir"), 0o755), os.WriteFile(filepath.Join(shared, "dir", "x"), nil, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: shared})
	link, e := g.lookup(rootID, "link")
	g.must("LOOKUP link", e)
	if link.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Fatalf("a symbolic link shows as %o", link.Mode)
	}
	if _, e := g.open(link.NodeId, unix.O_RDONLY); e != unix.ELOOP {
		t.Errorf("OPEN of a symbolic link: %v", e)
	}
	if _, e := g.call(opSetattr, link.NodeId, le(uint32(fuse.FATTR_SIZE), make([]byte, 84))); e != unix.ELOOP {
		t.Errorf("truncation of a symbolic link: %v", e)
	}
	dirlink, e := g.lookup(rootID, "dirlink")
	g.must("LOOKUP dirlink", e)
	if _, e := g.lookup(dirlink.NodeId, "secret"); e != unix.ENOTDIR {
		t.Errorf("LOOKUP below a symbolic link: %v", e)
	}
	if _, e := g.call(opCreate, rootID, le(uint32(unix.O_WRONLY|unix.O_TRUNC), uint32(0o644), uint32(0), uint32(0), "link")); e != unix.ELOOP {
		t.Errorf("CREATE over a symbolic link: %v", e)
	}
	// A directory that the host moves out of the tree while the guest has it
	// leads no further up than itself.
	dir, e := g.lookup(rootID, "dir")
	g.must("LOOKUP dir", e)
	if err := os.Rename(filepath.Join(shared, "dir"), filepath.Join(base, "dir")); err != nil {
		t.Fatal(err)
	}
	if _, e := g.lookup(dir.NodeId, ".."); e != unix.EINVAL {
		t.Errorf("LOOKUP of .. in a directory that was moved out: %v", e)
	}
	if got, _ := os.ReadFile(secret); string(got) != "secret" {
		t.Errorf("the file outside was changed: %q", got)
	}
}

func TestFilesAreCreatedAsTheCaller(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can create files as somebody else")
	}
	dir := t.TempDir()
	for _, err := range []error{os.Chmod(dir, 0o777), os.Mkdir(filepath.Join(dir, "sgid"), 0), os.Chown(filepath.Join(dir, "sgid"), 0, 4000),
		unix.Chmod(filepath.Join(dir, "sgid"), unix.S_ISGID|0o770)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir})
	g.uid, g.gid = 1234, 2345
	check := func(name string, uid, gid, mode uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Error(err)
		} else if st.Uid != uid || st.Gid != gid || st.Mode != mode {
			t.Errorf("%s: %d:%d %o, want %d:%d %o", name, st.Uid, st.Gid, st.Mode, uid, gid, mode)
		}
		if e, g := unix.Geteuid(), unix.Getegid(); e != 0 || g != 0 {
			t.Fatalf("the thread went on as %d:%d", e, g)
		}
	}
	g.create(rootID, "file", unix.O_RDWR, 0o4755)
	check("file", 1234, 2345, unix.S_IFREG|0o4755)
	g.mkdir(rootID, "dir")
	check("dir", 1234, 2345, unix.S_IFDIR|0o755)
	_, e := g.call(opSymlink, rootID, le("sym", "target"))
	g.must("SYMLINK", e)
	check("sym", 1234, 2345, unix.S_IFLNK|0o777)
	_, e = g.call(opMknod, rootID, le(uint32(unix.S_IFIFO|0o640), uint32(0), uint32(0), uint32(0), "fifo"))
	g.must("MKNOD", e)
	check("fifo", 1234, 2345, unix.S_IFIFO|0o640)
	_, e = g.call(opTmpfile, rootID, le(uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "x"))
	g.must("TMPFILE", e)

	// In the directory of group 4000 the caller may write only as a member.
	sgid, e := g.lookup(rootID, "sgid")
	g.must("LOOKUP sgid", e)
	body := le(uint32(unix.O_RDWR), uint32(0o2640), uint32(0), uint32(0), "f")
	if _, e := g.call(opCreate, sgid.NodeId, body); e != unix.EACCES {
		t.Errorf("CREATE without the group: %v", e)
	}
	_, e = g.callExt(opCreate, sgid.NodeId, body, le(uint32(16), uint32(extGroups), uint32(1), uint32(4000)), replyRoom)
	g.must("CREATE with the group", e)
	check("sgid/f", 1234, 4000, unix.S_IFREG|0o2640)

	g.uid, g.gid = 0, 0
	g.create(rootID, "rootfile", unix.O_RDWR, 0o600)
	check("rootfile", 0, 0, unix.S_IFREG|0o600)
}

func TestUmaskComesWithTheRequestWhereAclsAreOn(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, PosixACL: IfOffered})
	rep, e := g.call(opCreate, rootID, le(uint32(unix.O_RDWR), uint32(0o666), uint32(0o027), uint32(0), "f"))
	g.must("CREATE", e)
	if m := g.entry(rep).Mode; m != unix.S_IFREG|0o640 {
		t.Errorf("mode %o", m)
	}
	node, _ := g.create(rootID, "g", unix.O_RDWR, 0o666)
	if a, e := g.getattr(node); e != 0 || a.Mode != unix.S_IFREG|0o666 {
		t.Errorf("the next file got the umask of the last: %o, %v", a.Mode, e)
	}
}

func TestTheDescriptorBudgetHolds(t *testing.T) {
	const files, limit = 600, 100
	for _, c := range []struct {
		name    string
		handles FileHandles
		fails   bool
	}{{"with file handles", FileHandlesPrefer, false}, {"without", FileHandlesNever, true}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for i := range files {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			g := newGuest(t, Options{SharedDir: dir, FDLimit: limit, InodeFileHandles: c.handles})
			if !c.fails && !g.fs.rootInode.mnt.handles.Load() {
				t.Skip("the file system of the test directory has no file handles that this user may open")
			}
			nodes := make(map[int]uint64)
			for i := range files {
				n, e := g.lookup(rootID, fmt.Sprint(i))
				if e == unix.ENFILE && c.fails {
					break
				}
				g.must("LOOKUP", e)
				nodes[i] = n.NodeId
				if got := g.fs.budget.count.Load(); got > limit {
					t.Fatalf("%d descriptors are held", got)
				}
			}
			if c.fails && len(nodes) >= limit {
				t.Fatalf("%d inodes fit in a budget of %d", len(nodes), limit)
			}
			for i, node := range nodes {
				a, e := g.getattr(node)
				g.must("GETATTR", e)
				if a.Size != uint64(len(fmt.Sprint(i))) {
					t.Fatalf("inode %d is another file", i)
				}
				if c.fails {
					continue
				}
				fh, e := g.open(node, unix.O_RDONLY)
				g.must("OPEN", e)
				data, e := g.read(node, fh, 0, 100)
				g.must("READ", e)
				if string(data) != fmt.Sprint(i) {
					t.Fatalf("file %d holds %q", i, data)
				}
				_, e = g.call(opRelease, node, le(fh, [2]uint64{}))
				g.must("RELEASE", e)
			}
			for _, node := range nodes {
				g.call(opForget, node, le(uint64(1)))
			}
			if n := g.fs.inodes.byID.len(); n != 1 {
				t.Errorf("%d inodes are left", n)
			}
			if n := g.fs.budget.count.Load(); n != 1 {
				t.Errorf("%d descriptors are left", n)
			}
			if c.fails {
				_, e := g.lookup(rootID, "1")
				g.must("LOOKUP after FORGET", e)
			}
		})
	}
}

func TestAForgottenNodeidIsDead(t *testing.T) {
	g := newGuest(t, Options{})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	_, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	g.call(opForget, node, le(uint64(1)))
	if _, e := g.getattr(node); e != 0 {
		t.Errorf("GETATTR with one lookup left: %v", e)
	}
	g.call(opRelease, node, le(fh, [2]uint64{}))
	g.call(opForget, node, le(uint64(99)))
	if _, e := g.getattr(node); e != unix.EBADF {
		t.Errorf("GETATTR of a forgotten inode: %v", e)
	}
	again, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	if again.NodeId == node {
		t.Error("a forgotten nodeid was handed out again")
	}
	g.call(opForget, rootID, le(uint64(1000)))
	if _, e := g.getattr(rootID); e != 0 {
		t.Errorf("the root can be forgotten: %v", e)
	}
}

func TestAFileReplacedOnTheHostIsANewInode(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, FDLimit: 1000})
	path := filepath.Join(dir, "f")
	for i := range 200 {
		if err := os.WriteFile(path, []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
		n, e := g.lookup(rootID, "f")
		g.must("LOOKUP", e)
		fh, e := g.open(n.NodeId, unix.O_RDONLY)
		g.must("OPEN", e)
		if data, e := g.read(n.NodeId, fh, 0, 100); e != 0 || string(data) != fmt.Sprint(i) {
			t.Fatalf("round %d reads %q, %v", i, data, e)
		}
		g.call(opRelease, n.NodeId, le(fh, [2]uint64{}))
		// Without a descriptor nothing keeps the host from reusing the number.
		g.fs.inodes.get(n.NodeId).used.Store(false)
		g.fs.budget.sweep()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyCachedReadsAreServedInline(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	host, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	g := newGuest(t, Options{SharedDir: dir})
	g.inline = true
	n, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	fh, e := g.open(n.NodeId, unix.O_RDONLY)
	g.must("OPEN", e)
	read := func(off, size int) {
		t.Helper()
		got, e := g.read(n.NodeId, fh, uint64(off), size)
		g.must("READ", e)
		if !bytes.Equal(got, data[min(off, len(data)):min(off+size, len(data))]) {
			t.Fatalf("READ %d+%d is wrong", off, size)
		}
	}
	read(0, 1<<20)
	read(4096, 100)
	read(len(data)-10, 4096)
	read(len(data), 4096)
	if g.again != 0 {
		t.Errorf("%d reads of cached data went to a worker", g.again)
	}
	if err := host.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(host.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	read(0, 1<<20)
	if g.again == 0 && !isTmpfs(dir) {
		t.Error("a cold read was served inline")
	}
	if _, e := g.call(opFsync, n.NodeId, le(fh, uint64(0))); e != 0 || g.again == 0 {
		t.Errorf("FSYNC: %v", e)
	}
}

func isTmpfs(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC
}

func TestAReadOnlyShareChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir, ReadOnly: true, Xattr: true})
	n, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	for op := range uint32(numOps) {
		if o := lookupOperation(op); o != nil && o.changes {
			if _, e := g.call(op, n.NodeId, make([]byte, 200)); e != unix.EROFS {
				t.Errorf("%s: %v", o.name, e)
			}
		}
	}
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC} {
		if _, e := g.open(n.NodeId, flags); e != unix.EROFS {
			t.Errorf("OPEN with %#x: %v", flags, e)
		}
	}
	if _, e := g.open(n.NodeId, unix.O_RDONLY); e != 0 {
		t.Errorf("OPEN for reading: %v", e)
	}
}

func TestLargeDirectoriesAreListedOnce(t *testing.T) {
	dir := t.TempDir()
	const files = 3000
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%0*d", 1+i%200, i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, Options{SharedDir: dir})
	for _, op := range []uint32{opReaddir, opReaddirplus} {
		for _, size := range []int{512, 4096, 32768, 1 << 20} {
			rep, e := g.call(opOpendir, rootID, le(uint32(0), uint32(0)))
			g.must("OPENDIR", e)
			fh := overlay[fuse.OpenOut](aligned(rep)).Fh
			seen := make(map[string]int)
			for off := uint64(0); ; {
				rep, e := g.callRoom(op, rootID, le(fh, off, uint32(size), [5]uint32{}), outHeaderLen+size)
				g.must("READDIR", e)
				if len(rep) == 0 {
					break
				}
				for b := aligned(rep); len(b) > 0; {
					if op == opReaddirplus {
						if node := overlay[fuse.EntryOut](b).NodeId; node != 0 {
							defer g.call(opForget, node, le(uint64(1)))
						}
						b = b[sizeOf[fuse.EntryOut]():]
					}
					de := overlay[direntHeader](b)
					seen[string(b[24:24+de.NameLen])]++
					off = de.Off
					b = b[24+(de.NameLen+7)&^7:]
				}
			}
			if len(seen) != files+2 {
				t.Errorf("op %d, size %d: %d names", op, size, len(seen))
			}
			for name, n := range seen {
				if n != 1 {
					t.Fatalf("op %d, size %d: %s is listed %d times", op, size, name, n)
				}
			}
			g.call(opReleasedir, rootID, le(fh, [2]uint64{}))
		}
	}
}

func TestHotOperationsDoNotAllocate(t *testing.T) {
	g := newGuest(t, Options{Xattr: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.write(node, fh, 0, make([]byte, 4096))
	g.call(opSetxattr, node, le(uint32(1), uint32(0), "user.a", "v"))
	for _, c := range []struct {
		name string
		op   uint32
		node uint64
		body []byte
	}{
		{"GETATTR", opGetattr, node, make([]byte, 16)},
		{"LOOKUP", opLookup, rootID, le("f")},
		{"READ", opRead, node, le(fh, uint64(0), uint32(4096), [5]uint32{})},
		{"WRITE", opWrite, node, le(fh, uint64(0), uint32(4096), [5]uint32{}, make([]byte, 4096))},
		{"WRITE without CAP_FSETID", opWrite, node, le(fh, uint64(0), uint32(4096), uint32(writeKillSuidgid), [4]uint32{}, make([]byte, 4096))},
		{"STATFS", opStatfs, node, nil},
		{"GETXATTR", opGetxattr, node, le(uint32(100), uint32(0), "user.a")},
		{"FLUSH", opFlush, node, le(fh, [2]uint64{})},
	} {
		req := le(uint32(inHeaderLen+len(c.body)), c.op, uint64(1), c.node, [4]uint32{}, c.body)
		if n := testing.AllocsPerRun(100, func() { g.send(req, replyRoom) }); n != 0 {
			t.Errorf("%s allocates %v times", c.name, n)
		}
		if e := errno(int32(binary.LittleEndian.Uint32(g.ram[replyAt+4:]))); e != 0 {
			t.Errorf("%s: %v", c.name, e)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	g := newGuest(b, Options{Xattr: true})
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.write(node, fh, 0, make([]byte, 1<<20))
	for _, c := range []struct {
		name string
		op   uint32
		node uint64
		body []byte
	}{
		{"getattr", opGetattr, node, make([]byte, 16)},
		{"lookup", opLookup, rootID, le("f")},
		{"read4k", opRead, node, le(fh, uint64(0), uint32(4096), [5]uint32{})},
		{"read1m", opRead, node, le(fh, uint64(0), uint32(1<<20), [5]uint32{})},
		{"write4k", opWrite, node, le(fh, uint64(0), uint32(4096), [5]uint32{}, make([]byte, 4096))},
		{"statfs", opStatfs, node, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			g.inline = true
			req := le(uint32(inHeaderLen+len(c.body)), c.op, uint64(1), c.node, [4]uint32{}, c.body)
			for b.Loop() {
				g.send(req, replyRoom)
			}
		})
	}
}

func TestHandlesThatCanNotBeOpenedAreNotReliedOn(t *testing.T) {
	g := newGuest(t, Options{FDLimit: 1000})
	g.fs.rootInode.mnt.handles.Store(false) // as for a user without CAP_DAC_READ_SEARCH
	node, fh := g.create(rootID, "f", unix.O_RDWR, 0o644)
	g.call(opRelease, node, le(fh, [2]uint64{}))
	n := g.fs.inodes.get(node)
	n.used.Store(false)
	g.fs.budget.sweep()
	if stateFD(n.state.Load()) < 0 {
		t.Error("the only way to the inode was closed")
	}
	if _, e := g.getattr(node); e != 0 {
		t.Errorf("GETATTR: %v", e)
	}
	if _, e := g.open(node, unix.O_RDONLY); e != 0 {
		t.Errorf("OPEN: %v", e)
	}
}

func TestAnAppendOnlyFileCanBeAppendedTo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	host, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	const appendFlag = 0x20 // FS_APPEND_FL
	if err := unix.IoctlSetPointerInt(int(host.Fd()), unix.FS_IOC_SETFLAGS, appendFlag); err != nil {
		t.Skipf("the file system of the test directory, or this user, can't make a file append-only: %v", err)
	}
	defer unix.IoctlSetPointerInt(int(host.Fd()), unix.FS_IOC_SETFLAGS, 0)
	g := newGuest(t, Options{SharedDir: dir, PosixLock: true})
	n, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	if _, e := g.open(n.NodeId, unix.O_WRONLY); e != unix.EPERM {
		t.Errorf("OPEN without O_APPEND: %v", e)
	}
	rep, e := g.call(opOpen, n.NodeId, le(uint32(unix.O_WRONLY|unix.O_APPEND), uint32(0)))
	g.must("OPEN with O_APPEND", e)
	opened := *overlay[fuse.OpenOut](aligned(rep))
	if opened.OpenFlags&fuse.FOPEN_DIRECT_IO == 0 {
		t.Error("the guest may cache pages, which can't be written back")
	}
	fh := opened.Fh
	for range 2 {
		_, e := g.write(n.NodeId, fh, 0, []byte("abc"))
		g.must("WRITE", e)
	}
	g.must("SETLK for writing", g.setlk(n.NodeId, fh, 1, unix.F_WRLCK))
	// What is written back of a cache would be appended.
	if _, e := g.call(opWrite, n.NodeId, le(fh, uint64(0), uint32(6), uint32(writeCache), uint64(0), uint32(0), uint32(0), []byte("abcabc"))); e != unix.EPERM {
		t.Errorf("WRITE of a page of the cache: %v", e)
	}
	if got, _ := os.ReadFile(path); string(got) != "abcabc" {
		t.Errorf("the file holds %q", got)
	}
}

// What the guest wants on the disk before the answer is not written by a queue's
// reader, nor left to a FSYNC.
func TestWriteThatIsToBeOnTheDisk(t *testing.T) {
	for _, c := range []struct {
		name               string
		flags, write, want uint32
	}{
		{"RWF_DSYNC", unix.O_WRONLY | unix.O_DSYNC, 0, unix.RWF_DSYNC},
		{"RWF_SYNC, mount -o sync", unix.O_WRONLY | unix.O_SYNC, 0, unix.RWF_SYNC},
		{"neither", unix.O_WRONLY, 0, 0},
		{"of the cache", unix.O_WRONLY | unix.O_SYNC, writeCache, 0},
	} {
		if got := syncFlags(&fuse.WriteIn{Flags: c.flags, WriteFlags: c.write}); got != int(c.want) {
			t.Errorf("%s: RWF flags %#x, want %#x", c.name, got, c.want)
		}
	}
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir})
	n, fh := g.create(rootID, "f", unix.O_RDWR, 0o600)
	req := func(flags uint32) []byte {
		g.unique++
		body := le(fh, uint64(0), uint32(3), uint32(0), uint64(0), flags, uint32(0), []byte("abc"))
		return le(uint32(inHeaderLen+len(body)), uint32(opWrite), g.unique, n, uint32(0), uint32(0), uint32(1), uint32(0), body)
	}
	if _, v := g.serve(req(unix.O_RDWR), outHeaderLen+8, false); v != device.Done {
		t.Errorf("a WRITE that need not be on the disk: %v", v)
	}
	if _, v := g.serve(req(unix.O_RDWR|unix.O_DSYNC), outHeaderLen+8, false); v != device.Again {
		t.Errorf("a WRITE with O_DSYNC: %v", v)
	}
	if _, v := g.serve(req(unix.O_RDWR|unix.O_DSYNC), outHeaderLen+8, true); v != device.Done {
		t.Errorf("a WRITE with O_DSYNC on a worker: %v", v)
	}
}

func TestNewFileIsFoundUnderAnyName(t *testing.T) {
	g := newGuest(t, Options{})
	dir := g.fs.rootFD
	fd, err := unix.Openat(dir, "file", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	other, err := unix.Openat(dir, "other", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(other)
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []cstr{cstr("file\x00"), cstr("other\x00"), cstr("gone\x00"), nil} {
		path, e := g.thread.pathOf(fd, dir, name)
		g.must("pathOf "+name.String(), e)
		var got unix.Stat_t
		err := unix.Fstat(path, &got)
		unix.Close(path)
		if err != nil || got.Ino != want.Ino || g.thread.st.Ino != want.Ino {
			t.Errorf("%q: inode %d, attributes of %d, not of %d (%v)", name, got.Ino, g.thread.st.Ino, want.Ino, err)
		}
	}
}

func TestKnownNameNeedsNoDescriptor(t *testing.T) {
	const limit = 8
	g := newGuest(t, Options{FDLimit: limit, InodeFileHandles: FileHandlesNever})
	known := g.mkdir(rootID, "known")
	var e unix.Errno
	for i := 0; e == 0; i++ {
		name := fmt.Sprint("file", i)
		if err := os.WriteFile(filepath.Join(g.fs.opts.SharedDir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, e = g.lookup(rootID, name)
		if e != 0 && e != unix.ENFILE || i > limit {
			t.Fatalf("the %dth lookup: %v", i, e)
		}
	}
	g.thread.missed = true // as behind lookups that found new names
	out, e := g.lookup(rootID, "known")
	g.must("a known name", e)
	if out.NodeId != known {
		t.Errorf("node %d, not %d", out.NodeId, known)
	}
}

func TestReaderReadsFromMemoryItself(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is no tmpfs")
	}
	dir, err := os.MkdirTemp("/dev/shm", "virtiofsd-go-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := newGuest(t, Options{SharedDir: dir})
	node, fh := g.create(rootID, "file", unix.O_RDWR, 0o600)
	if _, e := g.write(node, fh, 0, []byte("in memory")); e != 0 {
		t.Fatal(e)
	}
	g.inline = true
	data, e := g.read(node, fh, 0, 4096)
	g.must("READ", e)
	if string(data) != "in memory" || g.again != 0 {
		t.Errorf("%q, passed on %d times", data, g.again)
	}
}
