package dax

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestHostChangesShow has another process change a mapped file, and truncate it.
func TestHostChangesShow(t *testing.T) {
	m := testManager(t, Config{})
	if m.watch.fan < 0 {
		t.Skip("skip: no fanotify here")
	}
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	f := newTestFile(t, 10000, 'a')
	show(t, m, op, f, 0, 0)
	if f.state().watchKey == "" {
		t.Skip("skip: fanotify does not tell files of this file system apart")
	}
	g := startGuest(t, m)
	sees := func(off uint64, want string) { t.Helper(); mustSee(t, g, off, want) }
	sees(5000, "aaa")
	for _, c := range []struct {
		command string
		off     uint64
		want    string
	}{
		{"printf host | dd of=$F bs=1 seek=5000 conv=notrunc status=none", 4999, "ahosta"},
		{"truncate -s 5002 $F", 5000, "ho\x00\x00"},
		{"printf more >> $F", 5000, "homore\x00"},
	} {
		cmd := exec.Command("sh", "-c", c.command)
		cmd.Env = append(os.Environ(), "F="+f.Name())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sees(c.off, c.want)
	}
	// Our own writes are no reason to take pages away.
	n := m.Stats().HostChanges
	g.write(0, []byte("guest"))
	if err := m.Sync(op, &f.Inode); err != nil {
		t.Error(err)
	}
	time.Sleep(20 * time.Millisecond)
	if k := m.Stats().HostChanges; k != n || n == 0 {
		t.Errorf("%d host changes, then %d", n, k)
	}
}

// TestOneFileInTwoMounts has two inodes for one file, as where it is seen through two
// mounts. What is changed through one shows through the other, and what others change
// through the one that stays mapped.
func TestOneFileInTwoMounts(t *testing.T) {
	m := testManager(t, Config{})
	if m.watch.fan < 0 {
		t.Skip("skip: no fanotify here")
	}
	watchdog(t, m, 60*time.Second)
	op := m.NewOp()
	a := newTestFile(t, 10000, 'a')
	b := &testFile{File: a.File}
	show(t, m, op, a, 0, 0)
	show(t, m, op, b, 0, 1)
	if a.state().watchKey == "" {
		t.Skip("skip: fanotify does not tell files of this file system apart")
	}
	g := startGuest(t, m)
	sees := func(off uint64, want string) { t.Helper(); mustSee(t, g, off, want) }
	host := func(off int64, what string) {
		t.Helper()
		cmd := exec.Command("dd", "of="+a.Name(), "bs=1", "conv=notrunc", "status=none", "seek="+strconv.FormatInt(off, 10))
		cmd.Stdin = strings.NewReader(what)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sees(5000, "aaa")
	sees(RangeSize+5000, "aaa")
	host(5000, "one")
	sees(5000, "one")
	sees(RangeSize+5000, "one")
	g.write(5000, []byte("two"))
	if err := m.Sync(op, &a.Inode); err != nil {
		t.Fatal(err)
	}
	sees(RangeSize+5000, "two")
	sees(5000, "two")
	if err := m.RemoveMappings(op, []RemoveMapping{{RangeSize, RangeSize}}); err != nil {
		t.Fatal(err)
	}
	host(5000, "six")
	sees(5000, "six")
}

// mustSee waits until the guest reads want at offset off of the window.
func mustSee(t *testing.T, g *guest, off uint64, want string) {
	t.Helper()
	var got []byte
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got = g.read(off, uint64(len(want))); string(got) == want {
			return
		}
	}
	t.Errorf("at %#x the guest sees %q, want %q", off, got, want)
}
