package dax

import (
	"encoding/binary"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// engine takes memory of the window back: above the high-water mark of resident
// bytes, under memory pressure of the host, and on command. It sleeps until the
// server has brought in enough pages to make a difference, or the kernel tells
// of pressure.
//
// A victim is a range: the pages of one inode's range go under its mmap lock,
// written back first where they are dirty. No victim needs anything of the guest,
// and a range that is in use comes back by a fault.
type engine struct {
	m      *Manager
	kicked int // eventfd, written to by the server; -1 for none
	quit   chan struct{}
	stopFD int // eventfd that ends the wait for pressure
	done   sync.WaitGroup

	// A thread of its own ends the mappings of inodes that the guest has forgotten:
	// it waits for their locks, whose holders may wait for memory that only the
	// engine makes free.
	forgetMu  sync.Mutex
	forgets   []*Inode
	forgotten chan struct{}

	// mu makes one reclaim run at a time. It is taken before any inode's lock.
	mu      sync.Mutex
	op      *Op
	look    uint64
	victims []victim
	faults  []uint64 // by range, of the last look
	msg     message  // for tell
}

// victim is a range that has resident pages.
type victim struct {
	index    uint32
	x        *inodeState // nil: shows nothing
	resident uint64
	dirty    bool
	chances  uint8
	active   uint64
}

const (
	// maxChances is how often a range that came back at once is passed over.
	maxChances = 3
	// refaultLooks is within how many looks "at once" is.
	refaultLooks = 4
)

func (e *engine) start(m *Manager) {
	e.m = m
	e.op = m.NewOp()
	e.quit, e.forgotten = make(chan struct{}), make(chan struct{}, 1)
	e.done.Add(1)
	go e.forgetLoop()
	e.stopFD, e.kicked = -1, -1
	if m.cfg.Backing != Managed {
		return
	}
	e.kicked = m.back.kicked
	e.done.Add(1)
	go e.loop()
	e.watchPressure()
}

func (e *engine) stop() {
	close(e.quit)
	if e.kicked < 0 {
		e.done.Wait()
		return
	}
	e.kick()
	if e.stopFD >= 0 {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		unix.Write(e.stopFD, one[:])
	}
	e.done.Wait()
	e.mu.Lock()
	e.tell(0, flagIdle|flagNothing, span{})
	e.mu.Unlock()
	if e.stopFD >= 0 {
		unix.Close(e.stopFD)
	}
}

// kick wakes the engine.
func (e *engine) kick() {
	if e.kicked < 0 {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(e.kicked, one[:])
}

func (e *engine) loop() {
	defer e.done.Done()
	var b [8]byte
	for {
		if _, err := unix.Read(e.kicked, b[:]); err != nil && err != unix.EINTR {
			return
		}
		select {
		case <-e.quit:
			return
		default:
		}
		e.balance()
	}
}

// balance brings the window under its budget.
func (e *engine) balance() {
	budget := e.m.cfg.Memory
	if budget == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	idle := uint32(flagIdle)
	defer func() { e.tell(0, idle, span{}) }()
	e.tell(0, flagMeasuring, span{})
	_, high, low := marks(budget, int(e.msg.off))
	resident, err := e.m.back.resident(span{0, e.m.cfg.Window})
	if err != nil {
		idle |= flagNothing
		return
	}
	e.tell(resident, flagMeasured, span{})
	if resident >= high && e.reclaimLocked(resident-low) == 0 {
		idle |= flagNothing
	}
}

// tell tells the server what the engine does, which READs may wait for. The answer
// is in msg.
func (e *engine) tell(n uint64, flags uint32, next span) {
	if e.m.cfg.Memory == 0 {
		return
	}
	e.msg = message{op: opResident, off: n, flags: flags, fd: -1, spans: addSpan(e.msg.spans[:0], next), values: e.msg.values[:0]}
	// If the server is gone there is nothing to reclaim either.
	_ = e.m.back.call(&e.msg)
}

// Reclaim takes back about the given number of bytes of the window's memory, 0 for
// all, and returns how many it took.
func (m *Manager) Reclaim(bytes uint64) uint64 {
	if m == nil || m.cfg.Backing != Managed {
		return 0
	}
	if bytes == 0 {
		bytes = math.MaxUint64
	}
	return m.engine.reclaim(bytes)
}

func (e *engine) reclaim(bytes uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reclaimLocked(bytes)
}

func (e *engine) reclaimLocked(bytes uint64) (freed uint64) {
	start := time.Now()
	s := &e.m.stats
	s.Reclaims.Add(1)
	e.findVictims()
	var busy []victim
	passed := e.victims[:0]
	for _, v := range e.victims {
		switch {
		case freed >= bytes:
		case v.chances > 0 && bytes != math.MaxUint64:
			s.SecondChances.Add(1)
			e.useChance(v.index)
			passed = append(passed, v)
		case v.x != nil && !e.op.tryLock(v.x, heldExclusive):
			s.BusySkips.Add(1)
			busy = append(busy, v)
		default:
			freed += e.take(v)
			e.op.End()
		}
	}
	// Nothing else will do: those who had their chances, then the busy ones,
	// for which it waits; no holder of such a lock waits for the guest.
	for _, v := range append(passed, busy...) {
		if freed >= bytes {
			break
		}
		if v.x != nil {
			e.tell(0, flagStep, span{})
			e.op.lock(v.x, classMmap, heldExclusive)
		}
		freed += e.take(v)
		e.op.End()
	}
	s.ReclaimedBytes.Add(freed)
	s.ReclaimNanos.Add(uint64(time.Since(start)))
	return freed
}

// take writes back and invalidates one range, whose inode's mmap lock is held
// exclusively.
func (e *engine) take(v victim) uint64 {
	w := rangeSpan(v.index)
	e.tell(0, flagStep, w)
	if err := e.m.back.invalidate(w); err != nil {
		e.m.stats.InvalidateErrors.Add(1)
		e.tell(0, 0, span{})
		return 0
	}
	e.m.stats.ReclaimedRanges.Add(1)
	e.m.window.mu.Lock()
	e.m.window.ranges[v.index].reclaimed = e.look
	e.m.window.mu.Unlock()
	left, _ := e.m.back.resident(w)
	freed := v.resident - min(left, v.resident)
	e.tell(freed, 0, span{})
	return freed
}

func (e *engine) useChance(i uint32) {
	w := &e.m.window
	w.mu.Lock()
	if w.ranges[i].chances > 0 {
		w.ranges[i].chances--
	}
	w.mu.Unlock()
}

// findVictims looks at every range: what is resident, and what has faulted since
// the last look. The best victims come first: cold before refaulting, clean
// before dirty, quiet for long before active.
func (e *engine) findVictims() {
	e.look++
	w := &e.m.window
	faults := e.faults[:0]
	for len(faults) < len(w.ranges) {
		e.op.msg = e.op.message(opFaults)
		e.op.msg.off = uint64(len(faults))
		if err := e.m.back.call(&e.op.msg); err != nil || len(e.op.msg.values) == 0 {
			e.victims = e.victims[:0]
			return
		}
		faults = append(faults, e.op.msg.values...)
	}
	e.faults = faults
	w.mu.Lock()
	e.victims = e.victims[:0]
	for i := range w.ranges {
		r := &w.ranges[i]
		if i < len(faults) && faults[i] != r.faults {
			r.faults = faults[i]
			r.active = e.look
			if r.reclaimed != 0 && e.look-r.reclaimed <= refaultLooks {
				r.chances = min(r.chances+1, maxChances)
				e.m.stats.Refaults.Add(1)
			}
			r.reclaimed = 0
		}
		e.victims = append(e.victims, victim{index: uint32(i), x: r.x, chances: r.chances, active: r.active})
	}
	w.mu.Unlock()
	resident := e.victims[:0]
	for _, v := range e.victims {
		s, off := e.m.back.at(rangeSpan(v.index))
		var st unix.Cachestat_t
		if unix.Cachestat(uint(s.rw), &unix.CachestatRange{Off: uint64(off), Len: RangeSize}, &st, 0) != nil || st.Cache == 0 {
			continue
		}
		v.resident = st.Cache * uint64(os.Getpagesize())
		v.dirty = st.Dirty+st.Writeback > 0
		resident = append(resident, v)
	}
	e.victims = resident
	slices.SortStableFunc(e.victims, func(a, b victim) int {
		switch {
		case a.chances != b.chances:
			return int(a.chances) - int(b.chances)
		case a.dirty != b.dirty && a.dirty:
			return 1
		case a.dirty != b.dirty:
			return -1
		case a.active < b.active:
			return -1
		case a.active > b.active:
			return 1
		}
		return 0
	})
}

// forgetLoop ends the mappings of inodes that the file system has dropped.
func (e *engine) forgetLoop() {
	defer e.done.Done()
	op := e.m.NewOp()
	for {
		select {
		case <-e.quit:
			return
		case <-e.forgotten:
		}
		e.forgetMu.Lock()
		l := e.forgets
		e.forgets = nil
		e.forgetMu.Unlock()
		for _, n := range l {
			e.m.forgetInode(op, n)
		}
	}
}

// watchPressure reclaims when tasks of the host wait for memory.
func (e *engine) watchPressure() {
	psi, err := unix.Open("/proc/pressure/memory", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		e.m.log.Info("no notice of memory pressure on this host; only --dax-memory bounds the DAX window", "err", err)
		return
	}
	// 200 ms of waiting in any 2 s, the shortest window that does not take
	// CAP_SYS_RESOURCE.
	if _, err := unix.Write(psi, []byte("some 200000 2000000\x00")); err != nil {
		e.m.log.Info("no notice of memory pressure on this host; only --dax-memory bounds the DAX window", "err", err)
		unix.Close(psi)
		return
	}
	if e.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		unix.Close(psi)
		return
	}
	e.done.Add(1)
	go e.awaitPressure(psi)
}

// awaitPressure closes psi, the kernel's notices of pressure, when it is to end.
func (e *engine) awaitPressure(psi int) {
	defer e.done.Done()
	defer unix.Close(psi)
	for {
		fds := [...]unix.PollFd{{Fd: int32(psi), Events: unix.POLLPRI}, {Fd: int32(e.stopFD), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 || fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			return
		}
		if fds[0].Revents&unix.POLLPRI != 0 {
			e.pressure()
		}
	}
}

// pressure gives back an eighth of what is resident.
func (e *engine) pressure() {
	e.m.stats.Pressure.Add(1)
	resident, err := e.m.back.resident(span{0, e.m.cfg.Window})
	if err == nil && resident > 0 {
		e.reclaim(max(resident/8, 16*RangeSize))
	}
}
