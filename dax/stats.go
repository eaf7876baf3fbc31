package dax

import "sync/atomic"

// stats are the daemon's own counters.
type stats struct {
	Setups, SetupErrors, SetupsHeld, Removes, Replaced, Upgrades atomic.Uint64
	DirtyBinds                                                   atomic.Uint64
	Maps, Unmaps, SlotsRefused                                   atomic.Uint64
	Exclusions, Passes, InvalidateErrors                         atomic.Uint64
	LockDrops, LockRetries                                       atomic.Uint64
	Reclaims, ReclaimedRanges, ReclaimedBytes                    atomic.Uint64
	ReclaimNanos, Refaults, SecondChances, BusySkips             atomic.Uint64
	Pressure, HostChanges                                        atomic.Uint64
}

// Stats are counters since the start, except where said otherwise. The names in
// JSON are what programs of the host go by.
type Stats struct {
	Window   uint64 `json:"window_bytes"`   // now, as the next four
	Bound    uint64 `json:"mapped_bytes"`   // of files, resident or not
	Resident uint64 `json:"resident_bytes"` // Managed only
	Memory   uint64 `json:"memory_limit_bytes"`
	Regions  int    `json:"memory_regions"` // of the virtual machine

	Setups       uint64 `json:"setups"`
	SetupErrors  uint64 `json:"setup_errors"`
	SetupsHeld   uint64 `json:"setups_held"` // until a paused guest went on
	Removes      uint64 `json:"removes"`
	Replaced     uint64 `json:"replaced"`
	Upgrades     uint64 `json:"upgrades"`
	DirtyBinds   uint64 `json:"dirty_binds"` // ranges touched while they showed nothing
	Maps         uint64 `json:"frontend_maps"`
	Unmaps       uint64 `json:"frontend_unmaps"`
	SlotsRefused uint64 `json:"slots_refused"`

	Exclusions       uint64 `json:"exclusions"`
	Passes           uint64 `json:"exclusion_passes"`
	InvalidateErrors uint64 `json:"invalidate_errors"`
	LockDrops        uint64 `json:"lock_drops"` // for buffers that lie in the window
	LockRetries      uint64 `json:"lock_retries"`

	Faults         uint64 `json:"faults"` // READs of the backing mount
	FaultBytes     uint64 `json:"fault_bytes"`
	Parked         uint64 `json:"faults_parked"` // that waited for an exclusion
	FaultErrors    uint64 `json:"fault_errors"`
	StrayFaults    uint64 `json:"faults_stray"` // of ranges that showed nothing
	Writebacks     uint64 `json:"writebacks"`
	WritebackBytes uint64 `json:"writeback_bytes"`
	Discarded      uint64 `json:"writebacks_discarded"` // of ranges that showed nothing

	Reclaims        uint64 `json:"reclaims"`
	ReclaimedRanges uint64 `json:"reclaimed_ranges"`
	ReclaimedBytes  uint64 `json:"reclaimed_bytes"`
	ReclaimNanos    uint64 `json:"reclaim_ns"`
	Refaults        uint64 `json:"refaults"` // soon after reclaim
	SecondChances   uint64 `json:"second_chances"`
	BusySkips       uint64 `json:"busy_skips"`
	Pressure        uint64 `json:"pressure_events"`
	HostChanges     uint64 `json:"host_changes"`
}

// Stats returns the counters.
func (m *Manager) Stats() Stats {
	if m == nil {
		return Stats{}
	}
	c := &m.stats
	s := Stats{
		Window: m.cfg.Window, Memory: m.cfg.Memory,
		Setups: c.Setups.Load(), SetupErrors: c.SetupErrors.Load(), SetupsHeld: c.SetupsHeld.Load(), Removes: c.Removes.Load(),
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
