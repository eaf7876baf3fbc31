package virtqueue

import (
	"errors"
	"fmt"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// The guest's memory in these tests ends at guestBase+ramSize; a second region
// adjoins it, and a third lies behind a gap of one page.
const (
	nextBase = guestBase + ramSize
	nextSize = 0x2000
	gapBase  = nextBase + nextSize
	lastBase = gapBase + 0x1000
	lastSize = 0x1000

	// Both show parts of the same file from nextFile on.
	nextFile = 0x800000
)

func (m *machine) addRegions() {
	m.t.Helper()
	for _, r := range []struct{ gpa, size uint64 }{{nextBase, nextSize}, {lastBase, lastSize}} {
		spec := m.region(guestmem.RAM)
		spec.GuestAddr, spec.UserAddr, spec.Size = r.gpa, userBase-guestBase+r.gpa, r.size
		spec.MmapOffset = nextFile + r.gpa - nextBase
		if err := m.mem.Add(spec); err != nil {
			m.t.Fatal(err)
		}
	}
}

const maxAddr = ^uint64(0)

// TestBrokenChains has chains that any ring format can hold. Each is a ChainError
// that names its chain; then the ring goes on.
func TestBrokenChains(t *testing.T) {
	at := func(gpa uint64, n uint32, flags uint16) descr { return descr{addr: gpa, len: n, flags: flags} }
	good := in(dataAt, 16)
	table := uint32(dataAt + 0x1000)
	many := func(n int, d descr) (ds []descr) {
		for range n {
			ds = append(ds, d)
		}
		return ds
	}
	indirect := func(ds ...descr) func(d driver) []descr {
		return func(d driver) []descr { return []descr{d.table(table, ds...)} }
	}
	direct := func(ds ...descr) func(driver) []descr { return func(driver) []descr { return ds } }
	for _, x := range []struct {
		name  string
		chain func(d driver) []descr
		want  error // nil: it is served
		total int
	}{
		{"one byte at the end of memory", direct(at(lastBase+lastSize-1, 1, 0)), nil, 1},
		{"over two regions that adjoin", direct(at(nextBase-5, 10, 0)), nil, 10},
		{"from one region to the end of the next", direct(at(nextBase-5, 5+nextSize, 0)), nil, 5 + nextSize},
		{"into the gap", direct(at(gapBase-1, 2, 0)), errAddress, 0},
		{"in the gap", direct(at(gapBase+8, 8, 0)), errAddress, 0},
		{"over the gap", direct(at(gapBase-8, 0x1010, 0)), errAddress, 0},
		{"before memory", direct(at(guestBase-1, 2, 0)), errAddress, 0},
		{"behind memory", direct(at(lastBase+lastSize, 1, 0)), errAddress, 0},
		{"past the end of memory", direct(at(lastBase+lastSize-8, 9, 0)), errAddress, 0},
		{"at address 0", direct(at(0, 16, 0)), errAddress, 0},
		{"at the highest address", direct(at(maxAddr, 1, 0)), errAddress, 0},
		{"past the highest address", direct(at(maxAddr-7, 16, 0)), errAddress, 0},
		{"the largest length", direct(at(guestBase, 1<<32-1, 0)), errLength, 0},
		{"a length that is negative", direct(at(guestBase+16, 1<<31, 0)), errLength, 0},
		{"many that are too long together", direct(many(5, at(guestBase, ramSize, 0))...), errLength, 0},
		{"writable and outside", direct(good, at(gapBase, 1, descWrite)), errAddress, 0},
		{"an empty buffer alone", direct(in(dataAt, 0)), errEmpty, 0},
		{"an empty buffer at the end", direct(good, out(dataAt, 0)), errEmpty, 0},
		{"an empty buffer at no address", direct(good, at(maxAddr, 0, 0)), errEmpty, 0},
		{"readable after writable", direct(good, out(dataAt, 8), in(dataAt, 8)), errOrder, 0},
		{"readable after writable in a table", indirect(good, out(dataAt, 8), in(dataAt, 8)), errOrder, 0},
		{"only writable", direct(out(dataAt, 8), out(dataAt, 9)), nil, 17},
		{"the same buffer all over", direct(many(8, good)...), nil, 128},

		{"a table of one", indirect(good), nil, 16},
		{"a table that crosses pages", func(d driver) []descr {
			return []descr{d.table(dataAt+0xff8, many(5, good)...)}
		}, nil, 80},
		{"a table in two regions", func(d driver) []descr {
			// Written in one piece, and then its end moved to where the
			// second region shows it.
			x := d.table(nextFile-16, good, good)
			d.move(nextFile-16, ramSize-16, 16)
			x.addr = nextBase - 16
			return []descr{x}
		}, nil, 32},
		{"a table of length 0", direct(at(guestBase+dataAt, 0, descIndirect)), errIndirect, 0},
		{"a table of half a descriptor", direct(at(guestBase+dataAt, 8, descIndirect)), errIndirect, 0},
		{"a table of one and a half", direct(at(guestBase+dataAt, 24, descIndirect)), errIndirect, 0},
		{"a table of the largest length", direct(at(guestBase+dataAt, 1<<32-1, descIndirect)), errIndirect, 0},
		{"a table in the gap", direct(at(gapBase, 16, descIndirect)), errAddress, 0},
		{"a table into the gap", func(d driver) []descr {
			x := d.table(nextFile+nextSize-32, many(3, good)...)
			x.addr = gapBase - 32
			return []descr{x}
		}, errAddress, 0},
		{"a table past the highest address", direct(at(maxAddr-15, 32, descIndirect)), errAddress, 0},
		{"a table in a table", indirect(at(guestBase+dataAt, 16, descIndirect)), errNested, 0},
		{"a table in a table, behind a good one", indirect(good, at(guestBase+dataAt, 16, descIndirect)), errNested, 0},
		{"an empty buffer in a table", indirect(good, in(dataAt, 0)), errEmpty, 0},
		{"outside memory in a table", indirect(good, at(gapBase, 8, 0)), errAddress, 0},
		{"too many bytes in a table", indirect(many(5, at(guestBase, ramSize, 0))...), errLength, 0},
		{"as many in a table as the limit", indirect(many(minChain, good)...), nil, minChain * 16},
		{"more in a table than the limit", indirect(many(minChain+1, good)...), errLoop, 0},
		{"a writable table", func(d driver) []descr {
			x := d.table(table, good)
			x.flags |= descWrite
			return []descr{x}
		}, nil, 16},
		{"a table in a chain", func(d driver) []descr {
			return []descr{d.table(table, good), good}
		}, errIndirect, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			eachFormat(t, func(t *testing.T, features uint64) {
				m := newMachine(t)
				m.addRegions()
				d, q := m.driver(8, features), m.queue(m.config(8, features))
				var c Chain
				for range 5 {
					h := d.add(x.chain(d)...)
					ok, err := q.Pop(&c)
					if ok != (x.want == nil) || err != x.want {
						t.Fatalf("pop: %v, %v; want %v", ok, err, x.want)
					}
					if c.Head != h {
						t.Fatalf("the chain is %d, not %d", c.Head, h)
					}
					if n := c.In.Len() + c.Out.Len(); ok && n != x.total {
						t.Fatalf("it has %d bytes, want %d", n, x.total)
					}
					q.Push(&c, 0)
					q.Flush()
					if u, n, ok := d.used(); !ok || u != h || n != 0 {
						t.Fatalf("used %d, %d, %v", u, n, ok)
					}
				}
				m.mustBeReleased(q)
			})
		})
	}
}

