package vhostuser

import "slices"

// A reset of the machine drops all shared memory mappings of QEMU, without a
// message; and at the start of the device that follows, QEMU 11.1 crashes if its
// memory table has had one and is updated by REM_MEM_REG. Nothing can be asked of
// it before that start. So the device withdraws, for as long as the connection
// lasts: its configuration space is empty, for the driver not to start it, and a
// start fails in answer to GET_STATUS, which comes before the memory table.

// withdraw is called when the configuration space is read. A driver that does so
// while no ring runs is a new one, so that the machine has been reset; one that
// is paused does nothing at all.
func (s *session) withdraw() {
	if s.withdrawn || s.protocol&ProtocolConfigureMemSlots == 0 || len(s.regions) == 0 {
		return
	}
	o, ok := s.dev.(MemoryObserver)
	if !ok || !o.Mapped() || slices.ContainsFunc(s.vrings, func(v vring) bool { return v.started }) {
		return
	}
	s.withdrawn = true
	s.log.Error("the virtual machine was reset while shared memory was mapped, and would crash at the start of this device; " +
		"the guest finds nothing here from now on. Plug the device in again, or start the virtual machine anew; " +
		"next time unmount before the reset, or choose a backing whose mappings are not memory regions of their own")
}

func (s *session) getStatus(m *message) error {
	if s.withdrawn {
		// Front-ends take a reply without payload as failure.
		return s.reply(m, -1, nil)
	}
	return s.replyU64(m, s.status)
}
