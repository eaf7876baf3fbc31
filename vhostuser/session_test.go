package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFeaturesOffered(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	if got, want := p.askU64(GetFeatures), uint64(testFeatures|1<<26|1<<30); got != want {
		t.Errorf("features %#x, want %#x", got, want)
	}
	// MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, BACKEND_SEND_FD,
	// INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS, SHMEM.
	want := uint64(1<<0 | 1<<1 | 1<<3 | 1<<5 | 1<<9 | 1<<10 | 1<<12 | 1<<13 | 1<<15 | 1<<16 | 1<<22)
	if got := p.askU64(GetProtocolFeatures); got != want {
		t.Errorf("protocol features %v, want %v", ProtocolFeatures(got), ProtocolFeatures(want))
	}
}

func TestQueueNumIsThatOfTheDevice(t *testing.T) {
	dev := newFakeDevice()
	dev.queues = 65
	p := start(t, dev)
	p.negotiate()
	if n := p.askU64(GetQueueNum); n != 65 {
		t.Errorf("%d queues", n)
	}
	p.must(SetVringNum, state(64, 128))
}

func TestFeaturesFollowTheDevice(t *testing.T) {
	dev := newFakeDevice()
	dev.shmem = nil
	dev.protocol = ^ProtocolFeatures(0) &^ (ProtocolConfig | ProtocolLogShmFD)
	dev.features = ^uint64(0)
	p := start(t, dev)
	if got := p.askU64(GetFeatures); got != ^uint64(1<<26|1<<33) {
		t.Errorf("features %#x; without LOG_SHMFD there is no LOG_ALL, and never an IOMMU", got)
	}
	want := Supported &^ (ProtocolConfig | ProtocolLogShmFD)
	if got := ProtocolFeatures(p.askU64(GetProtocolFeatures)); got != want {
		t.Errorf("protocol features %v, want %v", got, want)
	}
}

func TestFeaturesNotOfferedEndTheConnection(t *testing.T) {
	t.Run("virtio", func(t *testing.T) {
		p := start(t, newFakeDevice())
		p.negotiate()
		p.send(SetFeatures, 0, u64(1<<40))
		p.breaks(SetFeatures, "0x10000000000 were not offered")
	})
	t.Run("protocol", func(t *testing.T) {
		p := start(t, newFakeDevice())
		p.send(SetProtocolFeatures, 0, u64(1<<19|1<<50))
		p.breaks(SetProtocolFeatures, "DEVICE_STATE|bit 50 were not offered")
	})
}

