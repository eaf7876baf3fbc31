package fs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzServe plays a guest that sends any bytes behind well-formed headers. The
// input is a list of requests: opcode, nodeid and handle as one byte each, a
// length, and the body, whose first eight bytes become the handle where the
// third byte is not zero. Nothing may crash or hang, leave the directory, or
// stay behind after the reset.
func FuzzServe(f *testing.F) {
	req := func(op, node, fh byte, body []byte) []byte {
		return append(binary.LittleEndian.AppendUint16([]byte{op, node, fh}, uint16(len(body))), body...)
	}
	join := func(rs ...[]byte) (all []byte) {
		for _, r := range rs {
			all = append(all, r...)
		}
		return all
	}
	f.Add(join(req(opLookup, 1, 0, le("f")), req(opOpen, 2, 0, le(uint32(2), uint32(0))), req(opWrite, 2, 1, le([2]uint64{}, uint32(3), [5]uint32{}, "abc")),
		req(opRead, 2, 1, le([2]uint64{}, uint32(100), [5]uint32{})), req(opRelease, 2, 1, le([3]uint64{})), req(opForget, 2, 0, le(uint64(1)))))
	f.Add(join(req(opOpendir, 1, 0, le(uint64(0))), req(opReaddirplus, 1, 1, le([2]uint64{}, uint32(4096), [5]uint32{})), req(opReaddir, 1, 1, le([2]uint64{}, uint32(100), [5]uint32{}))))
	f.Add(join(req(opMkdir, 1, 0, le(uint32(0o755), uint32(0), "d")), req(opSymlink, 1, 0, le("s", "../../etc")), req(opLookup, 1, 0, le("s")), req(opReadlink, 3, 0, nil),
		req(opRename2, 1, 0, le(uint64(1), uint32(2), uint32(0), "d", "s")), req(opLink, 1, 0, le(uint64(2), "l")), req(opUnlink, 1, 0, le("l")), req(opRmdir, 1, 0, le("d"))))
	f.Add(join(req(opCreate, 1, 0, le(uint32(2), uint32(0o644), uint32(0), uint32(0), "n")), req(opSetattr, 2, 1, le(uint32(8), uint32(0), uint64(0), uint64(100), [8]uint64{})),
		req(opFallocate, 2, 1, le(uint64(0), uint64(0), uint64(4096), uint64(3))), req(opLseek, 2, 1, le(uint64(0), uint64(0), uint64(3))),
		req(opCopyFileRange, 2, 1, le(uint64(0), uint64(0), uint64(2), uint64(1), uint64(50), uint64(10), uint64(0))), req(opFsync, 2, 1, le([2]uint64{}))))
	f.Add(join(req(opSetxattr, 1, 0, le(uint32(1), uint32(0), [2]uint32{}, "user.a", "v")), req(opGetxattr, 1, 0, le(uint64(0), "user.a")), req(opListxattr, 1, 0, le(uint64(100))), req(opRemovexattr, 1, 0, le("user.a"))))
	f.Add(join(req(opTmpfile, 1, 0, le(uint32(2), uint32(0o644), uint32(0), uint32(0), "")), req(opIoctl, 2, 1, le(uint64(0), uint32(0), uint32(fsIocGetflags), uint64(0), uint32(0), uint32(8))),
		req(opSetlk, 2, 1, le(uint64(0), uint64(7), uint64(0), uint64(9), uint32(1), uint32(1), uint64(0))), req(opGetlk, 2, 1, le(uint64(0), uint64(8), uint64(0), uint64(9), uint32(1), uint32(1), uint64(0)))))
	f.Add(join(req(opDestroy, 1, 0, nil), req(opInit, 1, 0, le(uint32(7), uint32(45), uint32(0), ^uint32(0), ^uint32(0))), req(opStatx, 1, 0, make([]byte, 24)), req(opStatfs, 1, 0, nil), req(opSyncfs, 1, 0, make([]byte, 8))))

	base := f.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "virtiofsd-go-fuzz"); err == nil {
		base = dir // syncing a disk is no part of what is tested
		f.Cleanup(func() { removeAll(dir) })
	}
	sentinel := filepath.Join(base, "sentinel")
	if err := os.WriteFile(sentinel, []byte("untouched"), 0o644); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		runtime.LockOSThread()
		shared, err := os.MkdirTemp(base, "shared")
		if err != nil {
			t.Fatal(err)
		}
		defer removeAll(shared)
		if err := os.WriteFile(filepath.Join(shared, "f"), []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
		fuzzOnce(t, shared, data)
		if got, err := os.ReadFile(sentinel); err != nil || string(got) != "untouched" {
			t.Fatalf("the guest reached a file outside: %q, %v", got, err)
		}
		if names, _ := os.ReadDir(base); len(names) != 2 {
			t.Fatalf("the guest made a file outside: %v", names)
		}
	})
}

func fuzzOnce(t *testing.T, shared string, data []byte) {
	g := newGuestRaw(t, Options{SharedDir: shared, Xattr: true, PosixACL: IfOffered, SecurityLabel: IfOffered, PosixLock: true, Flock: true, FDLimit: 64})
	defer g.close()
	g.mustInit(^uint64(0))
	for range 64 {
		if len(data) < 5 {
			break
		}
		op, node, fh, n := data[0], data[1], data[2], int(binary.LittleEndian.Uint16(data[3:]))
		n = min(n, len(data)-5)
		body := append([]byte(nil), data[5:5+n]...)
		data = data[5+n:]
		if fh != 0 && len(body) >= 8 {
			binary.LittleEndian.PutUint64(body, uint64(fh))
		}
		bound(uint32(op), body)
		if op == opSetlkw {
			op = opSetlk // would wait, rightly, for what never comes
		}
		g.unique++
		g.send(le(uint32(inHeaderLen+len(body)), uint32(op), g.unique, uint64(node), [4]uint32{}, body), 1+int(op)*700)
	}
	if n := g.fs.Stats().Bugs.Load(); n != 0 {
		t.Fatalf("%d requests were bugs of ours", n)
	}
	g.fs.Reset()
	if inodes, files, fds := g.fs.inodes.byID.len(), g.fs.files.len(), g.fs.budget.count.Load(); inodes != 1 || files != 0 || fds != 1 {
		t.Fatalf("after the reset %d inodes, %d files and %d descriptors are left", inodes, files, fds)
	}
}

// bound keeps a request from filling the host's disk, which it would be right to do.
func bound(op uint32, body []byte) {
	mask := func(at int) {
		if len(body) >= at+8 {
			v := binary.LittleEndian.Uint64(body[at:])
			binary.LittleEndian.PutUint64(body[at:], v&(1<<63|1<<20-1))
		}
	}
	switch op {
	case opFallocate:
		mask(8)
		mask(16)
	case opWrite:
		mask(8)
	case opSetattr:
		mask(16)
	case opCopyFileRange, opCopyFileRange64:
		mask(32)
		mask(40)
	}
}

// removeAll also removes what was made immutable or append-only.
func removeAll(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
				unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0)
				unix.Close(fd)
			}
		}
		return nil
	})
	os.RemoveAll(dir)
}
