package vhostuser

import (
	"fmt"
	"testing"
)

// wire is what the specification says of each request, written down a second
// time: payload bytes, descriptors, the protocol feature that it needs and
// whether it needs SET_OWNER. valid is a payload that the session accepts in the
// state that [ready] makes.
type wire struct {
	req      Request
	min, max int
	minFDs   int
	maxFDs   int
	needs    ProtocolFeatures
	owner    bool
	never    bool // belongs to a feature that is not offered
	ring     bool // names a ring
	file     bool // names it in the low byte of a u64
	reply    bool // has a reply of its own
	valid    func() []byte
}

var onePage = Region{GuestAddr: 0x100000, Size: 0x1000, UserAddr: 0x7f0000000000}

func inflightPayload(size uint64, queues, queueSize uint16) []byte {
	return append(inflightDesc{mmapSize: size, numQueues: queues, queueSize: queueSize}.append(nil), 0, 0, 0, 0)
}

func bytes(n int) func() []byte { return func() []byte { return make([]byte, n) } }

var wires = []wire{
	{req: GetFeatures, reply: true},
	{req: SetFeatures, min: 8, max: 8, valid: func() []byte { return u64(1<<32 | FeatureProtocolFeatures) }},
	{req: SetOwner},
	{req: ResetOwner},
	{req: SetMemTable, min: 8, max: 264, minFDs: 0, maxFDs: 8, owner: true, valid: func() []byte { return memTable() }},
	{req: SetLogBase, min: 16, max: 16, minFDs: 1, maxFDs: 1, needs: ProtocolLogShmFD, owner: true, reply: true, valid: func() []byte { return append(u64(4096), u64(0)...) }},
	{req: SetLogFD, min: 0, max: 8, minFDs: 1, maxFDs: 1, owner: true},
	{req: SetVringNum, min: 8, max: 8, owner: true, ring: true, valid: func() []byte { return state(1, 128) }},
	{req: SetVringAddr, min: 40, max: 40, owner: true, ring: true, valid: func() []byte { return addr(1, 0, 0, 0, 0, 0) }},
	{req: SetVringBase, min: 8, max: 8, owner: true, ring: true, valid: func() []byte { return state(1, 7) }},
	{req: GetVringBase, min: 8, max: 8, owner: true, ring: true, reply: true, valid: func() []byte { return state(1, 0) }},
	{req: SetVringKick, min: 8, max: 8, minFDs: 0, maxFDs: 1, owner: true, file: true, valid: func() []byte { return u64(1 | 1<<8) }},
	{req: SetVringCall, min: 8, max: 8, minFDs: 0, maxFDs: 1, owner: true, file: true, valid: func() []byte { return u64(1 | 1<<8) }},
	{req: SetVringErr, min: 8, max: 8, minFDs: 0, maxFDs: 1, owner: true, file: true, valid: func() []byte { return u64(1 | 1<<8) }},
	{req: GetProtocolFeatures, reply: true},
	{req: SetProtocolFeatures, min: 8, max: 8, valid: func() []byte { return u64(uint64(Supported)) }},
	{req: GetQueueNum, needs: ProtocolMQ, reply: true},
	{req: SetVringEnable, min: 8, max: 8, owner: true, ring: true, valid: func() []byte { return state(1, 1) }},
	{req: SendRARP, min: 8, max: 8, never: true},
	{req: NetSetMTU, min: 8, max: 8, never: true},
	{req: SetBackendReqFD, minFDs: 1, maxFDs: 1, needs: ProtocolBackendReq},
	{req: IOTLBMsg, min: 32, max: 32, never: true},
	{req: SetVringEndian, min: 8, max: 8, never: true},
	{req: GetConfig, min: 12, max: 268, needs: ProtocolConfig, reply: true, valid: bytes(12)},
	{req: SetConfig, min: 12, max: 268, needs: ProtocolConfig, valid: func() []byte { return configHead{0, 0, 1}.append(nil) }},
	{req: CreateCryptoSession, min: 0, max: 2056, never: true},
	{req: CloseCryptoSession, min: 8, max: 8, never: true},
	{req: PostcopyAdvise, never: true},
	{req: PostcopyListen, never: true},
	{req: PostcopyEnd, never: true},
	{req: GetInflightFD, min: 20, max: 24, needs: ProtocolInflightShmFD, reply: true, valid: func() []byte { return inflightPayload(0, 3, 128) }},
	{req: SetInflightFD, min: 20, max: 24, minFDs: 1, maxFDs: 1, needs: ProtocolInflightShmFD, valid: func() []byte { return inflightPayload(3*2112, 3, 128) }},
	{req: GPUSetSocket, minFDs: 1, maxFDs: 1, never: true},
	{req: ResetDevice, needs: ProtocolResetDevice},
	{req: VringKick, min: 8, max: 8, never: true},
	{req: GetMaxMemSlots, needs: ProtocolConfigureMemSlots, reply: true},
	{req: AddMemReg, min: 40, max: 40, minFDs: 1, maxFDs: 1, needs: ProtocolConfigureMemSlots, owner: true, valid: func() []byte { return memReg(onePage) }},
	{req: RemMemReg, min: 40, max: 40, minFDs: 0, maxFDs: 1, needs: ProtocolConfigureMemSlots, owner: true, valid: func() []byte { return memReg(onePage) }},
	{req: SetStatus, min: 8, max: 8, needs: ProtocolStatus, valid: bytes(8)},
	{req: GetStatus, needs: ProtocolStatus, reply: true},
	{req: GetSharedObject, min: 16, max: 16, never: true},
	{req: SetDeviceStateFD, min: 8, max: 8, minFDs: 1, maxFDs: 1, never: true},
	{req: CheckDeviceState, never: true},
	{req: GetShmemConfig, needs: ProtocolSHMEM, reply: true},
}