func TestReplyAck(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	// Before REPLY_ACK is negotiated, the message that does so included, there
	// are no replies, and the next reply is that of GET_FEATURES.
	p.send(SetOwner, flagNeedReply, nil)
	p.send(SetProtocolFeatures, flagNeedReply, u64(p.askU64(GetProtocolFeatures)))
	p.send(SetStatus, 0, u64(1))
	p.must(SetStatus, u64(2))
	p.must(SetFeatures, u64(1<<32|FeatureProtocolFeatures))
	// What the host refuses is answered with 1 and the connection goes on.
	p.refused(SetConfig, append(configHead{0, 1, 0}.append(nil), 'x'))
	p.refused(RemMemReg, memReg(onePage))
	p.refused(AddMemReg, memReg(onePage), eventfd(t))
	p.refused(SetBackendReqFD, nil, memfd(t, 0))
	if got := p.askU64(GetStatus); got != 2 {
		t.Errorf("status %d", got)
	}
	// Refusals that nobody asks about are only logged.
	p.send(RemMemReg, 0, memReg(onePage))
	p.askU64(GetFeatures)
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// startUp is the sequence that QEMU 11 sends, with REPLY_ACK where it uses it.
type startUp struct {
	req   Request
	reply bool
	own   bool
	bytes []byte
	fds   []int
}

// twoQueues is the start of a device with two queues, split rings.
func twoQueues(t testing.TB) []startUp {
	ram := memfd(t, 2<<20)
	backend, theirs := socketPair(t)
	t.Cleanup(func() { _ = backend.Close() })
	f, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Cleanup(func() { _ = f.Close() })
	steps := []startUp{
		{req: GetFeatures, own: true},
		{req: GetProtocolFeatures, own: true},
		{req: SetProtocolFeatures, bytes: u64(uint64(Supported | ProtocolSHMEM))},
		{req: GetQueueNum, own: true},
		{req: GetMaxMemSlots, own: true},
		{req: SetBackendReqFD, reply: true, fds: []int{int(f.Fd())}},
		{req: SetOwner},
		{req: GetFeatures, own: true},
		{req: SetVringCall, bytes: u64(0), fds: []int{eventfd(t)}},
		{req: SetVringCall, bytes: u64(1), fds: []int{eventfd(t)}},
		{req: GetShmemConfig, own: true},
		{req: GetConfig, own: true, bytes: append(configHead{0, 44, 0}.append(nil), make([]byte, 44)...)},
		{req: SetFeatures, bytes: u64(1<<32 | 1<<28 | FeatureProtocolFeatures)},
		{req: AddMemReg, reply: true, bytes: memReg(Region{0, 1 << 20, 0x7f0000000000, 0}), fds: []int{ram}},
		{req: AddMemReg, reply: true, bytes: memReg(Region{1 << 32, 1 << 20, 0x7f0000100000, 1 << 20}), fds: []int{ram}},
	}
	for i := range uint32(2) {
		base := 0x7f0000000000 + uint64(i)*0x10000
		steps = append(steps,
			startUp{req: SetVringNum, bytes: state(i, 128)},
			startUp{req: SetVringBase, bytes: state(i, 0)},
			startUp{req: SetVringAddr, bytes: addr(i, 0, base, base+0x2000, base+0x1000, 0)},
			startUp{req: SetVringKick, bytes: u64(uint64(i)), fds: []int{eventfd(t)}},
			startUp{req: SetVringCall, bytes: u64(uint64(i)), fds: []int{eventfd(t)}},
		)
	}
	return append(steps,
		startUp{req: SetVringEnable, reply: true, bytes: state(0, 1)},
		startUp{req: SetVringEnable, reply: true, bytes: state(1, 1)},
	)
}

func (p *peer) step(s startUp) {
	p.t.Helper()
	switch {
	case s.own:
		p.ask(s.req, s.bytes, s.fds...)
	case s.reply:
		p.must(s.req, s.bytes, s.fds...)
	default:
		p.send(s.req, 0, s.bytes, s.fds...)
	}
}

func (p *peer) startUp() {
	p.t.Helper()
	for _, s := range twoQueues(p.t) {
		p.step(s)
	}
}

func TestStartUpSequenceOfQEMU(t *testing.T) {
	checkLeaks(t)
	dev := newFakeDevice()
	p := start(t, dev)
	p.startUp()
	p.called(
		"BackendChannel", "SetCall 0 true", "SetCall 1 true", "SetFeatures 0x110000000",
		"RegionAdded 0x0", "RegionAdded 0x100000000",
		"StartRing 0", "SetCall 0 true", "StartRing 1", "SetCall 1 true",
		"EnableRing 0 true", "EnableRing 1 true",
	)
	r := dev.ring(1)
	if r.Size != 128 || r.Desc != 0x7f0000010000 || r.Avail != 0x7f0000011000 || r.Used != 0x7f0000012000 ||
		r.Base != 0 || r.Kick < 0 || r.Enabled || r.Log || r.Features != 0x110000000 || r.Inflight != nil || r.Mem == nil {
		t.Errorf("ring %+v", r)
	}
	// A paused virtual machine stops the rings and starts them again.
	for i := range uint32(2) {
		p.send(SetVringEnable, 0, state(i, 0))
	}
	for i := range uint32(2) {
		if got := decodeVringState(p.ask(GetVringBase, state(i, 0))); got != (vringState{i, 5}) {
			t.Errorf("base %v", got)
		}
	}
	p.must(SetStatus, u64(0))
	p.called("EnableRing 0 false", "EnableRing 1 false", "StopRing 0", "StopRing 1")
	p.send(SetVringKick, 0, u64(0), eventfd(t))
	p.must(SetVringEnable, state(0, 1))
	p.called("StartRing 0", "EnableRing 0 true")
	if dev.ring(0).Base != 5 {
		t.Errorf("ring restarts at %d", dev.ring(0).Base)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if got, want := dev.take(), []string{"StopRing 0", "Closed"}; !slices.Equal(got, want) {
		t.Errorf("at the end %q, want %q", got, want)
	}
}

func TestDisconnectAtEachStepOfStartUp(t *testing.T) {
	steps := len(twoQueues(t))
	for n := range steps + 1 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			for _, s := range twoQueues(t)[:n] {
				p.step(s)
			}
			if err := p.close(); err != nil {
				t.Errorf("session ended with %v", err)
			}
			if calls := p.dev.take(); calls[len(calls)-1] != "Closed" {
				t.Errorf("last call %q", calls)
			}
		})
	}
}

