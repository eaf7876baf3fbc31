package vhostuser

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

func TestMemoryTable(t *testing.T) {
	checkLeaks(t)
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiate()
	p.take()
	ram := memfd(t, 1<<20)
	a := Region{0, 0x1000, 0x7000000, 0}
	b := Region{0x1000, 0x2000, 0x8000000, 0x4000}
	c := Region{0x10000, 0x1000, 0x9000000, 0x1000}
	p.must(SetMemTable, memTable(a, b), ram, ram)
	p.called("RegionAdded 0x0", "RegionAdded 0x1000")
	p.must(SetMemTable, memTable(a, c), ram, ram)
	p.called("RegionRemoved 0x1000", "RegionAdded 0x10000")
	p.must(AddMemReg, memReg(b), ram)
	// The mmap offset does not count, and a descriptor may come along.
	p.must(RemMemReg, memReg(Region{b.GuestAddr, b.Size, b.UserAddr, 99}), ram)
	p.called("RegionAdded 0x1000", "RegionRemoved 0x1000")
	p.must(SetMemTable, memTable())
	p.called("RegionRemoved 0x0", "RegionRemoved 0x10000")
	if dev.total() != 0 {
		t.Errorf("%d regions left", dev.total())
	}
}

func TestMemoryIsReleasedWithTheConnection(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	p.negotiate()
	ram := memfd(t, 1<<20)
	for i := range uint64(8) {
		p.must(AddMemReg, memReg(Region{i << 20, 0x1000, 0x7000000 + i<<20, i << 12}), ram)
	}
}

func TestMemoryTableFaults(t *testing.T) {
	var nine []Region
	for i := range uint64(9) {
		nine = append(nine, Region{i << 12, 0x1000, 1<<40 + i<<12, 0})
	}
	short := memTable(nine[:2]...)
	lying := memTable(nine[:2]...)
	le.PutUint32(lying, 1)
	negative := memTable(nine[:1]...)
	le.PutUint32(negative, 0xffffffff)
	for _, c := range []struct {
		name    string
		payload []byte
		fds     int
		fault   string
	}{
		{"fewer descriptors than regions", memTable(nine[:2]...), 1, "1 file descriptors for 2 regions"},
		{"more descriptors than regions", memTable(nine[:1]...), 2, "2 file descriptors for 1 regions"},
		{"cut short", short[:len(short)-1], 2, "2 regions in a payload of 71 bytes"},
		{"count below the payload", lying, 1, "1 regions in a payload of 72 bytes"},
		{"count like a negative number", negative, 1, "4294967295 regions"},
		{"nine regions", memTable(nine...), 8, "payload of 296 bytes"},
		{"empty region", memTable(Region{0, 0, 0, 0}), 1, "is empty"},
		{"overlap in guest addresses", memTable(Region{0, 0x2000, 1 << 40, 0}, Region{0x1000, 0x1000, 2 << 40, 0}), 2, "overlaps the one at guest address 0x0"},
		{"overlap in user addresses", memTable(Region{0, 0x2000, 1 << 40, 0}, Region{1 << 30, 0x1000, 1<<40 + 0x1000, 0}), 2, "overlaps the one at guest address 0x0"},
		{"guest address overflow", memTable(Region{1<<64 - 0x1000, 0x2000, 1 << 40, 0}), 1, "past the end of the address space"},
		{"user address overflow", memTable(Region{0, 0x2000, 1<<64 - 0x1000, 0}), 1, "past the end of the address space"},
		{"impossible offset", memTable(Region{0, 0x2000, 1 << 40, 1<<64 - 1}), 1, "impossible file offset"},
		{"impossible size", memTable(Region{0, 1 << 63, 0, 0}), 1, "impossible"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.negotiate()
			fd := memfd(t, 1<<20)
			var fds []int
			for range c.fds {
				fds = append(fds, fd)
			}
			p.send(SetMemTable, 0, c.payload, fds...)
			p.breaks(SetMemTable, c.fault)
		})
	}
}

