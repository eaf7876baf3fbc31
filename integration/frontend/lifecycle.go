package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Start is the driver's DRIVER_OK, or a paused VM going on: features, memory table, rings, enable.
func (f *Frontend) Start() error {
	f.bql.Lock()
	defer f.bql.Unlock()
	if f.started {
		return errors.New("the device is started already")
	}
	if err := f.negotiateFeatures(); err != nil {
		return err
	}
	if f.protocol&ProtocolInflightShmFD != 0 {
		if err := f.prepareInflight(); err != nil {
			return err
		}
	}
	if err := f.sendFeatures(); err != nil {
		return err
	}
	if err := f.sendMemory(); err != nil {
		return err
	}
	for _, q := range f.queues {
		if err := f.startQueue(q); err != nil {
			return err
		}
	}
	if f.logging {
		if err := f.sendLog(); err != nil {
			return err
		}
	}
	// From here on QEMU counts the device as started: its memory listener sends what changes.
	f.started = true
	if f.acked&FProtocolFeatures != 0 {
		for i := range f.queues {
			if err := f.sendSync(SetVringEnable, u32s(uint32(i), 1)); err != nil {
				return err
			}
		}
	}
	if f.protocol&ProtocolStatus != 0 {
		if err := f.addStatus(statusAckDriver | statusDriverOK); err != nil {
			return err
		}
	}
	if f.opts.KickOnStart {
		for _, q := range f.queues {
			if err := q.ForceKick(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Frontend) negotiateFeatures() error {
	want := FVersion1 | FRingIndirect | FEventIdx | FProtocolFeatures
	if f.opts.Packed {
		if f.features&FRingPacked == 0 {
			return errors.New("the daemon offers no packed rings")
		}
		want |= FRingPacked
	}
	f.acked = want & f.features &^ f.opts.Without
	for _, q := range f.queues {
		q.setFeatures(f.acked)
	}
	return nil
}

func (f *Frontend) sendFeatures() error {
	features := f.acked
	if f.logging {
		features |= FLogAll
		if err := f.sendSync(SetFeatures, u64s(features)); err != nil {
			return err
		}
	} else if err := f.send(SetFeatures, u64s(features)); err != nil {
		return err
	}
	if f.protocol&ProtocolStatus != 0 {
		return f.addStatus(statusFeatures)
	}
	return nil
}

func (f *Frontend) addStatus(bits uint64) error {
	s, err := f.getU64(GetStatus)
	if err != nil || s&bits == bits {
		return err
	}
	if err := f.send(SetStatus, u64s(s|bits)); err != nil {
		return err
	}
	got, err := f.getU64(GetStatus)
	if err == nil && got&bits != bits {
		f.fault("status is %#x after setting %#x", got, s|bits)
	}
	return err
}

func (f *Frontend) startQueue(q *Queue) error {
	i := uint32(q.index)
	if err := f.send(SetVringNum, u32s(i, uint32(q.size))); err != nil {
		return err
	}
	if err := f.send(SetVringBase, u32s(i, q.base)); err != nil {
		return err
	}
	if err := f.sendVringAddr(q); err != nil {
		return err
	}
	if f.opts.NoKick {
		if err := f.send(SetVringKick, u64s(uint64(i)|VringNoFD)); err != nil {
			return err
		}
	} else if err := f.send(SetVringKick, u64s(uint64(i)), q.kick); err != nil {
		return err
	}
	return f.send(SetVringCall, u64s(uint64(i)), q.call)
}

func (f *Frontend) sendVringAddr(q *Queue) error {
	flags := uint32(0)
	if f.logging {
		flags = 1 // VHOST_VRING_F_LOG
	}
	user := func(gpa uint64) uint64 {
		u, _ := f.Mem.User(gpa)
		return u
	}
	p := u32s(uint32(q.index), flags)
	p = append(p, u64s(user(q.DescGPA), user(q.UsedGPA), user(q.AvailGPA), q.UsedGPA)...)
	if f.logging {
		return f.sendSync(SetVringAddr, p)
	}
	return f.send(SetVringAddr, p)
}

// sendMemory brings the daemon's memory table up to date.
func (f *Frontend) sendMemory() error {
	want := make([]slot, 0, len(f.Mem.regions))
	for _, r := range f.Mem.regions {
		want = append(want, slot{r.GPA, r.Size, r.user, r.Offset, r.fd})
	}
	if f.Window != nil {
		want = append(want, f.Window.slots()...)
	}
	if f.protocol&ProtocolConfigureMemSlots == 0 {
		return f.sendMemTable(want)
	}
	if len(want) > maxMemSlots {
		f.fault("%d memory regions: QEMU dies of the assertion in vhost_user_add_remove_regions", len(want))
		return errors.New("too many memory regions")
	}
	if uint64(len(want)) > f.memSlots {
		return fmt.Errorf("%d memory regions are too many for the daemon's %d slots", len(want), f.memSlots)
	}
	have := f.regions
	for _, s := range have {
		if !hasSlot(want, s) {
			if !f.started && s.gpa >= WindowGPA && !f.opts.BearsReset {
				f.fault("REM_MEM_REG of a mapping that a reset has dropped: QEMU dies in memory_region_get_fd")
				return errors.New("a mapping was live at the reset")
			}
			if err := f.sendSync(RemMemReg, memRegion(s)); err != nil {
				return err
			}
		}
	}
	for _, s := range want {
		if !hasSlot(have, s) {
			if err := f.sendSync(AddMemReg, memRegion(s), s.fd); err != nil {
				return err
			}
		}
	}
	f.regions = want
	return nil
}

func (f *Frontend) sendMemTable(want []slot) error {
	if len(want) > legacyMemSlots {
		f.logf("memory table of %d regions not sent, the daemon has no CONFIGURE_MEM_SLOTS", len(want))
		return nil
	}
	p := u32s(uint32(len(want)), 0)
	var fds []int
	for _, s := range want {
		p = append(p, u64s(s.gpa, s.size, s.user, s.offset)...)
		fds = append(fds, s.fd)
	}
	if err := f.sendSync(SetMemTable, p, fds...); err != nil {
		return err
	}
	f.regions = want
	return nil
}

func memRegion(s slot) []byte { return u64s(0, s.gpa, s.size, s.user, s.offset) }

// hasSlot compares as QEMU does: the descriptor does not count.
func hasSlot(list []slot, s slot) bool {
	for _, x := range list {
		if x.gpa == s.gpa && x.size == s.size && x.user == s.user && x.offset == s.offset {
			return true
		}
	}
	return false
}

// Stop is what a paused VM does: rings disabled, then stopped. Requests in flight are completed or stay recorded,
// and Start goes on where the rings were. Mappings of the window stay.
func (f *Frontend) Stop() error {
	f.bql.Lock()
	defer f.bql.Unlock()
	return f.stop()
}

func (f *Frontend) stop() error {
	if !f.started {
		return errors.New("the device is not started")
	}
	if f.acked&FProtocolFeatures != 0 {
		for i := range f.queues {
			if err := f.sendSync(SetVringEnable, u32s(uint32(i), 0)); err != nil {
				return err
			}
		}
	}
	for i, q := range f.queues {
		reply, fds, err := f.ask(Message{Request: GetVringBase, Payload: u32s(uint32(i), 0)})
		if err != nil {
			return err
		}
		closeAll(fds)
		if len(reply.Payload) != 8 {
			return fmt.Errorf("%w: GET_VRING_BASE answered with %d bytes", errProtocol, len(reply.Payload))
		}
		if got := binary.LittleEndian.Uint32(reply.Payload); got != uint32(i) {
			f.fault("GET_VRING_BASE of queue %d answers for queue %d", i, got)
		}
		q.stopped(binary.LittleEndian.Uint32(reply.Payload[4:]))
	}
	f.started = false
	if f.protocol&ProtocolStatus != 0 {
		return f.send(SetStatus, u64s(0)) // a pause does this too, so it must not cost the guest its files
	}
	return nil
}

// Reset is a guest that reboots or unbinds the driver: rings stopped, the device told where QEMU tells it, the window
// emptied without a message, all rings as new. Buffers that were in flight are lost.
func (f *Frontend) Reset() error {
	f.bql.Lock()
	defer f.bql.Unlock()
	if f.started {
		if err := f.stop(); err != nil {
			return err
		}
	}
	if f.opts.Device == FSDevice && f.protocol&ProtocolResetDevice != 0 {
		if err := f.sendSync(ResetDevice, nil); err != nil {
			return err
		}
	}
	if f.Window != nil {
		f.Window.clear()
	}
	if !f.opts.KeepInflight {
		f.inflight.reset()
	}
	for _, q := range f.queues {
		q.reset()
	}
	return nil
}

// Reconnect is QEMU finding the daemon again after it died or was disconnected, and starting the rings anew from what is in
// guest memory. With Options.Inflight the daemon gets the in-flight area back and has to finish what it finds there.
func (f *Frontend) Reconnect() error {
	f.Disconnect()
	for _, q := range f.queues {
		q.restoreBase()
	}
	if err := f.Connect(); err != nil {
		return err
	}
	return f.Start()
}