func TestDisconnectWithinEachMessageOfStartUp(t *testing.T) {
	steps := len(twoQueues(t))
	for n := range steps {
		for _, part := range []int{1, 11, 12, 13} {
			t.Run(fmt.Sprintf("%d after %d bytes", n, part), func(t *testing.T) {
				checkLeaks(t)
				p := start(t, newFakeDevice())
				all := twoQueues(t)
				for _, s := range all[:n] {
					p.step(s)
				}
				b := encode(all[n].req, 0, all[n].bytes)
				if part >= len(b) {
					return
				}
				p.sendBytes(b[:part], all[n].fds...)
				var broken *ProtocolError
				if err := p.close(); !errors.As(err, &broken) {
					t.Errorf("session ended with %v", err)
				}
			})
		}
	}
}

func TestContextEndsTheSession(t *testing.T) {
	steps := len(twoQueues(t))
	for n := range steps + 1 {
		checkLeaks(t)
		ctx, cancel := context.WithCancel(context.Background())
		p := startContext(t, ctx, newFakeDevice())
		for _, s := range twoQueues(t)[:n] {
			p.step(s)
		}
		cancel()
		if err := p.wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("session ended with %v", err)
		}
	}
}

func TestMessagesArriveByteByByte(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	for _, s := range twoQueues(t) {
		flags := uint32(0)
		if s.reply {
			flags = flagNeedReply
		}
		b := encode(s.req, flags, s.bytes)
		p.sendBytes(b[:1], s.fds...)
		for i := 1; i < len(b); i++ {
			p.sendBytes(b[i : i+1])
		}
		if s.own || s.reply {
			p.receive(s.req)
		}
	}
	if calls := p.take(); len(calls) != 12 {
		t.Errorf("%d device calls: %q", len(calls), calls)
	}
}

func TestManyMessagesInOneWrite(t *testing.T) {
	p := start(t, newFakeDevice())
	p.negotiate()
	var b []byte
	for i := range uint32(50) {
		b = append(b, encode(SetVringBase, 0, state(i%3, i))...)
	}
	p.sendBytes(append(b, encode(GetVringBase, 0, state(1, 0))...))
	if got := decodeVringState(p.receive(GetVringBase)); got != (vringState{1, 49}) {
		t.Errorf("base %v", got)
	}
}

func TestLateDescriptorsEndTheConnection(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	p.negotiate()
	b := encode(SetVringBase, 0, state(0, 0))
	p.sendBytes(b[:12])
	p.sendBytes(b[12:], eventfd(t))
	p.breaks(SetVringBase, "after the message's first bytes")
}

