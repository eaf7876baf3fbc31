package virtqueue

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// Where the guest has its memory and, from the start of it, the parts of its one
// ring. Everything from dataAt on is for buffers and indirect tables.
const (
	guestBase = 0x1_0000_0000
	userBase  = 0x7f00_0000_0000
	ramSize   = 16 << 20
	descAt    = 0
	driverAt  = 0x80000
	deviceAt  = 0xa0000
	dataAt    = 0x100000
)

const (
	split  = FeatureVersion1 | FeatureIndirectDesc
	packed = split | FeatureRingPacked
	event  = FeatureEventIdx
)

// machine is guest memory, seen by the device through mem and by the driver
// through a mapping of its own.
type machine struct {
	t    testing.TB
	fd   int
	ram  []byte
	span guestmem.Span
	mem  guestmem.Memory
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, ramSize); err != nil {
		t.Fatal(err)
	}
	ram, err := unix.Mmap(fd, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, fd: fd, ram: ram, span: guestmem.SpanOf(ram)}
	if err := m.mem.Add(m.region(0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.mem.Replace(nil); err != nil {
			t.Error(err)
		}
		m.mem.Settle()
		unix.Munmap(ram)
		unix.Close(fd)
	})
	return m
}

// region describes the RAM, for a descriptor of its own.
func (m *machine) region(kind guestmem.Kind) guestmem.RegionSpec {
	m.t.Helper()
	fd, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return guestmem.RegionSpec{GuestAddr: guestBase, UserAddr: userBase, Size: ramSize, FD: fd, Kind: kind}
}

func (m *machine) config(size uint32, features uint64) Config {
	c := Config{
		Size: size, Features: features, Mem: &m.mem,
		DescUser: userBase + descAt, AvailUser: userBase + driverAt, UsedUser: userBase + deviceAt,
	}
	if features&FeatureRingPacked != 0 {
		c.Base = 0x80008000
	}
	return c
}

func (m *machine) queue(cfg Config) *Queue {
	m.t.Helper()
	q, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(q.Close)
	return q
}

// descr is a descriptor as the driver writes it. link is the next index of a split
// one and the buffer id of a packed one.
type descr struct {
	addr  uint64
	len   uint32
	flags uint16
	link  uint16
}

func in(at, n uint32) descr  { return descr{addr: guestBase + uint64(at), len: n} }
func out(at, n uint32) descr { return descr{addr: guestBase + uint64(at), len: n, flags: descWrite} }

// driver is the driver's side of a ring.
type driver interface {
	// add makes one chain of descriptors available and returns its head or
	// id. Their NEXT flags and links are set.
	add(ds ...descr) Head
	// table writes an indirect table at offset at of the memory and returns
	// the descriptor that points to it.
	table(at uint32, ds ...descr) descr
	// move copies n bytes of the memory.
	move(from, to, n uint32)
	// used returns the next used element.
	used() (h Head, n uint32, ok bool)
	// kicks tells whether the device wants to be notified of what was added
	// since the last call.
	kicks() bool
	// wantCall asks for a notification of the next used element.
	wantCall()
	// noCall asks for none.
	noCall()
	// wantCallAfter asks for a notification when n more elements than the
	// next are used.
	wantCallAfter(n uint16)
	// descriptors returns how many descriptors of the ring chain h has.
	descriptors(h Head) int
	// clone returns a copy that goes on by itself, on the same memory.
	clone() driver
	// order returns the chains in flight and which of them came first.
	order() map[Head]int
	// base is the value of SET_VRING_BASE that has everything used that the
	// driver has seen.
	base() uint32
	// prepare returns a function that makes the same chain available again
	// and again, with next to no cost of its own: the one before is done.
	prepare(ds []descr, indirect bool) func()
}

