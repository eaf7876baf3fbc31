package vhostuser

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// maxVringSize is the largest queue size of the virtio specification.
const maxVringSize = 32768

// vring is what the front-end has told about one ring.
type vring struct {
	num     uint32
	base    uint32
	addr    vringAddr
	hasAddr bool

	// hasKick says that SET_VRING_KICK has come since the ring was last
	// stopped, which is what starts it. kick is the descriptor that came, until
	// the device gets it; -1 stands for polling.
	hasKick bool
	kick    int

	enabled bool
	started bool
	// failed is why the ring did not start when it should have.
	failed error
}

func (v *vring) reset() {
	if v.hasKick {
		v.dropKick()
	}
	*v = vring{kick: -1}
}

func (v *vring) dropKick() {
	if v.kick >= 0 {
		_ = unix.Close(v.kick)
	}
	v.kick, v.hasKick = -1, false
}

func (s *session) setVringNum(m *message) error {
	num := decodeVringState(m.payload).num
	most := min(uint32(s.dev.MaxQueueSize()), maxVringSize)
	if num == 0 || num > most {
		return breach(m.request, fmt.Sprintf("size %d of ring %d, not 1 to %d", num, m.vring, most),
			fmt.Sprintf("configure a queue size of at most %d in the front-end", most))
	}
	s.vrings[m.vring].num = num
	return s.tryStart(int(m.vring))
}

func (s *session) setVringBase(m *message) error {
	v := &s.vrings[m.vring]
	v.base = decodeVringState(m.payload).num
	return nil
}

func (s *session) setVringAddr(m *message) error {
	v := &s.vrings[m.vring]
	addr := decodeVringAddr(m.payload)
	if addr.flags&^vringAddrLog != 0 {
		return breach(m.request, fmt.Sprintf("unknown flags %#x", addr.flags), "set only VHOST_VRING_F_LOG")
	}
	if !v.started {
		v.addr, v.hasAddr = addr, true
		return s.tryStart(int(m.vring))
	}
	// On a running ring this turns logging on and off.
	if addr.desc != v.addr.desc || addr.used != v.addr.used || addr.avail != v.addr.avail {
		return breach(m.request, fmt.Sprintf("addresses of running ring %d change", m.vring), "stop it with GET_VRING_BASE first")
	}
	v.addr = addr
	s.dev.LogRing(int(m.vring), addr.flags&vringAddrLog != 0, addr.log)
	return nil
}

// setVringKick starts the ring. On a running ring it replaces the descriptor.
func (s *session) setVringKick(m *message) error {
	i := int(m.vring)
	v := &s.vrings[i]
	if v.started {
		// The stop waits for requests, and some of those for the front-end.
		s.suspendBackend()
		s.stopVring(i)
	}
	v.dropKick()
	v.hasKick = true
	if len(m.fds) > 0 {
		v.kick = m.takeFD(0)
	}
	err := s.tryStart(i)
	if err != nil && s.backend != nil && s.runs() {
		s.backend.resumeLater()
	}
	return err
}

func (s *session) setVringCall(m *message) error {
	s.dev.SetCall(int(m.vring), optionalFD(m))
	return nil
}

func (s *session) setVringErr(m *message) error {
	s.dev.SetErr(int(m.vring), optionalFD(m))
	return nil
}

func optionalFD(m *message) int {
	if len(m.fds) == 0 {
		return -1
	}
	return m.takeFD(0)
}

func (s *session) setVringEnable(m *message) error {
	state := decodeVringState(m.payload)
	if state.num > 1 {
		return breach(m.request, fmt.Sprintf("state %d of ring %d", state.num, m.vring), "use 0 to disable or 1 to enable")
	}
	return s.enableVring(int(m.vring), state.num == 1)
}

// enableVring enables or disables ring i in any of its states.
func (s *session) enableVring(i int, on bool) error {
	v := &s.vrings[i]
	if !on {
		// It may be the start of a stop of the whole device, during which
		// the front-end must not be asked for anything.
		s.suspendBackend()
	}
	if on && v.failed != nil {
		return fmt.Errorf("ring %d did not start: %w", i, v.failed)
	}
	changed := v.enabled != on
	v.enabled = on
	if v.started && changed {
		if err := s.dev.EnableRing(i, on); err != nil {
			v.enabled = !on
			return fmt.Errorf("enabling ring %d (%t): %w", i, on, err)
		}
	}
	switch {
	case on:
		s.resumeBackend()
	case s.backend != nil && s.runs():
		s.backend.resumeLater()
	}
	return nil
}

func (s *session) getVringBase(m *message) error {
	i := int(m.vring)
	v := &s.vrings[i]
	s.suspendBackend()
	s.stopVring(i)
	v.dropKick()
	v.failed = nil
	return s.reply(m, -1, vringState{uint32(i), v.base}.append)
}

// tryStart starts ring i when all that it needs has come.
func (s *session) tryStart(i int) error {
	v := &s.vrings[i]
	if v.started || !v.hasKick || !v.hasAddr || v.num == 0 {
		return nil
	}
	v.failed = s.startVring(i)
	if v.failed != nil {
		return fmt.Errorf("starting ring %d: %w", i, v.failed)
	}
	return nil
}

func (s *session) startVring(i int) error {
	v := &s.vrings[i]
	region, err := s.inflight.queue(i, v.num, s.acked&featureRingPacked != 0)
	if err != nil {
		return err
	}
	kick := v.kick
	v.kick = -1
	err = s.dev.StartRing(i, Ring{
		Size: v.num, Desc: v.addr.desc, Avail: v.addr.avail, Used: v.addr.used,
		UsedLogGPA: v.addr.log, Log: v.addr.flags&vringAddrLog != 0,
		Base: v.base, Features: s.acked &^ vhostFeatures, Kick: kick,
		Enabled: v.enabled, Inflight: region, Mem: s.mem,
	})
	if err != nil {
		// It takes another SET_VRING_KICK to try again.
		v.hasKick = false
		return err
	}
	v.started = true
	s.resumeBackend()
	return nil
}

// stopVring stops ring i if it runs, and keeps its base.
func (s *session) stopVring(i int) {
	v := &s.vrings[i]
	if !v.started {
		return
	}
	base, err := s.dev.StopRing(i)
	v.base, v.started = base, false
	if err != nil {
		s.log.Warn("vhost-user ring did not stop cleanly", "ring", i, "error", err)
	}
}

func (s *session) setBackendReqFD(m *message) error {
	ch, err := newBackendChannel(m.takeFD(0), s.protocol, s.log)
	if err != nil {
		return err
	}
	if s.backend != nil {
		s.backend.close()
	}
	s.backend = ch
	s.resumeBackend()
	s.dev.BackendChannel(ch)
	return nil
}

func (s *session) suspendBackend() {
	if s.backend != nil {
		s.backend.suspend()
	}
}

// resumeBackend allows requests of the front-end if a ring runs.
func (s *session) resumeBackend() {
	if s.backend != nil && s.runs() {
		s.backend.resume()
	}
}

// runs says whether a ring does.
func (s *session) runs() bool {
	return slices.ContainsFunc(s.vrings, func(v vring) bool { return v.started && v.enabled })
}