func TestRingLifeCycle(t *testing.T) {
	ready := func(t *testing.T) (*peer, *fakeDevice) {
		checkLeaks(t)
		dev := newFakeDevice()
		p := start(t, dev)
		p.negotiate()
		p.take()
		return p, dev
	}
	vring := func(p *peer) {
		p.send(SetVringNum, 0, state(0, 64))
		p.send(SetVringAddr, 0, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
	}
	t.Run("starts with the last of size, addresses and kick", func(t *testing.T) {
		p, _ := ready(t)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
		p.called()
		p.must(SetVringNum, state(0, 64))
		p.called("StartRing 0")
	})
	t.Run("enabled before it starts", func(t *testing.T) {
		p, dev := ready(t)
		vring(p)
		p.must(SetVringEnable, state(0, 1))
		p.called()
		p.must(SetVringKick, u64(0), eventfd(t))
		p.called("StartRing 0")
		if !dev.ring(0).Enabled {
			t.Error("ring is not enabled")
		}
	})
	t.Run("polled without a kick descriptor", func(t *testing.T) {
		p, dev := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0|vringNoFD))
		p.called("StartRing 0")
		if dev.ring(0).Kick != -1 {
			t.Errorf("kick %d", dev.ring(0).Kick)
		}
	})
	t.Run("enabled at once without protocol features", func(t *testing.T) {
		p, dev := ready(t)
		p.must(SetFeatures, u64(1<<32))
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.called("SetFeatures 0x100000000", "StartRing 0")
		if !dev.ring(0).Enabled {
			t.Error("ring is not enabled")
		}
	})
	t.Run("running ring enabled by features without protocol features", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetFeatures, u64(1<<32))
		p.called("StartRing 0", "SetFeatures 0x100000000", "EnableRing 0 true")
	})
	t.Run("kick replaced while it runs", func(t *testing.T) {
		p, dev := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringKick, u64(0), eventfd(t))
		p.called("StartRing 0", "StopRing 0", "StartRing 0")
		if dev.ring(0).Base != 5 {
			t.Errorf("goes on at %d", dev.ring(0).Base)
		}
	})
	t.Run("call and err replaced while it runs", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringCall, u64(0), eventfd(t))
		p.must(SetVringCall, u64(0|vringNoFD))
		p.must(SetVringErr, u64(0), eventfd(t))
		p.called("StartRing 0", "SetCall 0 true", "SetCall 0 false", "SetErr 0 true")
	})
	t.Run("does not start after a stop without a new kick", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.ask(GetVringBase, state(0, 0))
		vring(p)
		p.must(SetVringEnable, state(0, 1))
		p.called("StartRing 0", "StopRing 0")
	})
	t.Run("stopped ring keeps the base it was given", func(t *testing.T) {
		p, _ := ready(t)
		p.must(SetVringBase, state(2, 0x80058007))
		if got := decodeVringState(p.ask(GetVringBase, state(2, 0))); got != (vringState{2, 0x80058007}) {
			t.Errorf("base %v", got)
		}
	})
	t.Run("failure to start is told when it is enabled", func(t *testing.T) {
		p, dev := ready(t)
		dev.set(func() { dev.failStart = errors.New("addresses are not in memory") })
		vring(p)
		p.send(SetVringKick, 0, u64(0), eventfd(t))
		p.refused(SetVringEnable, state(0, 1))
		dev.set(func() { dev.failStart = nil })
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringEnable, state(0, 1))
		p.called("StartRing 0", "StartRing 0", "EnableRing 0 true")
	})
	t.Run("failure to start is forgotten at a stop", func(t *testing.T) {
		p, dev := ready(t)
		dev.set(func() { dev.failStart = errors.New("addresses are not in memory") })
		vring(p)
		p.refused(SetVringKick, u64(0), eventfd(t))
		p.ask(GetVringBase, state(0, 0))
		p.must(SetVringEnable, state(0, 1))
		p.called("StartRing 0")
	})
	t.Run("failure to enable is told", func(t *testing.T) {
		p, dev := ready(t)
		dev.set(func() { dev.failEnable = errors.New("no thread") })
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.refused(SetVringEnable, state(0, 1))
	})
	t.Run("reset owner disables", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringEnable, state(0, 1))
		p.must(ResetOwner, nil)
		p.called("StartRing 0", "EnableRing 0 true", "EnableRing 0 false")
	})
	t.Run("reset device stops and forgets", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		p.must(SetVringBase, state(1, 9))
		p.must(SetVringKick, u64(0), eventfd(t))
		p.must(SetVringKick, u64(1), eventfd(t))
		p.must(SetVringEnable, state(0, 1))
		p.must(SetStatus, u64(15))
		p.must(ResetDevice, nil)
		p.called("StartRing 0", "EnableRing 0 true", "StopRing 0", "Reset")
		if got := p.askU64(GetStatus); got != 0 {
			t.Errorf("status %d", got)
		}
		if got := decodeVringState(p.ask(GetVringBase, state(1, 0))); got.num != 0 {
			t.Errorf("base %d", got.num)
		}
		p.must(SetVringKick, u64(0), eventfd(t))
		p.called()
	})
	t.Run("stops and starts any number of times", func(t *testing.T) {
		p, _ := ready(t)
		vring(p)
		for n := range uint32(100) {
			p.must(SetVringKick, u64(0), eventfd(t))
			if got := decodeVringState(p.ask(GetVringBase, state(0, 0))); got.num != 5*(n+1) {
				t.Fatalf("base %d at round %d", got.num, n)
			}
		}
	})
}

func TestRunningRingRefusesChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		req     Request
		payload []byte
		fds     int
		fault   string
	}{
		{"size", SetVringNum, state(0, 64), 0, "ring 0 is running"},
		{"base", SetVringBase, state(0, 64), 0, "ring 0 is running"},
		{"addresses", SetVringAddr, addr(0, 0, 0x9000, 0x2000, 0x3000, 0), 0, "addresses of running ring 0 change"},
		{"features", SetFeatures, u64(1<<28 | FeatureProtocolFeatures), 0, "change while ring 0 runs"},
		{"in-flight buffer", SetInflightFD, inflightPayload(3*2112, 3, 128), 1, "ring 0 is running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.negotiate()
			p.must(SetVringNum, state(0, 64))
			p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
			p.must(SetVringKick, u64(0), eventfd(t))
			var fds []int
			for range c.fds {
				fds = append(fds, memfd(t, 1<<20))
			}
			p.send(c.req, 0, c.payload, fds...)
			p.breaks(c.req, c.fault)
		})
	}
}

func TestRingParametersOutOfRangeEndTheConnection(t *testing.T) {
	for _, c := range []struct {
		name    string
		req     Request
		payload []byte
		fault   string
	}{
		{"size 0", SetVringNum, state(0, 0), "size 0"},
		{"size above the device's", SetVringNum, state(0, 1025), "size 1025"},
		{"size like a negative number", SetVringNum, state(0, 0xffffffff), "size 4294967295"},
		{"unknown address flag", SetVringAddr, addr(0, 2, 0, 0, 0, 0), "unknown flags 0x2"},
		{"enable 2", SetVringEnable, state(0, 2), "state 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, newFakeDevice())
			p.negotiate()
			p.send(c.req, 0, c.payload)
			p.breaks(c.req, c.fault)
		})
	}
}

func TestKickNeedsFeatures(t *testing.T) {
	checkLeaks(t)
	p := start(t, newFakeDevice())
	p.send(SetOwner, 0, nil)
	p.send(SetVringKick, 0, u64(0), eventfd(t))
	p.breaks(SetVringKick, "SET_FEATURES has not come")
}