func (m *machine) driver(size uint32, features uint64) driver {
	if features&FeatureRingPacked != 0 {
		d := &packedDriver{machine: m, size: uint16(size), event: features&event != 0, availWrap: true, usedWrap: true, slots: map[Head]uint16{}}
		for i := range size {
			d.free = append(d.free, Head(i))
		}
		return d
	}
	d := &splitDriver{machine: m, size: uint16(size), event: features&event != 0, chains: map[Head][]uint16{}}
	for i := range size {
		d.free = append(d.free, uint16(i))
	}
	return d
}

type splitDriver struct {
	*machine
	size   uint16
	event  bool
	free   []uint16
	chains map[Head][]uint16
	avail  uint16
	kicked uint16
	seen   uint16
}

func (d *splitDriver) put(at uintptr, x descr) {
	d.span.Put64(at, x.addr)
	d.span.Put64(at+8, uint64(x.len)|uint64(x.flags)<<32|uint64(x.link)<<48)
}

func (d *splitDriver) add(ds ...descr) Head {
	idx := append([]uint16(nil), d.free[:len(ds)]...)
	d.free = d.free[len(ds):]
	for i, x := range ds {
		if i+1 < len(ds) {
			x.flags |= descNext
			x.link = idx[i+1]
		}
		d.put(descAt+uintptr(idx[i])*descSize, x)
	}
	h := Head(idx[0])
	d.chains[h] = idx
	d.publish(h)
	return h
}

// publish makes a head available without a look at its descriptors.
func (d *splitDriver) publish(h Head) {
	d.span.Put16(driverAt+4+2*uintptr(d.avail&(d.size-1)), uint16(h))
	d.avail++
	flags := d.span.Load16(driverAt)
	d.span.Store32(driverAt, uint32(flags)|uint32(d.avail)<<16)
}

func (d *splitDriver) table(at uint32, ds ...descr) descr {
	for i, x := range ds {
		if i+1 < len(ds) {
			x.flags |= descNext
			x.link = uint16(i + 1)
		}
		d.put(uintptr(at)+uintptr(i)*descSize, x)
	}
	return descr{addr: guestBase + uint64(at), len: uint32(len(ds) * descSize), flags: descIndirect}
}

func (d *splitDriver) used() (Head, uint32, bool) {
	if d.span.Load16(deviceAt+2) == d.seen {
		return 0, 0, false
	}
	at := deviceAt + 4 + 8*uintptr(d.seen&(d.size-1))
	h, n := Head(d.span.Load32(at)), d.span.Load32(at+4)
	d.seen++
	d.free = append(d.free, d.chains[h]...)
	delete(d.chains, h)
	return h, n, true
}

func (d *splitDriver) kicks() bool {
	old := d.kicked
	d.kicked = d.avail
	if !d.event {
		return d.span.Load16(deviceAt)&usedNoNotify == 0
	}
	ev := d.span.Load16(deviceAt + 4 + 8*uintptr(d.size))
	return d.avail-ev-1 < d.avail-old
}

func (d *splitDriver) wantCall() {
	if d.event {
		d.span.Put16(driverAt+4+2*uintptr(d.size), d.seen)
	} else {
		d.span.Put16(driverAt, 0)
	}
}

func (d *splitDriver) noCall() {
	if d.event {
		d.span.Put16(driverAt+4+2*uintptr(d.size), d.seen-1)
	} else {
		d.span.Put16(driverAt, availNoInterrupt)
	}
}

type packedDriver struct {
	*machine
	size      uint16
	event     bool
	free      []Head
	slots     map[Head]uint16 // of chains in flight
	added     []Head          // the last of them, in order
	avail     uint16
	availWrap bool
	kicked    uint16
	kickWrap  bool
	seen      uint16
	usedWrap  bool
}

func (d *packedDriver) put(at uintptr, x descr) {
	d.span.Put64(at, x.addr)
	d.span.Store64(at+8, uint64(x.len)|uint64(x.link)<<32|uint64(x.flags)<<48)
}

