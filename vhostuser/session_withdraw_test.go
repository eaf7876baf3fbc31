package vhostuser

import "testing"

// TestAResetWithMappingsWithdrawsTheDevice has a new driver look at the configuration space of a device that has stopped.
// QEMU 11.1 would crash at the start of the device that follows, if its memory table has had a shared memory mapping.
//
// To see it fail: in withdraw, return at once.
func TestAResetWithMappingsWithdrawsTheDevice(t *testing.T) {
	for _, c := range []struct {
		name      string
		mapped    bool
		running   bool // one of the rings is
		missing   ProtocolFeatures
		withdrawn bool
	}{
		{name: "mappings", mapped: true, withdrawn: true},
		{name: "none"},
		{name: "a ring runs", mapped: true, running: true},
		{name: "a table that is sent whole", mapped: true, missing: ProtocolConfigureMemSlots},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			dev := newFakeDevice()
			p := start(t, dev)
			for _, step := range twoQueues(t) {
				switch {
				case step.req == SetProtocolFeatures:
					step.bytes = u64(uint64((Supported | ProtocolSHMEM) &^ c.missing))
				case c.missing != 0 && (step.req == AddMemReg || step.req == GetMaxMemSlots):
					continue
				}
				p.step(step)
			}
			dev.set(func() { dev.mapped = c.mapped })
			p.must(SetVringEnable, state(0, 0))
			p.ask(GetVringBase, state(0, 0))
			if !c.running {
				p.ask(GetVringBase, state(1, 0))
			}
			config := append(configHead{0, 5, 0}.append(nil), make([]byte, 5)...)
			for range 2 {
				want := "tag\x00\x00"
				if c.withdrawn {
					want = "\x00\x00\x00\x00\x00"
				}
				if b := p.ask(GetConfig, config); string(b[12:]) != want {
					t.Errorf("the configuration space reads %q, want %q", b[12:], want)
				}
				dev.set(func() { dev.mapped = false }) // it makes no difference any more
			}
			n := 8
			if c.withdrawn {
				n = 0 // for which a front-end gives up the start, before its memory table
			}
			if b := p.ask(GetStatus, nil); len(b) != n {
				t.Errorf("the status has %d bytes, want %d", len(b), n)
			}
			if err := p.close(); err != nil {
				t.Error(err)
			}
			if n := p.log.count("was reset while shared memory was mapped"); n != map[bool]int{true: 1}[c.withdrawn] {
				t.Errorf("logged %d times", n)
			}

			// The next connection has the device again.
			if !c.withdrawn {
				return
			}
			p = start(t, dev)
			p.negotiate()
			if b := p.ask(GetConfig, config); string(b[12:]) != "tag\x00\x00" {
				t.Errorf("the next front-end reads %q", b[12:])
			}
		})
	}
}

// TestAPauseWithdrawsNothing stops and starts a device that has mappings.
func TestAPauseWithdrawsNothing(t *testing.T) {
	dev := newFakeDevice()
	p := start(t, dev)
	p.startUp()
	dev.set(func() { dev.mapped = true })
	for i := range uint32(2) {
		p.must(SetVringEnable, state(i, 0))
		p.ask(GetVringBase, state(i, 0))
	}
	if b := p.ask(GetStatus, nil); len(b) != 8 {
		t.Errorf("the status has %d bytes", len(b))
	}
	p.send(SetVringKick, 0, u64(0), eventfd(t))
	p.must(SetVringEnable, state(0, 1))
	if b := p.ask(GetConfig, append(configHead{0, 3, 0}.append(nil), 0, 0, 0)); string(b[12:]) != "tag" {
		t.Errorf("the configuration space reads %q", b[12:])
	}
}