func TestConfigSpace(t *testing.T) {
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiate()
	p.take()
	ask := func(off, n uint32) []byte {
		return p.ask(GetConfig, append(configHead{off, n, 7}.append(nil), make([]byte, n)...))
	}
	for _, c := range []struct {
		off, n uint32
		want   string
	}{{0, 3, "tag"}, {1, 1, "a"}, {0, 6, "tag\x00\x00\x00"}, {2, 3, "g\x00\x00"}, {100, 2, "\x00\x00"}, {0, 0, ""}} {
		b := ask(c.off, c.n)
		if got := decodeConfig(b); got != (configHead{c.off, c.n, 7}) || string(b[12:]) != c.want {
			t.Errorf("config %d+%d: %v %q, want %q", c.off, c.n, got, b[12:], c.want)
		}
	}
	if b := ask(0, 256); len(b) != 268 {
		t.Errorf("the largest read has %d bytes", len(b))
	}
	p.must(SetConfig, append(configHead{3, 2, 1}.append(nil), "xy"...))
	p.called(`WriteConfig 3 "xy" true`)
	dev.set(func() { dev.config = nil })
	if b := ask(0, 3); len(b) != 0 {
		t.Errorf("a failed read has %d bytes", len(b))
	}
	for _, c := range []struct {
		name  string
		head  configHead
		data  int
		fault string
	}{
		{"size above the data", configHead{0, 5, 0}, 4, "4 bytes of data for an access of 5"},
		{"size like a negative number", configHead{0, 0xffffffff, 0}, 4, "4 bytes of data"},
		{"past the end", configHead{250, 7, 0}, 7, "access to bytes 250 to 257"},
		{"offset that wraps", configHead{0xfffffff0, 17, 0}, 17, "access to bytes"},
	} {
		for _, req := range []Request{GetConfig, SetConfig} {
			t.Run(fmt.Sprintf("%v/%s", req, c.name), func(t *testing.T) {
				p := start(t, newFakeDevice())
				p.negotiate()
				p.send(req, 0, append(c.head.append(nil), make([]byte, c.data)...))
				p.breaks(req, c.fault)
			})
		}
	}
	t.Run("unknown flags", func(t *testing.T) {
		p := start(t, newFakeDevice())
		p.negotiate()
		p.send(SetConfig, 0, configHead{0, 0, 4}.append(nil))
		p.breaks(SetConfig, "unknown flags 0x4")
	})
}

func TestShmemConfig(t *testing.T) {
	dev := newFakeDevice()
	dev.shmem = []uint64{0, 1 << 20, 2 << 20}
	p := start(t, dev)
	p.negotiate()
	b := p.ask(GetShmemConfig, nil)
	if len(b) != 2056 || le.Uint32(b) != 2 || le.Uint64(b[8:]) != 0 || le.Uint64(b[16:]) != 1<<20 || le.Uint64(b[24:]) != 2<<20 || le.Uint64(b[2048:]) != 0 {
		t.Errorf("%d bytes, %x...", len(b), b[:32])
	}
}

func TestInflightBuffer(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint64
		stride   int
		length   int
	}{
		// 16 bytes and 16 for each descriptor; 32 and 32.
		{"split", 1 << 32, 2112, 2064},
		{"packed", 1<<32 | 1<<34, 4160, 4128},
	} {
		for _, size := range []int{20, 24} {
			t.Run(fmt.Sprintf("%s/%d bytes", c.name, size), func(t *testing.T) {
				checkLeaks(t)
				dev := newFakeDevice()
				p := start(t, dev)
				p.negotiate()
				p.must(SetFeatures, u64(c.features|FeatureProtocolFeatures))
				p.send(GetInflightFD, 0, inflightPayload(0, 2, 128)[:size])
				reply, fds := p.receiveFDs(GetInflightFD)
				if len(fds) != 1 || len(reply) != size {
					t.Fatalf("%d descriptors, %d bytes", len(fds), len(reply))
				}
				defer unix.Close(fds[0])
				d := decodeInflight(reply)
				if d != (inflightDesc{uint64(2 * c.stride), 0, 2, 128}) {
					t.Fatalf("answer %+v", d)
				}
				if err := unix.Ftruncate(fds[0], 1); err == nil {
					t.Error("the buffer can be truncated under the daemon")
				}
				p.must(SetInflightFD, reply, fds[0])
				for i := range uint32(3) {
					p.must(SetVringNum, state(i, 128))
					p.must(SetVringAddr, addr(i, 0, 0x1000, 0x2000, 0x3000, 0))
					p.must(SetVringKick, u64(uint64(i)), eventfd(t))
				}
				p.askU64(GetFeatures)
				for i := range 2 {
					if n := len(dev.ring(i).Inflight); n != c.length {
						t.Errorf("ring %d has %d bytes, want %d", i, n, c.length)
					}
				}
				if dev.ring(2).Inflight != nil {
					t.Error("ring 2 is tracked")
				}
				b := make([]byte, 2*c.stride)
				if _, err := unix.Pread(fds[0], b, 0); err != nil {
					t.Fatal(err)
				}
				for _, at := range []int{0, c.length - 1, c.stride, c.stride + c.length - 1} {
					if b[at] != 1 {
						t.Errorf("byte %d of the file is %d", at, b[at])
					}
				}
				// A device that was reset has nothing in flight, but goes on
				// keeping account.
				p.must(ResetDevice, nil)
				if _, err := unix.Pread(fds[0], b, 0); err != nil {
					t.Fatal(err)
				}
				if at := slices.IndexFunc(b, func(v byte) bool { return v != 0 }); at >= 0 {
					t.Errorf("byte %d of the file is %d after the reset", at, b[at])
				}
				for i := range uint32(3) {
					p.must(SetVringNum, state(i, 128))
					p.must(SetVringAddr, addr(i, 0, 0x1000, 0x2000, 0x3000, 0))
					p.must(SetVringKick, u64(uint64(i)), eventfd(t))
				}
				p.askU64(GetFeatures)
				if n := len(dev.ring(1).Inflight); n != c.length {
					t.Errorf("ring 1 has %d bytes after the reset, want %d", n, c.length)
				}
				// It comes again at each start, also from another process's
				// file at an offset.
				for i := range uint32(3) {
					p.ask(GetVringBase, state(i, 0))
				}
				p.must(SetInflightFD, reply, fds[0])
				other := memfd(t, 1<<20)
				le.PutUint64(reply[8:], 8192)
				p.must(SetInflightFD, reply, other)
			})
		}
	}
}

