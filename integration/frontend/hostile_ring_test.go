package frontend_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// rawGuest drives queue 1 by hand.
type rawGuest struct {
	t    *testing.T
	fe   *frontend.Frontend
	q    *frontend.Queue
	raw  frontend.Raw
	idx  uint16 // available index, or for a packed ring the next descriptor
	wrap bool
	mem  uint64 // 64 KiB for requests, tables and replies
}

const (
	reqAt   = 0x0000 // a GETATTR request
	replyAt = 0x1000
	tableAt = 0x2000
	getattr = 56
	attrOut = 120
)

func newRawGuest(t *testing.T, fe *frontend.Frontend) *rawGuest {
	mem, err := fe.Mem.Alloc(64<<10, frontend.PageSize)
	must(t, err)
	g := &rawGuest{t: t, fe: fe, q: fe.Queue(1), raw: fe.Queue(1).Raw(), mem: mem, wrap: true}
	g.request(getattr, 3, 2, 1)
	return g
}

// request writes the header of a request.
func (g *rawGuest) request(length, opcode uint32, unique, node uint64) {
	b := g.fe.Mem.Bytes(g.mem+reqAt, 4096)
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b, length)
	le.PutUint32(b[4:], opcode)
	le.PutUint64(b[8:], unique)
	le.PutUint64(b[16:], node)
}

func (g *rawGuest) status() int32 {
	return int32(binary.LittleEndian.Uint32(g.fe.Mem.Bytes(g.mem+replyAt+4, 4)))
}

// in and out are descriptors of the request and its reply.
func (g *rawGuest) in() frontend.Desc  { return frontend.Desc{Addr: g.mem + reqAt, Len: getattr} }
func (g *rawGuest) out() frontend.Desc { return g.write(g.mem+replyAt, attrOut) }

func (g *rawGuest) write(addr uint64, n uint32) frontend.Desc {
	return frontend.Desc{Addr: addr, Len: n, Flags: frontend.DescWrite}
}

// table writes an indirect table and gives the descriptor of it.
func (g *rawGuest) table(list ...frontend.Desc) frontend.Desc {
	g.chain(g.mem+tableAt, 0, list)
	return frontend.Desc{Addr: g.mem + tableAt, Len: uint32(16 * len(list)), Flags: frontend.DescIndirect}
}

// chain links descriptors from index first on.
func (g *rawGuest) chain(table uint64, first int, list []frontend.Desc) {
	for i, d := range list {
		if i < len(list)-1 {
			d.Flags |= frontend.DescNext
			if d.Next == 0 {
				d.Next = uint16(first + i + 1)
			}
		}
		g.raw.PutDesc(table, first+i, d)
	}
}

// submitSplit makes the chain at head available.
func (g *rawGuest) submitSplit(head uint16) {
	g.raw.PutAvail(int(g.idx), head)
	g.idx++
	g.raw.SetAvailIdx(g.idx)
	must(g.t, g.q.ForceKick())
}

func (g *rawGuest) completedSplit(d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		if g.raw.UsedIdx() == g.idx {
			return true
		}
	}
	return false
}

// what becomes of a chain
const (
	completes = iota // it comes back with an error or nothing, and the queue goes on
	stops            // the queue may stop: the head is not known
)

