package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A guest's file that was opened with O_DIRECT may be used without: after F_SETFL, as dd
// does for the last block, and for what the guest writes back of its cache.
func TestHandleOpenedDirectServesBufferedRequests(t *testing.T) {
	dir := t.TempDir()
	g := newGuest(t, Options{SharedDir: dir, AllowDirectIO: true})
	rep, e := g.call(opCreate, rootID, le(uint32(unix.O_RDWR|unix.O_DIRECT), uint32(0o600), uint32(0), uint32(0), "f"))
	if e == unix.EINVAL {
		t.Skip("the file system of the test directory has no O_DIRECT")
	}
	g.must("CREATE", e)
	_ = rep
	n, e := g.lookup(rootID, "f")
	g.must("LOOKUP", e)
	before := openDescriptors(t)
	fh, e := g.open(n.NodeId, unix.O_RDWR|unix.O_DIRECT)
	g.must("OPEN", e)
	data := bytes.Repeat([]byte("dd"), 452)
	write := func(off uint64, writeFlags, flags uint32) unix.Errno {
		_, e := g.call(opWrite, n.NodeId, le(fh, off, uint32(len(data)), writeFlags, uint64(0), flags, uint32(0), data))
		return e
	}
	// What is not aligned tells on which descriptor it is done.
	if e := write(1, 0, unix.O_RDWR|unix.O_DIRECT); e != unix.EINVAL {
		t.Skipf("the file system of the test directory takes any direct WRITE: %v", e)
	}
	g.must("WRITE without O_DIRECT", write(4096, 0, unix.O_RDWR))
	g.must("WRITE of the cache", write(8192, writeCache, 0))
	got, e := g.call(opRead, n.NodeId, le(fh, uint64(4096), uint32(len(data)), uint32(0), uint64(0), uint32(unix.O_RDWR), uint32(0)))
	if e != 0 || !bytes.Equal(got[:len(data)], data) {
		t.Errorf("READ without O_DIRECT: %v", e)
	}
	host, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || len(host) != 8192+len(data) || !bytes.Equal(host[8192:], data) {
		t.Errorf("the file has %d bytes, %v", len(host), err)
	}
	if n := openDescriptors(t); n != before+2 {
		t.Errorf("%d descriptors more for a handle that is used in both ways", n-before)
	}
	g.release(n.NodeId, fh)
	if n := openDescriptors(t); n != before {
		t.Errorf("%d descriptors are left of it", n-before)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}