func TestInflightBufferFaults(t *testing.T) {
	for _, c := range []struct {
		name    string
		req     Request
		payload []byte
		fault   string
	}{
		{"no queues", GetInflightFD, inflightPayload(0, 0, 128), "0 queues"},
		{"too many queues", GetInflightFD, inflightPayload(0, 4, 128), "4 queues"},
		{"queue size 0", GetInflightFD, inflightPayload(0, 1, 0), "queue size 0"},
		{"queue size too large", GetInflightFD, inflightPayload(0, 1, 32769), "queue size 32769"},
		{"between the two lengths", GetInflightFD, inflightPayload(0, 1, 1)[:22], "payload of 22 bytes"},
		{"too small", SetInflightFD, inflightPayload(2*2112-1, 2, 128), "which take 4224"},
		{"like a negative number", SetInflightFD, inflightPayload(1<<64-1, 2, 128), "which take 4224"},
		{"crooked offset", SetInflightFD, inflightDesc{4224, 100, 2, 128}.append(nil), "offset 100"},
		{"huge offset", SetInflightFD, inflightDesc{4224, 1<<64 - 4096, 2, 128}.append(nil), "offset 18446744073709547520"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, newFakeDevice())
			p.negotiate()
			var fds []int
			if c.req == SetInflightFD {
				fds = append(fds, memfd(t, 1<<20))
			}
			p.send(c.req, 0, c.payload, fds...)
			p.breaks(c.req, c.fault)
		})
	}
	t.Run("file shorter than the buffer", func(t *testing.T) {
		checkLeaks(t)
		p := start(t, newFakeDevice())
		p.negotiate()
		p.refused(SetInflightFD, inflightPayload(4224, 2, 128), memfd(t, 4096))
	})
	t.Run("ring larger than the buffer's queues", func(t *testing.T) {
		checkLeaks(t)
		p := start(t, newFakeDevice())
		p.negotiate()
		p.must(SetInflightFD, inflightPayload(4224, 2, 128), memfd(t, 1<<20))
		p.must(SetVringNum, state(0, 256))
		p.must(SetVringAddr, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
		p.refused(SetVringKick, u64(0), eventfd(t))
	})
	t.Run("packed ring in a buffer for split ones", func(t *testing.T) {
		checkLeaks(t)
		p := start(t, newFakeDevice())
		p.negotiate()
		p.must(SetInflightFD, inflightPayload(4224, 2, 128), memfd(t, 1<<20))
		p.must(SetFeatures, u64(1<<34|1<<32|FeatureProtocolFeatures))
		p.must(SetVringNum, state(1, 128))
		p.must(SetVringAddr, addr(1, 0, 0x1000, 0x2000, 0x3000, 0))
		p.refused(SetVringKick, u64(1), eventfd(t))
	})
}