func TestBrokenChainsOfASplitRing(t *testing.T) {
	ours(t) // rust virtiofsd ends at the first
	outside := uint64(1) << 50
	cases := []struct {
		name  string
		fate  int
		build func(g *rawGuest) (head uint16)
	}{
		{"a loop of two", completes, func(g *rawGuest) uint16 {
			a, b := g.in(), g.in()
			a.Flags, a.Next, b.Flags, b.Next = frontend.DescNext, 1, frontend.DescNext, 0
			g.raw.PutDesc(g.q.DescGPA, 0, a)
			g.raw.PutDesc(g.q.DescGPA, 1, b)
			return 0
		}},
		{"a loop of one", completes, func(g *rawGuest) uint16 {
			a := g.in()
			a.Flags, a.Next = frontend.DescNext, 5
			g.raw.PutDesc(g.q.DescGPA, 5, a)
			return 5
		}},
		{"next is past the table", completes, func(g *rawGuest) uint16 {
			a := g.in()
			a.Flags, a.Next = frontend.DescNext, 60000
			g.raw.PutDesc(g.q.DescGPA, 0, a)
			return 0
		}},
		{"head is past the table", stops, func(g *rawGuest) uint16 { return 128 }},
		{"head is the largest number", stops, func(g *rawGuest) uint16 { return 65535 }},
		{"an empty descriptor", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem}, g.out()}
		})},
		{"all empty", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem}, g.write(g.mem, 0)}
		})},
		{"request outside memory", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: outside, Len: getattr}, g.out()}
		})},
		{"reply outside memory", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.in(), g.write(outside, attrOut)}
		})},
		{"request in a gap", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: 0xb0000, Len: getattr}, g.out()}
		})},
		{"request over the end of a region", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: 0xa0000 - 20, Len: getattr}, g.out()}
		})},
		{"address and length overflow", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: ^uint64(0) - 10, Len: getattr}, g.out()}
		})},
		{"4 GiB in one descriptor", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: 0, Len: ^uint32(0)}, g.out()}
		})},
		{"readable after writable", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.out(), g.in()}
		})},
		{"only writable", completes, direct(func(g *rawGuest) []frontend.Desc { return []frontend.Desc{g.out()} })},
		{"no room for a reply", completes, direct(func(g *rawGuest) []frontend.Desc { return []frontend.Desc{g.in()} })},
		{"15 bytes for a reply", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.in(), g.write(g.mem+replyAt, 15)}
		})},
		{"only a header for a reply", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.in(), g.write(g.mem+replyAt, 16)}
		})},
		{"a byte too few for a reply", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.in(), g.write(g.mem+replyAt, attrOut-1)}
		})},
		{"half a header", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem, Len: 20}, g.out()}
		})},
		{"a header and no body", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem, Len: 40}, g.out()}
		})},
		{"an indirect table of nothing", completes, direct(func(g *rawGuest) []frontend.Desc {
			d := g.table(g.in(), g.out())
			d.Len = 0
			return []frontend.Desc{d}
		})},
		{"an indirect table of 17 bytes", completes, direct(func(g *rawGuest) []frontend.Desc {
			d := g.table(g.in(), g.out())
			d.Len = 17
			return []frontend.Desc{d}
		})},
		{"an indirect table of 4 GiB", completes, direct(func(g *rawGuest) []frontend.Desc {
			d := g.table(g.in(), g.out())
			d.Len = ^uint32(15)
			return []frontend.Desc{d}
		})},
		{"an indirect table outside memory", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: outside, Len: 32, Flags: frontend.DescIndirect}}
		})},
		{"an indirect table over the end of a region", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: 0xa0000 - 16, Len: 32, Flags: frontend.DescIndirect}}
		})},
		{"an indirect table in an indirect table", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.table(frontend.Desc{Addr: g.mem + tableAt, Len: 32, Flags: frontend.DescIndirect}, g.out())}
		})},
		{"an indirect table that loops", completes, direct(func(g *rawGuest) []frontend.Desc {
			a := g.in()
			a.Flags = frontend.DescNext
			d := g.table(a, g.out())
			g.raw.PutDesc(g.mem+tableAt, 0, a) // next is 0
			return []frontend.Desc{d}
		})},
		{"an indirect table whose next is past it", completes, direct(func(g *rawGuest) []frontend.Desc {
			a := g.in()
			a.Flags, a.Next = frontend.DescNext, 2
			d := g.table(a, g.out())
			g.raw.PutDesc(g.mem+tableAt, 0, a)
			return []frontend.Desc{d}
		})},
		{"an indirect descriptor that has a next", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.table(g.in(), g.out()), g.out()}
		})},
		{"a writable indirect descriptor", completes, direct(func(g *rawGuest) []frontend.Desc {
			d := g.table(g.in(), g.out())
			d.Flags |= frontend.DescWrite
			return []frontend.Desc{d}
		})},
		{"a reply over the rings", stops, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{g.in(), g.write(g.q.DescGPA, attrOut)}
		})},
		{"a request that is the used ring", completes, direct(func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.q.UsedGPA, Len: 100}, g.out()}
		})},
		{"an available index that jumps", stops, func(g *rawGuest) uint16 { g.idx += 1000; return 0 }},
		{"an available index that goes back", stops, func(g *rawGuest) uint16 { g.idx -= 2; return 0 }},
	}
	d := daemontest.Start(t, t.TempDir())
	fe := daemontest.Connect(t, d, frontend.Options{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := newRawGuest(t, fe)
			g.init()
			g.submitSplit(c.build(g))
			done := g.completedSplit(time.Second)
			if c.fate == completes && !daemontest.Foreign() {
				if !done {
					t.Error("the chain did not come back")
				} else {
					g.expectReply("after the broken chain")
				}
			}
			must(t, fe.Reset())
			must(t, fe.Start())
			newRawGuest(t, fe).init()
			must(t, fe.Reset())
			must(t, fe.Start())
		})
		select {
		case <-d.Done():
			t.Fatalf("%s ended the daemon", c.name)
		default:
		}
	}
}

