package vhostuser

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// MaxMemSlots is the answer to GET_MAX_MEM_SLOTS. QEMU uses no more than 512
// either, and it may never become less between two connections.
const MaxMemSlots = 512

// FileID identifies the file behind a descriptor.
type FileID struct {
	Dev, Ino uint64
}

// identify finds the identity of fd's file without a request to the file system
// that holds it, which may be served by a process that is waiting for us.
func identify(fd int) (FileID, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	if err != nil {
		return FileID{}, err
	}
	return FileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, nil
}

// Classify is the default of [Config.Classify]: memfd, tmpfs and hugetlbfs are
// RAM, everything else is a file that somebody may truncate. Only the former
// have seals, and asking for them involves no file system.
func Classify(fd int, _ Region) guestmem.Kind {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil {
		return guestmem.RAM
	}
	return guestmem.File
}

// knownRegion is a region of the memory table.
type knownRegion struct {
	Region
	id FileID
}

func (r Region) overlaps(o Region) bool {
	return overlap(r.GuestAddr, o.GuestAddr, r.Size, o.Size) || overlap(r.UserAddr, o.UserAddr, r.Size, o.Size)
}

func overlap(a, b, alen, blen uint64) bool { return a < b+blen && b < a+alen }

// check refuses a region that no correct front-end can describe. others are the
// regions that are there with it.
func (r Region) check(req Request, others []knownRegion) error {
	fault := ""
	switch {
	case r.Size == 0:
		fault = "is empty"
	case r.GuestAddr+r.Size < r.GuestAddr, r.UserAddr+r.Size < r.UserAddr:
		fault = "runs past the end of the address space"
	case r.MmapOffset > 1<<62, r.Size > 1<<62:
		fault = fmt.Sprintf("has the impossible file offset %#x", r.MmapOffset)
	}
	for i := range others {
		if fault == "" && r.overlaps(others[i].Region) {
			fault = fmt.Sprintf("overlaps the one at guest address %#x, user address %#x", others[i].GuestAddr, others[i].UserAddr)
		}
	}
	if fault == "" {
		return nil
	}
	return breach(req, fmt.Sprintf("the region of %#x bytes at guest address %#x, user address %#x %s", r.Size, r.GuestAddr, r.UserAddr, fault),
		"report this as a bug of the front-end")
}

// spec takes descriptor i of m for region r. On an error the descriptor stays
// with m.
func (s *session) spec(m *message, i int, r Region) (guestmem.RegionSpec, FileID, error) {
	fd := m.fds[i]
	id, err := identify(fd)
	if err != nil {
		return guestmem.RegionSpec{}, id, fmt.Errorf("identifying the file of the region at guest address %#x: %w", r.GuestAddr, err)
	}
	kind := s.classify(fd, r)
	if kind == guestmem.RAM {
		// Plain loads past the end of the file would be fatal.
		if err := checkFileSize(fd, r.MmapOffset, r.Size); err != nil {
			return guestmem.RegionSpec{}, id, fmt.Errorf("region at guest address %#x: %w", r.GuestAddr, err)
		}
	}
	return guestmem.RegionSpec{
		GuestAddr: r.GuestAddr, UserAddr: r.UserAddr, Size: r.Size,
		MmapOffset: r.MmapOffset, FD: m.takeFD(i), Kind: kind,
	}, id, nil
}

// checkFileSize makes sure that size bytes at offset of fd are in its file.
func checkFileSize(fd int, offset, size uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("reading the size of the shared file: %w", err)
	}
	if offset+size < size || offset+size > uint64(st.Size) {
		return fmt.Errorf("%#x bytes at offset %#x are past the end of the shared file of %#x bytes; give the front-end a larger one", size, offset, st.Size)
	}
	return nil
}

func (s *session) setMemTable(m *message) error {
	n := le.Uint32(m.payload)
	if n > maxTableRegions || int(n)*regionSize != len(m.payload)-memTableHeadSize {
		return breach(m.request, fmt.Sprintf("%d regions in a payload of %d bytes", n, len(m.payload)), "send 8 bytes and 32 for each of at most 8 regions")
	}
	if int(n) != len(m.fds) {
		return breach(m.request, fmt.Sprintf("%d file descriptors for %d regions", len(m.fds), n), "send one for each region")
	}
	table := make([]knownRegion, 0, n)
	for i := range int(n) {
		r := decodeRegion(m.payload[memTableHeadSize+i*regionSize:])
		if err := r.check(m.request, table); err != nil {
			return err
		}
		table = append(table, knownRegion{Region: r})
	}
	specs := make([]guestmem.RegionSpec, 0, n)
	for i := range table {
		spec, id, err := s.spec(m, i, table[i].Region)
		if err != nil {
			for _, taken := range specs {
				_ = unix.Close(taken.FD)
			}
			return err
		}
		table[i].id = id
		specs = append(specs, spec)
	}
	if err := s.mem.Replace(specs); err != nil {
		return fmt.Errorf("replacing the memory table: %w", err)
	}
	old := s.regions
	s.regions = table
	for _, r := range old {
		if !contains(table, r) {
			s.regionRemoved(r)
		}
	}
	for _, r := range table {
		if !contains(old, r) {
			s.regionAdded(r)
		}
	}
	s.checkLog()
	return nil
}

func contains(table []knownRegion, r knownRegion) bool {
	for i := range table {
		if table[i] == r {
			return true
		}
	}
	return false
}

func (s *session) getMaxMemSlots(m *message) error {
	return s.replyU64(m, MaxMemSlots)
}