func (d *packedDriver) add(ds ...descr) Head {
	h := d.free[0]
	d.free = d.free[1:]
	d.slots[h] = uint16(len(ds))
	d.added = append(d.added[max(0, len(d.added)-int(min(d.size, 64))):], h)
	for i := range ds {
		ds[i].link = uint16(h)
		if i+1 < len(ds) {
			ds[i].flags |= descNext
		}
	}
	d.write(ds...)
	return h
}

// write writes descriptors as they are, the first one last.
func (d *packedDriver) write(ds ...descr) {
	type slot struct {
		at uint16
		x  descr
	}
	var todo []slot
	for _, x := range ds {
		if d.availWrap {
			x.flags |= packedAvail
		} else {
			x.flags |= packedUsed
		}
		todo = append(todo, slot{d.avail, x})
		if d.avail++; d.avail == d.size {
			d.avail, d.availWrap = 0, !d.availWrap
		}
	}
	for i := len(todo) - 1; i >= 0; i-- {
		d.put(descAt+uintptr(todo[i].at)*descSize, todo[i].x)
	}
}

func (d *packedDriver) table(at uint32, ds ...descr) descr {
	for i, x := range ds {
		d.put(uintptr(at)+uintptr(i)*descSize, x)
	}
	return descr{addr: guestBase + uint64(at), len: uint32(len(ds) * descSize), flags: descIndirect}
}

func (d *packedDriver) used() (Head, uint32, bool) {
	rest := d.span.Load64(descAt + uintptr(d.seen)*descSize + 8)
	flags := uint16(rest >> 48)
	if (flags&packedAvail != 0) != d.usedWrap || (flags&packedUsed != 0) != d.usedWrap {
		return 0, 0, false
	}
	h := Head(rest >> 32)
	d.seen += d.slots[h]
	if d.seen >= d.size {
		d.seen -= d.size
		d.usedWrap = !d.usedWrap
	}
	delete(d.slots, h)
	d.free = append(d.free, h)
	return h, uint32(rest), true
}

func (d *packedDriver) kicks() bool {
	old, oldWrap := int(d.kicked), d.kickWrap
	d.kicked, d.kickWrap = d.avail, d.availWrap
	v := d.span.Load32(deviceAt)
	switch v >> 16 & 3 {
	case 0:
		return true
	case 1:
		return false
	}
	ev := int(v & 0x7fff)
	if (v>>15&1 != 0) != d.availWrap {
		ev -= int(d.size)
	}
	// kickWrap starts false while availWrap starts true; only same-round
	// comparisons matter then.
	if oldWrap != d.availWrap && old != 0 {
		old -= int(d.size)
	}
	return ev >= old && ev < int(d.avail)
}

func (d *packedDriver) wantCall() {
	if !d.event {
		d.span.Store32(driverAt, 0)
		return
	}
	v := uint32(d.seen) | eventDesc<<16
	if d.usedWrap {
		v |= 1 << 15
	}
	d.span.Store32(driverAt, v)
}

func (d *packedDriver) noCall() { d.span.Store32(driverAt, eventDisable<<16) }

func (d *splitDriver) prepare(ds []descr, indirect bool) func() {
	if indirect {
		ds = []descr{d.table(dataAt, ds...)}
	}
	for i := range uint16(16) {
		for k, x := range ds {
			n := i*uint16(len(ds)) + uint16(k)
			if k+1 < len(ds) {
				x.flags |= descNext
				x.link = n + 1
			}
			d.put(descAt+uintptr(n)*descSize, x)
		}
	}
	step := uint16(len(ds))
	return func() { d.publish(Head(d.avail % 16 * step)) }
}

