package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// daxWindow puts the owner of the DAX window and the vhost-user session
// together: it is the device's window and the owner's way to the front-end.
type daxWindow struct {
	owner *dax.Manager
	ch    atomic.Pointer[vhostuser.BackendChannel]
	// base is the guest address of the window, 0 while it is not known.
	base atomic.Uint64

	mu sync.Mutex
	// made are the mappings asked for: they come back as memory regions, which
	// tells where the window lies in the guest.
	made map[mapping]uint64
	// table has the regions of the memory table; those that are true look like a
	// range of another device's window. seen is the one that is about to come.
	table map[vhostuser.Region]bool
	seen  struct {
		region vhostuser.Region
		alike  bool
	}
}

// mapping is what a memory region that is a mapping of ours has in common with it.
type mapping struct {
	file           vhostuser.FileID
	offset, length uint64
}

// startWindow starts the owner of the DAX window, if there is to be one.
func startWindow(c *config, log *slog.Logger) (*daxWindow, error) {
	if c.daxWindow == 0 {
		return nil, nil
	}
	owner, err := dax.New(dax.Config{Window: uint64(c.daxWindow), Backing: c.daxBacking, MinSize: uint64(c.daxMinSize), ByFlag: c.daxByFlag,
		Memory: uint64(c.daxMemory), MaxRegions: c.daxMaxRegions, Log: log})
	if err != nil {
		return nil, err
	}
	return &daxWindow{owner: owner, made: make(map[mapping]uint64), table: make(map[vhostuser.Region]bool)}, nil
}

// ShmemRegions implements device.Window: the window is shared memory region 0.
func (w *daxWindow) ShmemRegions() []uint64 { return []uint64{w.owner.WindowSize()} }

// BackendChannel implements device.Window.
func (w *daxWindow) BackendChannel(ch *vhostuser.BackendChannel) {
	w.ch.Store(ch)
	w.base.Store(0)
	if ch == nil {
		w.owner.SetMapper(nil)
		return
	}
	w.owner.SetMapper(w)
}

// RingsEnabled implements device.Window; the channel knows by itself.
func (w *daxWindow) RingsEnabled() {}

// RingsStopping implements device.Window; the channel knows by itself.
func (w *daxWindow) RingsStopping() {}

// RegionAdded implements vhostuser.MemoryObserver.
func (w *daxWindow) RegionAdded(r vhostuser.Region, id vhostuser.FileID, total int) {
	w.owner.SetRegions(total)
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.made[mapping{id, r.MmapOffset, r.Size}]; ok && r.GuestAddr >= at {
		w.base.Store(r.GuestAddr - at)
	}
	if total == 1 {
		clear(w.table) // of the connection before
	}
	w.table[r] = w.seen.alike && w.seen.region == r
}

// RegionRemoved implements vhostuser.MemoryObserver.
func (w *daxWindow) RegionRemoved(r vhostuser.Region, _ vhostuser.FileID, total int) {
	w.owner.SetRegions(total)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.table, r)
}

// Mapped implements vhostuser.MemoryObserver.
func (w *daxWindow) Mapped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r, alike := range w.table {
		if _, ours := w.offset(r.GuestAddr); ours || alike {
			return true
		}
	}
	return false
}

// Map implements dax.Mapper.
func (w *daxWindow) Map(ctx context.Context, offset, length uint64, fd int, fdOffset uint64) error {
	ch := w.ch.Load()
	if ch == nil {
		return vhostuser.ErrChannelClosed
	}
	key := mapping{offset: fdOffset, length: length}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err == nil {
		key.file = vhostuser.FileID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
	}
	w.mu.Lock()
	w.made[key] = offset
	w.mu.Unlock()
	err := ch.ShmemMap(ctx, vhostuser.Mapping{FD: fd, FDOffset: fdOffset, ShmOffset: offset, Len: length, Writable: true})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.made[key] == offset {
		delete(w.made, key)
	}
	return mapperError(err)
}

// Unmap implements dax.Mapper.
func (w *daxWindow) Unmap(ctx context.Context, offset, length uint64) error {
	ch := w.ch.Load()
	if ch == nil {
		return vhostuser.ErrChannelClosed
	}
	return mapperError(ch.ShmemUnmap(ctx, vhostuser.Mapping{ShmOffset: offset, Len: length}))
}

// mapperError adds to an error of the channel what it is to the window's owner.
func mapperError(err error) error {
	if errors.Is(err, vhostuser.ErrSuspended) {
		err = errors.Join(err, dax.ErrSuspended)
	}
	if errors.Is(err, vhostuser.ErrUncertain) {
		err = errors.Join(err, dax.ErrUncertain)
	}
	return err
}

// offset is the place in the window of a guest address, if it is one of the window.
func (w *daxWindow) offset(gpa uint64) (uint64, bool) {
	base := w.base.Load()
	if base == 0 || gpa < base || gpa-base >= w.owner.WindowSize() {
		return 0, false
	}
	return gpa - base, true
}

// classify says how a memory region may be touched: one that is a piece of the
// window must not be mapped here.
func (w *daxWindow) classify(fd int, r vhostuser.Region) guestmem.Kind {
	kind := vhostuser.Classify(fd, r)
	if w.owner.OwnsFile(fd) {
		kind = guestmem.Window
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen.region, w.seen.alike = r, kind != guestmem.RAM && r.Size == dax.RangeSize
	return kind
}