func (s *session) addMemReg(m *message) error {
	r := decodeRegion(m.payload[memRegSize-regionSize:])
	if err := r.check(m.request, s.regions); err != nil {
		return err
	}
	if len(s.regions) >= MaxMemSlots {
		return fmt.Errorf("%d memory regions are the most that are served; give the virtual machine fewer memory devices or shared memory mappings", MaxMemSlots)
	}
	spec, id, err := s.spec(m, 0, r)
	if err != nil {
		return err
	}
	if err := s.mem.Add(spec); err != nil {
		return fmt.Errorf("adding the region at guest address %#x: %w", r.GuestAddr, err)
	}
	known := knownRegion{r, id}
	s.regions = append(s.regions, known)
	s.regionAdded(known)
	s.checkLog()
	return nil
}

// remMemReg removes a region that was added. One that is not there was refused
// before, which the front-end need not have noticed.
func (s *session) remMemReg(m *message) error {
	r := decodeRegion(m.payload[memRegSize-regionSize:])
	for i, known := range s.regions {
		if known.GuestAddr != r.GuestAddr || known.UserAddr != r.UserAddr || known.Size != r.Size {
			continue
		}
		if err := s.mem.Remove(r.GuestAddr, r.UserAddr, r.Size); err != nil {
			return fmt.Errorf("removing the region at guest address %#x: %w", r.GuestAddr, err)
		}
		s.regions = append(s.regions[:i], s.regions[i+1:]...)
		s.regionRemoved(known)
		return nil
	}
	return fmt.Errorf("there is no region of %#x bytes at guest address %#x, user address %#x; see above whether it was refused, or report this as a bug of the front-end", r.Size, r.GuestAddr, r.UserAddr)
}

func (s *session) regionAdded(r knownRegion) {
	if s.backend != nil {
		s.backend.regionAdded(r)
	}
	if o, ok := s.dev.(MemoryObserver); ok {
		o.RegionAdded(r.Region, r.id, len(s.regions))
	}
}

func (s *session) regionRemoved(r knownRegion) {
	if o, ok := s.dev.(MemoryObserver); ok {
		o.RegionRemoved(r.Region, r.id, len(s.regions))
	}
}

// setLogBase takes the dirty log. Its own reply is success or failure.
func (s *session) setLogBase(m *message) error {
	err := s.takeLog(m)
	if lost := s.replyU64(m, failure(err)); lost != nil {
		return lost
	}
	return err
}

func (s *session) takeLog(m *message) error {
	d := decodeLog(m.payload)
	if err := checkFileSize(m.fds[0], d.mmapOffset, d.mmapSize); err != nil {
		return fmt.Errorf("dirty log: %w", err)
	}
	log, err := guestmem.NewDirtyLog(m.takeFD(0), d.mmapOffset, d.mmapSize)
	if err != nil {
		return err
	}
	if err := s.setLogEvent(log); err != nil {
		s.log.Warn("the front-end will not be told of changes to the dirty log; do not migrate this virtual machine", "error", err)
	}
	old := s.dirtyLog
	s.dirtyLog = log
	s.applyLog()
	closeLog(old)
	s.checkLog()
	return nil
}

// checkLog warns of memory that the log has no pages for: what is written there
// does not get to the other side of a migration.
func (s *session) checkLog() {
	if s.dirtyLog == nil {
		return
	}
	for _, r := range s.regions {
		if !s.dirtyLog.Covers(r.GuestAddr, r.Size) {
			s.log.Warn("the front-end's dirty log is too small for guest memory; do not migrate this virtual machine, and report it as a bug of the front-end",
				"region", fmt.Sprintf("%#x", r.GuestAddr), "size", fmt.Sprintf("%#x", r.Size))
		}
	}
}

// applyLog turns dirty logging of the device's writes on or off.
func (s *session) applyLog() {
	if s.acked&FeatureLogAll != 0 {
		s.mem.SetLog(s.dirtyLog)
	} else {
		s.mem.SetLog(nil)
	}
}

// closeLog gives up a log that is no longer set, or nil. Requests that have a
// snapshot of the memory with it go on using it.
func closeLog(log *guestmem.DirtyLog) {
	if log != nil {
		log.Close()
	}
}

// setLogFD takes the eventfd that tells the front-end that the log has changed,
// for the log that there is and those to come.
func (s *session) setLogFD(m *message) error {
	s.closeLogFD()
	s.logFD = m.takeFD(0)
	if s.dirtyLog == nil {
		return nil
	}
	return s.setLogEvent(s.dirtyLog)
}

func (s *session) setLogEvent(log *guestmem.DirtyLog) error {
	if s.logFD < 0 {
		return nil
	}
	return log.SetEvent(s.logFD)
}

func (s *session) closeLogFD() {
	if s.logFD >= 0 {
		_ = unix.Close(s.logFD)
	}
	s.logFD = -1
}

// settleTime bounds how long the end of a session waits for files that were
// guest memory to be closed, which a file system that hangs could hold up.
const settleTime = 5 * time.Second

// releaseMemory drops the memory table and the log. Nothing uses them any more.
func (s *session) releaseMemory() {
	s.mem.SetLog(nil)
	if err := s.mem.Replace(nil); err != nil {
		s.log.Error("the memory table can't be dropped; please report it", "error", err)
	}
	s.regions = nil
	closeLog(s.dirtyLog)
	s.dirtyLog = nil
	s.closeLogFD()
	settled := make(chan struct{})
	go func() {
		s.mem.Settle()
		close(settled)
	}()
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-settled:
	case <-timer.C:
		s.log.Warn("files that were guest memory are still being closed; see whether the file system that holds them hangs")
	}
}