// direct puts a chain into the ring's own table.
func direct(list func(g *rawGuest) []frontend.Desc) func(g *rawGuest) uint16 {
	return func(g *rawGuest) uint16 {
		g.chain(g.q.DescGPA, 0, list(g))
		return 0
	}
}

// init does INIT and a GETATTR, so that the ring has been used.
func (g *rawGuest) init() {
	g.t.Helper()
	g.request(104, 26, 2, 0)
	copy(g.fe.Mem.Bytes(g.mem+40, 8), []byte{7, 0, 0, 0, 45})
	g.chain(g.q.DescGPA, 100, []frontend.Desc{{Addr: g.mem, Len: 104}, g.write(g.mem+replyAt, 80)})
	g.submitSplit(100)
	if !g.completedSplit(5 * time.Second) {
		g.t.Fatal("no reply to INIT")
	}
	g.expectReply("after INIT")
}

// expectReply sends a good request.
func (g *rawGuest) expectReply(when string) {
	g.t.Helper()
	g.request(getattr, 3, 4, 1)
	clear(g.fe.Mem.Bytes(g.mem+replyAt, attrOut))
	g.chain(g.q.DescGPA, 100, []frontend.Desc{g.in(), g.out()})
	g.submitSplit(100)
	if !g.completedSplit(5 * time.Second) {
		g.t.Errorf("no reply to a good request %s", when)
		return
	}
	if s := g.status(); s != 0 {
		g.t.Errorf("a good request %s failed: %v", when, unix.Errno(-s))
	}
	g.request(getattr, 3, 6, 1)
}

// TestGuestThatChangesWhatIsBeingRead writes to descriptors and headers while they are served.
func TestGuestThatChangesWhatIsBeingRead(t *testing.T) {
	ours(t) // rust virtiofsd ends
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			skipPacked(t, f.packed)
			d := daemontest.Start(t, t.TempDir(), "--thread-pool-size=2")
			fe, err := frontend.Open(d.Socket, frontend.Options{Packed: f.packed, KickOnStart: true})
			must(t, err)
			defer fe.Close()
			c := fuseclient.New(fe, fuseclient.Options{Polled: true, MaxData: 64 << 10})
			rnd := rand.New(rand.NewPCG(1, 2))
			var reqs []*fuseclient.Request
			for range 32 {
				r, err := c.Acquire(1)
				must(t, err)
				reqs = append(reqs, r)
			}
			ops := []fuseclient.Opcode{fuseclient.OpLookup, fuseclient.OpGetattr, fuseclient.OpCreate, fuseclient.OpWrite, fuseclient.OpRead,
				fuseclient.OpSymlink, fuseclient.OpRename, fuseclient.OpGetxattr, fuseclient.OpReaddirplus, fuseclient.OpInit, fuseclient.OpBatchForget}
			done := make([]*fuseclient.Request, 64)
			for round := 0; round < 300; round++ {
				for _, r := range reqs {
					r.Begin(ops[rnd.IntN(len(ops))], 1, root)
					r.SetArgs(8 + rnd.IntN(200))
					r.SendData(rnd.IntN(2) * 4096)
					r.ExpectData(rnd.IntN(3) * 4096)
					if r.Submit() != nil {
						break
					}
				}
				c.Kick(1)
				for range 200 { // while they are served
					r := reqs[rnd.IntN(len(reqs))]
					b := r.Args()
					b[rnd.IntN(256)] = byte(rnd.Uint32())
					r.Header().Length = rnd.Uint32N(1 << 16)
					r.Header().Opcode = rnd.Uint32N(60)
					desc := fe.Mem.Bytes(fe.Queue(1).DescGPA, 2048)
					if round%3 == 0 {
						desc[rnd.IntN(len(desc))] = byte(rnd.Uint32())
					}
				}
				c.Reap(1, done)
				if round%20 == 19 {
					must(t, fe.Reset())
					must(t, fe.Start())
				}
			}
			must(t, fe.Reset())
			must(t, fe.Start())
			select {
			case <-d.Done():
				t.Fatal("the daemon has ended")
			default:
			}
			after := fuseclient.New(fe, fuseclient.Options{})
			defer after.Close()
			must(t, after.Init())
			alive(t, after)
		})
	}
}