// TestBrokenSplitChains has what only a split ring can hold.
func TestBrokenSplitChains(t *testing.T) {
	const size = 8
	next := func(d descr, link uint16) descr {
		d.flags |= descNext
		d.link = link
		return d
	}
	good := in(dataAt, 16)
	for _, x := range []struct {
		name  string
		descs map[uint16]descr // from 0 on
		table []descr
		want  error
	}{
		{"a loop of one", map[uint16]descr{0: next(good, 0)}, nil, errLoop},
		{"a loop of two", map[uint16]descr{0: next(good, 1), 1: next(good, 0)}, nil, errLoop},
		{"a loop behind the head", map[uint16]descr{0: next(good, 1), 1: next(good, 2), 2: next(good, 1)}, nil, errLoop},
		{"a next index of the size", map[uint16]descr{0: next(good, size)}, nil, errNext},
		{"the largest next index", map[uint16]descr{0: next(good, 65535)}, nil, errNext},
		{"a table with a next", map[uint16]descr{0: next(descr{addr: guestBase + dataAt, len: 16, flags: descIndirect}, 1), 1: good}, nil, errIndirect},
		{"a table that loops", nil, []descr{next(good, 1), next(good, 0)}, errLoop},
		{"a table that loops at once", nil, []descr{next(good, 0)}, errLoop},
		{"a table whose next is behind it", nil, []descr{next(good, 2), good}, errNext},
		{"a table with the largest next", nil, []descr{next(good, 65535), good}, errNext},
		{"a table that is walked backwards", nil, []descr{next(good, 2), good, next(good, 1)}, nil},
		{"a table of which one is used", nil, []descr{good, next(good, 65535)}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newMachine(t)
			d := m.driver(size, split).(*splitDriver)
			q := m.queue(m.config(size, split))
			for i, e := range x.descs {
				d.put(uintptr(i)*descSize, e)
			}
			if x.table != nil {
				for i, e := range x.table {
					d.put(dataAt+0x1000+uintptr(i)*descSize, e)
				}
				d.put(0, descr{addr: guestBase + dataAt + 0x1000, len: uint32(16 * len(x.table)), flags: descIndirect})
			}
			d.publish(0)
			var c Chain
			ok, err := q.Pop(&c)
			if ok != (x.want == nil) || err != x.want {
				t.Fatalf("pop: %v, %v; want %v", ok, err, x.want)
			}
			c.Release()
			m.mustBeReleased(q)
		})
	}
}