func TestAddedRegionOverlapEndsTheConnection(t *testing.T) {
	for _, r := range []Region{
		{0x1fff, 0x1000, 1 << 41, 0},
		{0, 0x1001, 1 << 41, 0},
		{0x1000, 0x1000, 1 << 40, 0},
		{0, 1 << 30, 1 << 41, 0},
		{1 << 30, 0x1000, 1<<40 - 0xfff, 0},
	} {
		t.Run(fmt.Sprintf("%+v", r), func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.negotiate()
			p.must(AddMemReg, memReg(Region{0x1000, 0x1000, 1 << 40, 0}), memfd(t, 1<<20))
			p.send(AddMemReg, 0, memReg(r), memfd(t, 1<<20))
			p.breaks(AddMemReg, "overlaps the one at guest address 0x1000")
		})
	}
}

func TestTouchingRegionsDoNotOverlap(t *testing.T) {
	p := start(t, newFakeDevice())
	p.negotiate()
	for _, r := range []Region{
		{0x1000, 0x1000, 1 << 40, 0}, {0x2000, 0x1000, 1<<40 + 0x1000, 0}, {0, 0x1000, 1<<40 - 0x1000, 0},
		{1<<64 - 0x2000, 0x1000, 1<<64 - 0x2000, 0},
	} {
		p.must(AddMemReg, memReg(r), memfd(t, 1<<20))
	}
}

func TestRegionPastTheEndOfItsFileIsRefused(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	p.negotiate()
	p.refused(AddMemReg, memReg(Region{0, 0x2000, 1 << 40, 0}), memfd(t, 0x1000))
	p.refused(AddMemReg, memReg(Region{0, 0x1000, 1 << 40, 0x1000}), memfd(t, 0x1000))
	p.refused(SetMemTable, memTable(Region{0, 0x1000, 1 << 40, 0}, Region{0x1000, 0x2000, 1 << 41, 0}), memfd(t, 0x1000), memfd(t, 0x1000))
	p.called("SetFeatures 0x100000000")
}

func TestRegion513IsRefused(t *testing.T) {
	checkLeaks(t)
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiate()
	if n := p.askU64(GetMaxMemSlots); n != 512 {
		t.Fatalf("%d slots", n)
	}
	ram := memfd(t, 0x1000)
	at := func(i uint64) []byte { return memReg(Region{i << 21, 0x1000, 1<<40 + i<<21, 0}) }
	for i := range uint64(512) {
		p.must(AddMemReg, at(i), ram)
	}
	p.refused(AddMemReg, at(512), ram)
	p.must(RemMemReg, at(100))
	p.must(AddMemReg, at(512), ram)
	p.askU64(GetFeatures)
	if dev.total() != 512 {
		t.Errorf("%d regions", dev.total())
	}
}