// TestBrokenChainsOfAPackedRing puts one broken chain into a fresh ring, and a good one behind it.
func TestBrokenChainsOfAPackedRing(t *testing.T) {
	ours(t)
	outside := uint64(1) << 50
	const next, indirect = frontend.DescNext, frontend.DescIndirect
	cases := []struct {
		name  string
		fate  int
		build func(g *rawGuest) []frontend.Desc
	}{
		{"request outside memory", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: outside, Len: getattr}, g.out()}
		}},
		{"readable after writable", completes, func(g *rawGuest) []frontend.Desc { return []frontend.Desc{g.out(), g.in()} }},
		{"empty descriptors", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem}, g.write(g.mem, 0)}
		}},
		{"no room for a reply", completes, func(g *rawGuest) []frontend.Desc { return []frontend.Desc{g.in()} }},
		{"an indirect table of 17 bytes", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem + tableAt, Len: 17, Flags: indirect}}
		}},
		{"an indirect table of nothing", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem + tableAt, Flags: indirect}}
		}},
		{"an indirect table of 4 GiB", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: g.mem + tableAt, Len: ^uint32(15), Flags: indirect}}
		}},
		{"an indirect table outside memory", completes, func(g *rawGuest) []frontend.Desc {
			return []frontend.Desc{{Addr: outside, Len: 32, Flags: indirect}}
		}},
		{"an indirect table in an indirect table", completes, func(g *rawGuest) []frontend.Desc {
			g.raw.PutDesc(g.mem+tableAt, 0, frontend.Desc{Addr: g.mem + tableAt, Len: 16, Flags: indirect})
			return []frontend.Desc{{Addr: g.mem + tableAt, Len: 16, Flags: indirect}}
		}},
		{"an indirect descriptor that has a next", completes, func(g *rawGuest) []frontend.Desc {
			g.raw.PutDesc(g.mem+tableAt, 0, g.in())
			return []frontend.Desc{{Addr: g.mem + tableAt, Len: 16, Flags: indirect}, g.out()}
		}},
		{"a chain as long as the ring", stops, func(g *rawGuest) []frontend.Desc {
			var list []frontend.Desc
			for range g.q.Size() {
				list = append(list, g.in())
			}
			list[len(list)-1].Flags = next // it goes on
			return list
		}},
		{"a chain whose end is not available yet", stops, func(g *rawGuest) []frontend.Desc {
			d := g.in()
			d.Flags = next
			return []frontend.Desc{d}
		}},
		{"an id past the ring", stops, func(g *rawGuest) []frontend.Desc {
			in, out := g.in(), g.out()
			in.ID, out.ID = 65535, 65535
			return []frontend.Desc{in, out}
		}},
	}
	d := daemontest.Start(t, t.TempDir())
	fe := daemontest.Connect(t, d, frontend.Options{Packed: true, QueueSize: 64})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := newRawGuest(t, fe)
			list := c.build(g)
			at := g.submitPacked(list)
			if c.fate == completes && !g.usedPacked(at, time.Second) {
				t.Error("the chain did not come back")
			} else if c.fate == completes {
				g.request(104, 26, 2, 0)
				copy(fe.Mem.Bytes(g.mem+40, 8), []byte{7, 0, 0, 0, 45})
				at = g.submitPacked([]frontend.Desc{{Addr: g.mem, Len: 104}, g.write(g.mem+replyAt, 80)})
				if !g.usedPacked(at, 5*time.Second) || g.status() != 0 {
					t.Errorf("a good request behind it: status %d", g.status())
				}
			} else {
				time.Sleep(20 * time.Millisecond)
			}
			must(t, fe.Reset())
			must(t, fe.Start())
		})
		select {
		case <-d.Done():
			t.Fatalf("%s ended the daemon", c.name)
		default:
		}
	}
	after := fuseclient.New(fe, fuseclient.Options{})
	defer after.Close()
	must(t, after.Init())
	alive(t, after)
}

// submitPacked writes a chain from the next descriptor on, and returns where it begins.
func (g *rawGuest) submitPacked(list []frontend.Desc) int {
	first := int(g.idx)
	for i, d := range list {
		d.Flags |= frontend.DescAvail
		if i < len(list)-1 {
			d.Flags |= frontend.DescNext
		}
		g.raw.PutDesc(g.q.DescGPA, first+i, d)
	}
	g.idx += uint16(len(list))
	must(g.t, g.q.ForceKick())
	return first
}

func (g *rawGuest) usedPacked(at int, d time.Duration) bool {
	const both = frontend.DescAvail | frontend.DescUsed
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		if g.raw.PackedFlags(at)&both == both {
			return true
		}
	}
	return false
}