func (w *wire) payload() []byte {
	if w.valid == nil {
		return make([]byte, w.min)
	}
	return w.valid()
}

// descriptors returns n descriptors of a kind that the request can use.
func (w *wire) descriptors(t testing.TB, n int) []int {
	var fds []int
	for range n {
		switch w.req {
		case SetBackendReqFD:
			a, b := socketPair(t)
			t.Cleanup(func() { _ = a.Close() })
			f, err := b.File()
			if err != nil {
				t.Fatal(err)
			}
			_ = b.Close()
			t.Cleanup(func() { _ = f.Close() })
			fds = append(fds, int(f.Fd()))
		default:
			fds = append(fds, memfd(t, 1<<20))
		}
	}
	return fds
}

func TestEachRequestHasARule(t *testing.T) {
	seen := make(map[Request]bool)
	for _, w := range wires {
		seen[w.req] = true
		if rules[w.req].ownReply != w.reply && !w.never {
			t.Errorf("%v: own reply %t", w.req, rules[w.req].ownReply)
		}
	}
	for req := Request(1); req <= maxRequest; req++ {
		if !seen[req] {
			t.Errorf("%v is in no test", req)
		}
		if requestNames[req] == "" {
			t.Errorf("request %d has no name", req)
		}
	}
}

func TestRequestInItsPlaceIsServed(t *testing.T) {
	for _, w := range wires {
		if w.never {
			continue
		}
		t.Run(w.req.String(), func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.negotiate()
			if w.req == RemMemReg {
				p.must(AddMemReg, memReg(onePage), memfd(t, 1<<20))
			}
			fds := w.descriptors(t, w.minFDs)
			if w.reply {
				// NEED_REPLY changes nothing where there is a reply anyway.
				p.send(w.req, flagNeedReply, w.payload(), fds...)
				_, replied := p.receiveFDs(w.req)
				closeFDs(replied)
			} else {
				p.must(w.req, w.payload(), fds...)
			}
			p.askU64(GetFeatures)
			if err := p.close(); err != nil {
				t.Errorf("session ended with %v", err)
			}
		})
	}
}