func (d *packedDriver) prepare(ds []descr, indirect bool) func() {
	if indirect {
		ds = []descr{d.table(dataAt, ds...)}
	}
	id := uint16(0)
	return func() {
		at, wrap := d.avail, d.availWrap
		var first descr
		for i, x := range ds {
			x.link = id
			if i+1 < len(ds) {
				x.flags |= descNext
			}
			if d.availWrap {
				x.flags |= packedAvail
			} else {
				x.flags |= packedUsed
			}
			if i == 0 {
				first = x
			} else {
				d.put(descAt+uintptr(d.avail)*descSize, x)
			}
			if d.avail++; d.avail == d.size {
				d.avail, d.availWrap = 0, !wrap
			}
		}
		d.put(descAt+uintptr(at)*descSize, first)
		id = (id + 1) % 16
	}
}

func (d *splitDriver) wantCallAfter(n uint16) {
	d.span.Put16(driverAt+4+2*uintptr(d.size), d.seen+n)
}

func (d *packedDriver) wantCallAfter(n uint16) {
	p := position{d.seen, d.usedWrap}
	p.advance(n, d.size)
	d.span.Store32(driverAt, p.encode()|eventDesc<<16)
}

func (d *splitDriver) descriptors(h Head) int  { return len(d.chains[h]) }
func (d *packedDriver) descriptors(h Head) int { return int(d.slots[h]) }

// dirtyLog returns a log for all of the guest and a function that returns the
// pages marked since its last call.
func (m *machine) dirtyLog() (*guestmem.DirtyLog, func() []uint64) {
	m.t.Helper()
	const size = (guestBase + ramSize) / 4096 / 8
	fd, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		m.t.Fatal(err)
	}
	bits, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { unix.Munmap(bits) })
	log, err := guestmem.NewDirtyLog(fd, 0, size)
	if err != nil {
		m.t.Fatal(err)
	}
	return log, func() (pages []uint64) {
		for i, b := range bits {
			for k := range 8 {
				if b>>k&1 != 0 {
					pages = append(pages, uint64(i*8+k))
				}
			}
			bits[i] = 0
		}
		return pages
	}
}

// mustBeUnmapped takes the memory away and checks that nobody holds it.
func (m *machine) mustBeUnmapped() {
	m.t.Helper()
	if err := m.mem.Replace(nil); err != nil {
		m.t.Fatal(err)
	}
	m.mem.Settle()
	if n := m.mappings(); n != 1 {
		m.t.Errorf("the guest's memory is mapped %d times, want only the driver's", n)
	}
}

// mappings returns how often this process has the guest's memory mapped.
func (m *machine) mappings() (n int) {
	m.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		m.t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == strconv.FormatUint(st.Ino, 10) && strings.Contains(f[5], "memfd:guest") {
			n++
		}
	}
	return n
}

// mustBeReleased closes q and checks that neither it nor a chain holds memory.
func (m *machine) mustBeReleased(q *Queue) {
	m.t.Helper()
	q.Close()
	m.mustBeUnmapped()
}

func (d *splitDriver) clone() driver {
	c := *d
	c.free, c.chains = slices.Clone(d.free), maps.Clone(d.chains)
	return &c
}

func (d *packedDriver) clone() driver {
	c := *d
	c.free, c.slots, c.added = slices.Clone(d.free), maps.Clone(d.slots), slices.Clone(d.added)
	return &c
}

func (d *splitDriver) order() map[Head]int {
	o := map[Head]int{}
	n := d.avail - d.seen
	for i := range n {
		h := Head(d.span.Load16(driverAt + 4 + 2*uintptr((d.seen+i)&(d.size-1))))
		o[h] = int(i)
	}
	return o
}

func (d *packedDriver) order() map[Head]int {
	o := map[Head]int{}
	i := 0
	for k, h := range d.added {
		// An id may have been used before.
		if d.slots[h] != 0 && !slices.Contains(d.added[k+1:], h) {
			o[h] = i
			i++
		}
	}
	return o
}

func (d *splitDriver) base() uint32 { return uint32(d.seen) }

func (d *packedDriver) base() uint32 {
	p := position{d.seen, d.usedWrap}.encode()
	return p | p<<16
}

func (m *machine) move(from, to, n uint32) { copy(m.ram[to:], m.ram[from:][:n]) }
