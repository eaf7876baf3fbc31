package dax

import (
	"bytes"
	"testing"
	"time"
)

func TestGuestSeesAndWritesFile(t *testing.T) {
	m := testManager(t, Config{})
	watchdog(t, m, 30*time.Second)
	op := m.NewOp()
	f := newTestFile(t, 3*RangeSize+5, 'a')
	g := startGuest(t, m)
	show(t, m, op, f, 0, 2)
	show(t, m, op, f, 3*RangeSize, 3)
	if got := g.read(2*RangeSize, 4); string(got) != "aaaa" {
		t.Errorf("guest reads %q", got)
	}
	if got := g.read(3*RangeSize, 8); string(got) != "aaaaa\x00\x00\x00" {
		t.Errorf("guest reads %q at the end", got)
	}
	g.write(2*RangeSize+10, []byte("hello"))
	g.write(3*RangeSize+2, []byte("tail beyond"))
	if err := m.Sync(op, &f.Inode); err != nil {
		t.Error(err)
	}
	if got := f.bytes(t, 8, 9); string(got) != "aahelloaa" {
		t.Errorf("file has %q", got)
	}
	if got := f.bytes(t, 3*RangeSize, 100); string(got) != "aatai" {
		t.Errorf("file ends in %q", got)
	}
	g.write(2*RangeSize+4096, []byte("again"))
	if err := m.RemoveMappings(op, []RemoveMapping{{2 * RangeSize, RangeSize}, {3 * RangeSize, RangeSize}}); err != nil {
		t.Error(err)
	}
	if got := f.bytes(t, 4096, 6); string(got) != "againa" {
		t.Errorf("after removal file has %q", got)
	}
	if f.Mapped() {
		t.Error("still mapped")
	}
	if got := g.read(2*RangeSize, 4); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("removed range reads %q", got)
	}
	show(t, m, op, f, 0, 2)
	if got := g.read(2*RangeSize, 4); string(got) != "aaaa" {
		t.Errorf("range that was touched while it showed nothing reads %q", got)
	}
	t.Logf("%+v", m.Stats())
}
