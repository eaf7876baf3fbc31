package virtqueue

import (
	"encoding/binary"
	"errors"
	"testing"
)

// The memory that a fuzz input fills: small, so that random addresses hit it.
// All of the ring lies in it, and what the chains point to.
const (
	fuzzSize   = 8
	fuzzDesc   = 0
	fuzzDriver = 0x80
	fuzzDevice = 0xc0
	fuzzTables = 0x140
	fuzzMemory = 0x400
	fuzzBase   = 0x1000
)

func FuzzSplitChain(f *testing.F)  { fuzzChains(f, split) }
func FuzzPackedChain(f *testing.F) { fuzzChains(f, packed) }

// fuzzChains has the device work on a ring whose bytes are the input, between
// which another one is laid after the first chains: the driver changes everything
// at any time. Nothing may panic, hang, or reach outside the memory.
func fuzzChains(f *testing.F, features uint64) {
	for _, seed := range fuzzSeeds(features) {
		f.Add(seed, uint8(0), uint32(0))
		f.Add(seed, uint8(0xff), uint32(3))
	}
	// One machine for all inputs: only its first bytes are used.
	m := newMachine(f)
	if err := m.mem.Replace(nil); err != nil {
		f.Fatal(err)
	}
	spec := m.region(0)
	spec.GuestAddr, spec.UserAddr, spec.Size = fuzzBase, fuzzBase, fuzzMemory
	if err := m.mem.Add(spec); err != nil {
		f.Fatal(err)
	}
	inflight := m.shared(fuzzSize, features)
	f.Fuzz(func(t *testing.T, memory []byte, how uint8, base uint32) {
		guard := m.ram[fuzzMemory:][:0x1000]
		clear(guard)
		clear(m.ram[:fuzzMemory])
		later := memory[min(len(memory), fuzzMemory):]
		copy(m.ram[:fuzzMemory], memory)
		cfg := Config{Size: fuzzSize, Mem: &m.mem, Features: features, Base: base,
			DescUser: fuzzBase + fuzzDesc, AvailUser: fuzzBase + fuzzDriver, UsedUser: fuzzBase + fuzzDevice}
		if how&1 != 0 {
			cfg.Features |= event
		}
		if how&2 != 0 {
			cfg.Features &^= FeatureIndirectDesc
		}
		if how&4 != 0 {
			clear(inflight)
			copy(inflight, later)
			cfg.Inflight = inflight
			cfg.Anew = how&64 != 0
		}
		q, err := New(cfg)
		if err != nil {
			return
		}
		defer q.Close()
		var kept []Head
		var buf [64]byte
		step := func(c *Chain, ok bool, err error) (more bool) {
			var bad *ChainError
			switch {
			case errors.As(err, &bad):
				q.PushHead(c.Head, 0)
				return true
			case err != nil:
				if !errors.Is(err, ErrRing) {
					t.Fatalf("error %v", err)
				}
				return false
			case !ok:
				return false
			}
			if n := c.In.Len() + c.Out.Len(); n == 0 || n > MaxChainBytes {
				t.Fatalf("a chain of %d bytes", n)
			}
			for c.In.Len() > 0 {
				if _, err := c.In.CopyOut(buf[:min(len(buf), c.In.Len())]); err != nil {
					t.Fatal(err)
				}
			}
			for c.Out.Len() > 0 && how&8 != 0 {
				if _, err := c.Out.CopyIn(buf[:min(len(buf), c.Out.Len())]); err != nil {
					t.Fatal(err)
				}
			}
			if how&16 != 0 && len(kept) < fuzzSize {
				kept = append(kept, c.Head)
				c.Release()
			} else {
				q.Push(c, 1)
			}
			return true
		}
		var c Chain
		for _, h := range q.Resubmit() {
			err := q.Restore(&c, h)
			if !step(&c, err == nil, err) {
				break
			}
		}
		for n := range 4 * fuzzSize {
			ok, err := q.Pop(&c)
			if !step(&c, ok, err) {
				break
			}
			if n == 2 {
				copy(m.ram[:fuzzMemory], later)
			}
			if how&32 != 0 {
				q.Flush()
			}
		}
		for _, h := range kept {
			q.PushHead(h, 2)
		}
		q.Flush()
		q.EnableNotify()
		q.DisableNotify()
		c.Release()
		cfg.Base, cfg.Previous, cfg.Anew = q.Base(), q, false
		q.Close()
		if next, err := New(cfg); err == nil {
			next.Pop(&c)
			c.Release()
			next.Close()
		} else if cfg.Inflight == nil {
			t.Fatalf("a ring can't go on where it stopped: %v", err)
		}
		for i, b := range guard {
			if b != 0 {
				t.Fatalf("byte %d behind the memory was written", i)
			}
		}
	})
}

// fuzzSeeds returns rings with a few chains of each kind.
func fuzzSeeds(features uint64) (seeds [][]byte) {
	le := binary.LittleEndian
	type d struct {
		addr        uint64
		n           uint32
		flags, link uint16
	}
	table := []d{{fuzzBase + fuzzTables, 16, descNext, 1}, {fuzzBase + 0x200, 64, descWrite, 0}}
	rings := [][]d{
		{{fuzzBase + 0x200, 40, descNext, 1}, {fuzzBase + 0x240, 16, descWrite, 0}, {fuzzBase + 0x280, 8, 0, 2}},
		{{fuzzBase + fuzzTables, 32, descIndirect, 0}, {fuzzBase + 0x3f0, 16, descNext, 0}},
		{{fuzzBase + 0x3f8, 16, 0, 0}},
		{{fuzzBase + 0x200, 8, descNext, 1}, {fuzzBase + 0x200, 8, descNext, 0}},
	}
	for _, ring := range rings {
		b := make([]byte, fuzzMemory)
		put := func(at int, x d) {
			le.PutUint64(b[at:], x.addr)
			le.PutUint32(b[at+8:], x.n)
			if features&FeatureRingPacked != 0 {
				le.PutUint16(b[at+12:], x.link)
				le.PutUint16(b[at+14:], x.flags|packedUsed)
			} else {
				le.PutUint16(b[at+12:], x.flags)
				le.PutUint16(b[at+14:], x.link)
			}
		}
		for i, x := range ring {
			put(i*descSize, x)
		}
		for i, x := range table {
			put(fuzzTables+i*descSize, x)
		}
		if features&FeatureRingPacked == 0 {
			le.PutUint16(b[fuzzDriver+2:], uint16(len(ring)))
			for i := range ring {
				le.PutUint16(b[fuzzDriver+4+2*i:], uint16(i))
			}
		}
		seeds = append(seeds, b, append(append([]byte{}, b...), make([]byte, 64)...))
	}
	return seeds
}
