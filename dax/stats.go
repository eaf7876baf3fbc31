package dax

import "sync/atomic"

// stats are the daemon's own counters.
type stats struct {
	Setups, SetupErrors, Removes, Replaced, Upgrades atomic.Uint64
	DirtyBinds                                       atomic.Uint64
	Maps, Unmaps, SlotsRefused                       atomic.Uint64
	Exclusions, Passes, InvalidateErrors             atomic.Uint64
	LockDrops, LockRetries                           atomic.Uint64
	Reclaims, ReclaimedRanges, ReclaimedBytes        atomic.Uint64
	ReclaimNanos, Refaults, SecondChances, BusySkips atomic.Uint64
	Pressure, HostChanges                            atomic.Uint64
}

// Stats are counters since the start, except where said otherwise.
type Stats struct {
	Window, Bound, Resident, Memory uint64 // bytes, now
	Regions                         int    // memory regions of the virtual machine, now

	Setups, SetupErrors, Removes, Replaced, Upgrades uint64
	DirtyBinds                                       uint64 // ranges touched while they showed nothing
	Maps, Unmaps, SlotsRefused                       uint64 // messages to the front-end
	Exclusions, Passes, InvalidateErrors             uint64
	LockDrops, LockRetries                           uint64 // for buffers that lie in the window

	Faults, FaultBytes         uint64 // READs of the backing mount
	Parked                     uint64 // faults that waited for an exclusion
	Writebacks, WritebackBytes uint64
	Discarded                  uint64 // writebacks of ranges that showed nothing
	FaultErrors, StrayFaults   uint64

	Reclaims, ReclaimedRanges, ReclaimedBytes        uint64
	ReclaimNanos, Refaults, SecondChances, BusySkips uint64
	Pressure, HostChanges                            uint64 // events
}

// Stats returns the counters.
func (m *Manager) Stats() Stats {
	if m == nil {
		return Stats{}
	}
	c := &m.stats
	s := Stats{
		Window: m.cfg.Window, Memory: m.cfg.Memory,
		Setups: c.Setups.Load(), SetupErrors: c.SetupErrors.Load(), Removes: c.Removes.Load(),
		Replaced: c.Replaced.Load(), Upgrades: c.Upgrades.Load(), DirtyBinds: c.DirtyBinds.Load(),
		Maps: c.Maps.Load(), Unmaps: c.Unmaps.Load(), SlotsRefused: c.SlotsRefused.Load(),
		Exclusions: c.Exclusions.Load(), Passes: c.Passes.Load(), InvalidateErrors: c.InvalidateErrors.Load(),
		LockDrops: c.LockDrops.Load(), LockRetries: c.LockRetries.Load(),
		Reclaims: c.Reclaims.Load(), ReclaimedRanges: c.ReclaimedRanges.Load(), ReclaimedBytes: c.ReclaimedBytes.Load(),
		ReclaimNanos: c.ReclaimNanos.Load(), Refaults: c.Refaults.Load(), SecondChances: c.SecondChances.Load(),
		BusySkips: c.BusySkips.Load(), Pressure: c.Pressure.Load(), HostChanges: c.HostChanges.Load(),
	}
	m.window.mu.Lock()
	s.Bound = uint64(m.window.bound) * RangeSize
	m.window.mu.Unlock()
	m.slots.mu.Lock()
	s.Regions = m.slots.regions
	m.slots.mu.Unlock()
	if m.cfg.Backing != Managed || m.closed.Load() {
		return s
	}
	s.Resident, _ = m.back.resident(span{0, m.cfg.Window})
	msg := message{op: opCounters, fd: -1}
	if m.back.call(&msg) == nil && len(msg.values) >= numServerCounters {
		v := msg.values
		s.Faults, s.FaultBytes, s.Writebacks, s.WritebackBytes = v[0], v[1], v[2], v[3]
		s.Parked, s.Discarded, s.FaultErrors, s.StrayFaults = v[4], v[5], v[6], v[7]
	}
	return s
}
