package fs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// held is the memory that the host has given the Go heap and not got back.
func held() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}

func TestMemoryOfForgottenInodesIsGivenBack(t *testing.T) {
	f, err := New(Options{SharedDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := held()
	var ids []uint64
	for i := range 4 * many {
		// Inodes without a descriptor: more than a process may have open.
		st := unix.Statx_t{Mode: unix.S_IFREG, Ino: 1<<40 + uint64(i), Mnt_id: f.rootInode.key.mnt}
		f.budget.parked.Add(1)
		n, isNew, e := f.inodes.claimOrAdd(f, &st, -1)
		if e != 0 || !isNew {
			t.Fatal(e, isNew)
		}
		ids = append(ids, n.id)
	}
	most := held() - before
	// A guest's inodes are forgotten in another order than they were found in.
	for i := range ids {
		if id := ids[(i*7919)%len(ids)]; !f.inodes.forget(id, 1) {
			t.Fatalf("inode %#x was not known", id)
		}
	}
	if n := f.inodes.byID.len(); n != 1 {
		t.Fatalf("%d inodes are left", n)
	}
	ids = nil
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		now := int64(held() - before)
		if now < int64(most)/4 {
			t.Logf("%d MiB with the inodes, %d after", most>>20, now>>20)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d MiB with the inodes, %d a while after they were forgotten", most>>20, now>>20)
		}
	}
	for f.inodes.freeing.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	if f.inodes.byID.shrunk.Load() {
		t.Error("the table still says that it shrank")
	}
}

func TestAnInodeThatIsForgottenMeanwhileIsNotOpenedOnAMountThatIsGone(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "sub")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	mountFull(t, at, "1m")
	if err := os.WriteFile(filepath.Join(at, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{SharedDir: dir})
	sub, e := g.lookup(rootID, "sub")
	g.must("LOOKUP", e)
	f, e := g.lookup(sub.NodeId, "f")
	g.must("LOOKUP", e)
	n := g.fs.inodes.get(f.NodeId)
	if n.handleForOpen() == nil {
		t.Skip("no file handles here")
	}
	// What a request that has found the inode does when FORGETs on another queue overtake it.
	g.fs.inodes.forget(f.NodeId, 1)
	g.fs.inodes.forget(sub.NodeId, 1)
	if fd, e := n.openFile(g.thread, unix.O_RDONLY); e != unix.ESTALE {
		unix.Close(fd)
		t.Errorf("opening it: %v, want ESTALE", e)
	}
}
