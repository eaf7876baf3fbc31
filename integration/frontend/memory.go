package frontend

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// PageSize is the guest's page.
const PageSize = 4096

// Region is a piece of guest RAM. Regions with the same File share one memfd, each at its own Offset.
type Region struct {
	GPA, Size uint64
	File      int
	Offset    uint64
}

// PCRegions is the memory of a PC with size bytes: a piece below the VGA hole, one above it, and a third from 4 GiB on in
// a file of its own. size must be at least 4 MiB.
func PCRegions(size uint64) []Region {
	low := size / 4 &^ (PageSize - 1)
	return []Region{
		{GPA: 0, Size: 0xa0000},
		{GPA: 0x100000, Size: low, Offset: 0x100000},
		{GPA: 1 << 32, Size: size - low, File: 1},
	}
}

// Memory is the guest's RAM, mapped in this process. Its regions never change.
type Memory struct {
	regions []region
	files   []int

	mu   sync.Mutex
	next []uint64 // per region, the first byte not yet allocated
}

type region struct {
	Region
	fd   int
	data []byte
	user uint64
}

func newMemory(regions []Region) (*Memory, error) {
	m := &Memory{}
	for _, r := range regions {
		for len(m.files) <= r.File {
			fd, err := unix.MemfdCreate("guest-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
			if err != nil {
				m.close()
				return nil, fmt.Errorf("memfd for guest memory: %w", err)
			}
			m.files = append(m.files, fd)
		}
	}
	sizes := make([]uint64, len(m.files))
	for _, r := range regions {
		sizes[r.File] = max(sizes[r.File], r.Offset+r.Size)
	}
	for i, fd := range m.files {
		if err := unix.Ftruncate(fd, int64(sizes[i])); err != nil {
			m.close()
			return nil, fmt.Errorf("size guest memory to %d bytes: %w", sizes[i], err)
		}
	}
	for _, r := range regions {
		b, err := unix.Mmap(m.files[r.File], int64(r.Offset), int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			m.close()
			return nil, fmt.Errorf("map %d bytes of guest memory: %w", r.Size, err)
		}
		m.regions = append(m.regions, region{Region: r, fd: m.files[r.File], data: b, user: userAddr(b)})
		m.next = append(m.next, 0)
	}
	if m.next[0] == 0 && m.regions[0].GPA == 0 {
		m.next[0] = PageSize // address 0 stays free: a zeroed descriptor must point at nothing useful
	}
	return m, nil
}

func (m *Memory) close() {
	for _, r := range m.regions {
		unix.Munmap(r.data)
	}
	closeAll(m.files)
	m.regions, m.files = nil, nil
}

// Regions lists the RAM.
func (m *Memory) Regions() []Region {
	var out []Region
	for _, r := range m.regions {
		out = append(out, r.Region)
	}
	return out
}

// Alloc gives n contiguous bytes at a multiple of align, a power of two. They lie in the last region with room for them
// and are never given back.
func (m *Memory) Alloc(n, align uint64) (gpa uint64, err error) {
	for i := len(m.regions) - 1; i >= 0; i-- {
		if gpa, ok := m.AllocIn(i, n, align); ok {
			return gpa, nil
		}
	}
	return 0, fmt.Errorf("guest memory is used up: no room for %d bytes", n)
}

// AllocIn is Alloc from the region with index i.
func (m *Memory) AllocIn(i int, n, align uint64) (gpa uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.regions[i]
	at := (r.GPA+m.next[i]+align-1)&^(align-1) - r.GPA
	if at+n > r.Size {
		return 0, false
	}
	m.next[i] = at + n
	return r.GPA + at, true
}

// Bytes is guest memory in place, or nil if [gpa, gpa+n) does not lie in one region.
func (m *Memory) Bytes(gpa, n uint64) []byte {
	for i := range m.regions {
		r := &m.regions[i]
		if gpa >= r.GPA && gpa-r.GPA <= r.Size && n <= r.Size-(gpa-r.GPA) {
			return r.data[gpa-r.GPA:][:n:n]
		}
	}
	return nil
}

// User is the front-end's address of guest memory, which SET_VRING_ADDR uses.
func (m *Memory) User(gpa uint64) (uint64, bool) {
	for i := range m.regions {
		r := &m.regions[i]
		if gpa >= r.GPA && gpa-r.GPA < r.Size {
			return r.user + (gpa - r.GPA), true
		}
	}
	return 0, false
}