func TestRequestOutOfBoundsEndsTheConnection(t *testing.T) {
	type breakage struct {
		name  string
		fault string
		setup func(p *peer)
		send  func(p *peer, w *wire)
	}
	full := func(p *peer) { p.negotiate() }
	fdCases := func(w wire) []breakage {
		var all []breakage
		for _, n := range []int{w.minFDs - 1, w.maxFDs + 1, 8, 9, 20} {
			if n < 0 || n >= w.minFDs && n <= w.maxFDs {
				continue
			}
			all = append(all, breakage{fmt.Sprintf("with %d descriptors", n), "file descriptors", full, func(p *peer, w *wire) {
				p.send(w.req, 0, w.payload(), w.descriptors(p.t, n)...)
			}})
		}
		return all
	}
	for _, w := range wires {
		var cases []breakage
		if w.never {
			cases = append(cases, breakage{"not offered", "", full, func(p *peer, w *wire) {
				p.send(w.req, 0, w.payload(), w.descriptors(p.t, w.minFDs)...)
			}})
		} else {
			cases = append(cases, fdCases(w)...)
		}
		sizes := []uint32{uint32(w.max + 1), 4096, 1 << 31, 0xffffffff}
		if w.min > 0 {
			sizes = append(sizes, uint32(w.min-1), 0)
		}
		for _, size := range sizes {
			cases = append(cases, breakage{fmt.Sprintf("payload of %d bytes", size), "payload of", full, func(p *peer, w *wire) {
				b := encode(w.req, 0, make([]byte, min(size, 512)))
				le.PutUint32(b[8:], size)
				p.sendBytes(b, w.descriptors(p.t, w.minFDs)...)
			}})
		}
		if w.needs != 0 {
			cases = append(cases, breakage{"feature not negotiated", "is not negotiated", func(p *peer) { p.negotiateWithout(w.needs) }, func(p *peer, w *wire) {
				p.send(w.req, 0, w.payload(), w.descriptors(p.t, w.minFDs)...)
			}})
		}
		if w.owner {
			cases = append(cases, breakage{"before SET_OWNER", "SET_OWNER has not come", func(p *peer) {
				p.askU64(GetFeatures)
				p.send(SetProtocolFeatures, 0, u64(p.askU64(GetProtocolFeatures)))
				p.send(SetFeatures, 0, u64(1<<32|FeatureProtocolFeatures))
			}, func(p *peer, w *wire) {
				p.send(w.req, 0, w.payload(), w.descriptors(p.t, w.minFDs)...)
			}})
		}
		for _, index := range []uint32{3, 255, 256, 1 << 31, 0xffffffff} {
			if w.ring {
				cases = append(cases, breakage{fmt.Sprintf("ring %d", index), "does not exist", full, func(p *peer, w *wire) {
					b := w.payload()
					le.PutUint32(b, index)
					p.send(w.req, 0, b)
				}})
			}
			if w.file && index < 256 {
				cases = append(cases, breakage{fmt.Sprintf("ring %d", index), "does not exist", full, func(p *peer, w *wire) {
					p.send(w.req, 0, u64(uint64(index)|vringNoFD))
				}})
			}
		}
		if w.file {
			cases = append(cases,
				breakage{"descriptor with no-fd flag", "no-fd flag true", full, func(p *peer, w *wire) { p.send(w.req, 0, u64(vringNoFD), eventfd(p.t)) }},
				breakage{"no descriptor without flag", "no-fd flag false", full, func(p *peer, w *wire) { p.send(w.req, 0, u64(0)) }},
				breakage{"reserved bits", "reserved bits", full, func(p *peer, w *wire) { p.send(w.req, 0, u64(1<<9|vringNoFD)) }},
			)
		}
		cases = append(cases,
			breakage{"version 0", "version 0", full, func(p *peer, w *wire) {
				b := encode(w.req, 0, w.payload())
				le.PutUint32(b[4:], 0)
				p.sendBytes(b, w.descriptors(p.t, w.minFDs)...)
			}},
			breakage{"reply flag", "reply flag", full, func(p *peer, w *wire) { p.send(w.req, flagReply, w.payload(), w.descriptors(p.t, w.minFDs)...) }},
			breakage{"unknown flag", "unknown flags", full, func(p *peer, w *wire) { p.send(w.req, 1<<4, w.payload(), w.descriptors(p.t, w.minFDs)...) }},
		)
		for _, c := range cases {
			t.Run(fmt.Sprintf("%v/%s", w.req, c.name), func(t *testing.T) {
				checkLeaks(t)
				p := start(t, newFakeDevice())
				c.setup(p)
				c.send(p, &w)
				p.breaks(w.req, c.fault)
			})
		}
	}
}

func TestUnknownRequestEndsTheConnection(t *testing.T) {
	for _, req := range []Request{0, 45, 46, 1 << 16, 0xffffffff} {
		t.Run(req.String(), func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.send(req, flagNeedReply, nil, memfd(t, 0))
			p.breaks(req, "unknown")
		})
	}
}