func TestClassifyTellsMemoryFromFiles(t *testing.T) {
	tmp := t.TempDir() + "/file"
	fd, err := unix.Open(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	want := guestmem.File
	if fs.Type == unix.TMPFS_MAGIC {
		want = guestmem.RAM
	}
	if got := Classify(fd, Region{}); got != want {
		t.Errorf("file on file system %#x is %v", fs.Type, got)
	}
	if got := Classify(memfd(t, 4096), Region{}); got != guestmem.RAM {
		t.Errorf("memfd is %v", got)
	}
}

// A log that is too small would lose what is written behind its end.
func TestDirtyLogTooSmallForMemoryIsToldOf(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	p.negotiate()
	ram := memfd(t, 0x10000)
	region := func(page uint64) []byte { return memReg(Region{page << 12, 0x4000, 1<<40 + page<<12, 0}) }
	base := func(bytes uint64) {
		t.Helper()
		if v := le.Uint64(p.ask(SetLogBase, append(u64(bytes), u64(0)...), memfd(t, 4096))); v != 0 {
			t.Fatalf("answered %d", v)
		}
	}
	p.must(AddMemReg, region(0), ram)
	for i, c := range []struct {
		name string
		do   func()
		more int
	}{
		{"a log that has a bit for the last page", func() { base(1) }, 0},
		{"a region behind its end", func() { p.must(AddMemReg, region(6), ram) }, 1},
		{"a larger log", func() { base(2) }, 0},
		{"one that is too small", func() { base(1) }, 1},
	} {
		before := p.log.count("dirty log is too small")
		c.do()
		p.askU64(GetFeatures)
		if n := p.log.count("dirty log is too small") - before; n != c.more {
			t.Errorf("step %d, %s: told of %d times, want %d", i, c.name, n, c.more)
		}
	}
}

// SET_LOG_FD may come before the log or after it, and again; each write to memory
// that is logged is told through the last one, others are not.
func TestLogEventIsSignalled(t *testing.T) {
	checkLeaks(t)
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiate()
	p.must(AddMemReg, memReg(Region{0, 0x10000, 1 << 40, 0}), memfd(t, 0x10000))
	p.must(SetVringNum, state(0, 64))
	p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
	p.must(SetVringKick, u64(0), eventfd(t))
	p.must(SetFeatures, u64(1<<32|FeatureProtocolFeatures|FeatureLogAll))
	setBase := func() {
		t.Helper()
		if v := le.Uint64(p.ask(SetLogBase, append(u64(4096), u64(0)...), memfd(t, 4096))); v != 0 {
			t.Fatalf("answered %d", v)
		}
	}
	told := func(fd int) bool {
		var b [8]byte
		n, err := unix.Read(fd, b[:])
		return err == nil && n == 8
	}
	write := func() {
		t.Helper()
		p.askU64(GetFeatures)
		table := dev.ring(0).Mem.Acquire()
		defer table.Release()
		var b guestmem.Buffers
		b.Reset(table)
		if err := b.Append(0x2000, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := b.CopyIn([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	var events [3]int
	for i := range events {
		events[i] = eventfd(t)
		if err := unix.SetNonblock(events[i], true); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want int) {
		t.Helper()
		write()
		for i, fd := range events {
			if got := told(fd); got != (i == want) {
				t.Errorf("%s: event %d was signalled: %t", when, i, got)
			}
		}
	}
	p.must(SetLogFD, nil, events[0])
	check("without a log", -1)
	setBase()
	check("before the log", 0)
	p.must(SetLogFD, nil, events[1])
	check("after the log", 1)
	setBase()
	check("with another log", 1)
	p.must(SetLogFD, nil, events[2])
	dev.ring(0).Mem.MarkDirty(0x3000, 4)
	if !told(events[2]) || told(events[1]) {
		t.Error("a write to a ring is not told")
	}
	p.must(SetFeatures, u64(1<<32|FeatureProtocolFeatures))
	check("after the end of logging", -1)
}

func TestDirtyLog(t *testing.T) {
	checkLeaks(t)
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiate()
	p.must(AddMemReg, memReg(Region{0, 0x10000, 1 << 40, 0}), memfd(t, 0x10000))
	log := memfd(t, 8192)
	payload := append(u64(4096), u64(4096)...)
	if v := le.Uint64(p.ask(SetLogBase, payload, log)); v != 0 {
		t.Fatalf("answered %d", v)
	}
	write := func(gpa uint64) {
		t.Helper()
		p.askU64(GetFeatures)
		table := dev.ring(0).Mem.Acquire()
		defer table.Release()
		var b guestmem.Buffers
		b.Reset(table)
		if err := b.Append(gpa, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := b.CopyIn([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	marked := func() byte {
		t.Helper()
		var b [1]byte
		if _, err := unix.Pread(log, b[:], 4096); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	p.must(SetVringNum, state(0, 64))
	p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
	p.must(SetVringKick, u64(0), eventfd(t))
	write(0x1000)
	if got := marked(); got != 0 {
		t.Errorf("log %#b without LOG_ALL", got)
	}
	p.must(SetFeatures, u64(1<<32|FeatureProtocolFeatures|FeatureLogAll))
	write(0x2000)
	if got := marked(); got != 1<<2 {
		t.Errorf("log %#b, want page 2", got)
	}
	p.take()
	p.must(SetVringAddr, addr(0, 1, 0x1000, 0x2000, 0x3000, 0x5000))
	p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
	p.called("LogRing 0 true 0x5000", "LogRing 0 false 0x0")
	p.must(SetFeatures, u64(1<<32|FeatureProtocolFeatures))
	write(0x3000)
	if got := marked(); got != 1<<2 {
		t.Errorf("log %#b after the end of logging", got)
	}
	// Another log while rings run, and descriptors that are closed.
	if v := le.Uint64(p.ask(SetLogBase, payload, memfd(t, 8192))); v != 0 {
		t.Errorf("answered %d", v)
	}
	p.must(SetLogFD, nil, eventfd(t))
	for _, bad := range []logDesc{{8192, 4096}, {1 << 63, 4096}, {4096, 1<<64 - 4096}, {0, 0}} {
		if v := le.Uint64(p.ask(SetLogBase, append(u64(bad.mmapSize), u64(bad.mmapOffset)...), log)); v != 1 {
			t.Errorf("log %+v: answered %d", bad, v)
		}
	}
}