// TestIndirectWithoutTheFeature checks that tables need the feature.
func TestIndirectWithoutTheFeature(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		features &^= FeatureIndirectDesc
		m := newMachine(t)
		d, q := m.driver(8, features), m.queue(m.config(8, features))
		d.add(d.table(dataAt, in(dataAt, 8)))
		if _, err := q.Pop(new(Chain)); err != errNoFeature {
			t.Fatal(err)
		}
	})
}

// TestBrokenRings has rings that can't go on. The queue says so, each time it is
// asked, and holds no memory for it.
func TestBrokenRings(t *testing.T) {
	const size = 8
	for _, x := range []struct {
		name     string
		features uint64
		act      func(m *machine, d driver, q *Queue)
	}{
		{"the available index jumps", split, func(m *machine, d driver, q *Queue) {
			m.span.Put16(driverAt+2, size+1)
		}},
		{"the available index goes back", split, func(m *machine, d driver, q *Queue) {
			m.span.Put16(driverAt+2, 65535)
		}},
		{"a head of the size", split, func(m *machine, d driver, q *Queue) {
			d.(*splitDriver).publish(size)
		}},
		{"the largest head", split, func(m *machine, d driver, q *Queue) {
			d.(*splitDriver).publish(65535)
		}},
		{"the same head twice", split, func(m *machine, d driver, q *Queue) {
			h := d.add(in(dataAt, 8))
			d.(*splitDriver).publish(h)
			var c Chain
			mustPop(m.t, q, &c)
			c.Release()
		}},
		{"more available than the ring has", split, func(m *machine, d driver, q *Queue) {
			for range size {
				d.add(in(dataAt, 8))
			}
			var c Chain
			for range size {
				mustPop(m.t, q, &c)
			}
			c.Release()
			d.(*splitDriver).publish(3)
		}},
		{"a packed chain without an end", packed, func(m *machine, d driver, q *Queue) {
			ds := make([]descr, size)
			for i := range ds {
				ds[i] = in(dataAt, 8)
				ds[i].flags |= descNext
			}
			d.(*packedDriver).write(ds...)
		}},
		{"a buffer id of the size", packed, func(m *machine, d driver, q *Queue) {
			x := in(dataAt, 8)
			x.link = size
			d.(*packedDriver).write(x)
		}},
		{"the same buffer id twice", packed, func(m *machine, d driver, q *Queue) {
			d.(*packedDriver).write(in(dataAt, 8), in(dataAt, 8))
			var c Chain
			mustPop(m.t, q, &c)
			c.Release()
		}},
		{"more packed descriptors than the ring has", packed, func(m *machine, d driver, q *Queue) {
			var c Chain
			for i := range 5 {
				a, b := in(dataAt, 8), in(dataAt, 8)
				a.flags |= descNext
				b.link = uint16(i)
				d.(*packedDriver).write(a, b)
				if i < 4 {
					mustPop(m.t, q, &c)
				}
			}
			c.Release()
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := newMachine(t)
			d := m.driver(size, x.features)
			q := m.queue(m.config(size, x.features))
			x.act(m, d, q)
			for range 3 {
				ok, err := q.Pop(new(Chain))
				if ok || !errors.Is(err, ErrRing) {
					t.Fatalf("pop: %v, %v", ok, err)
				}
			}
			if !q.Pending() || !q.EnableNotify() {
				t.Error("a waiting caller would not find out")
			}
			q.DisableNotify()
			q.PushHead(0, 1)
			if q.Flush() {
				t.Error("a broken ring is flushed")
			}
			m.mustBeReleased(q)
		})
	}
}

// TestPackedTableIgnoresNext has a packed table with flags that mean nothing.
func TestPackedTableIgnoresNext(t *testing.T) {
	m := newMachine(t)
	d, q := m.driver(8, packed), m.queue(m.config(8, packed))
	a := in(dataAt, 8)
	a.flags |= descNext | packedAvail | packedUsed
	a.link = 65535
	d.add(d.table(dataAt+0x1000, a, a, out(dataAt, 4)))
	var c Chain
	mustPop(t, q, &c)
	if c.In.Len() != 16 || c.Out.Len() != 4 {
		t.Fatalf("%d and %d bytes", c.In.Len(), c.Out.Len())
	}
	c.Release()
}

// TestDescriptorsChangeAfterPop checks that what was popped does not change with
// the ring.
func TestDescriptorsChangeAfterPop(t *testing.T) {
	eachFormat(t, func(t *testing.T, features uint64) {
		for _, indirect := range []bool{false, true} {
			t.Run(fmt.Sprint("indirect=", indirect), func(t *testing.T) {
				m := newMachine(t)
				d, q := m.driver(8, features), m.queue(m.config(8, features))
				ds, sent := m.request(1, 2)
				if indirect {
					ds = []descr{d.table(dataAt, ds...)}
				}
				h := d.add(ds...)
				var c Chain
				mustPop(t, q, &c)
				for i := range uint32(0x1000) {
					m.ram[descAt+i], m.ram[dataAt+i] = 0xff, 0xff
				}
				serve(t, &c, sent)
				q.Push(&c, 9)
				q.Flush()
				if u, n, ok := d.used(); !ok || u != h || n != 9 {
					t.Fatalf("used %d, %d, %v", u, n, ok)
				}
			})
		}
	})
}
