package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// WindowGPA is the guest address of shared memory region 0.
const WindowGPA uint64 = 1 << 40

// Mapping is a SHMEM_MAP. Two are the same to QEMU if offset and length are.
type Mapping struct {
	ShmID                   uint8
	FileOffset, Offset, Len uint64
	Flags                   uint64
	fd                      int
}

func (m Mapping) String() string {
	return fmt.Sprintf("[%#x, +%#x) of file offset %#x", m.Offset, m.Len, m.FileOffset)
}

// Window is shared memory region 0, at WindowGPA in the guest and at one address in this process. Where nothing is
// mapped, a guest reads zero and loses what it writes; here that is an error of Load and Store.
type Window struct {
	Size uint64

	addr uintptr
	mu   sync.Mutex
	maps []Mapping
	// Maps and Unmaps count what was committed, Refused what was not.
	stats WindowStats
}

// WindowStats counts requests on the window.
type WindowStats struct{ Maps, Unmaps, Refused uint64 }

// ErrUnmapped is an access to the window where the guest would see no memory.
var ErrUnmapped = errors.New("nothing is mapped there")

func (f *Frontend) openWindow() error {
	reply, fds, err := f.ask(Message{Request: GetShmemConfig})
	if err != nil {
		return err
	}
	closeAll(fds)
	if len(reply.Payload) != shmemConfigSize {
		return fmt.Errorf("%w: GET_SHMEM_CONFIG answered with %d bytes, not %d", errProtocol, len(reply.Payload), shmemConfigSize)
	}
	le := binary.LittleEndian
	var sizes []uint64
	for i := range 256 {
		if s := le.Uint64(reply.Payload[8+8*i:]); s != 0 {
			if s%PageSize != 0 {
				return fmt.Errorf("shared memory region %d has %d bytes, not whole pages", i, s)
			}
			sizes = append(sizes, s)
		}
	}
	if n := le.Uint32(reply.Payload); int(n) != len(sizes) {
		f.fault("GET_SHMEM_CONFIG says %d regions and lists %d", n, len(sizes))
	}
	first := le.Uint64(reply.Payload[8:])
	if first == 0 {
		return nil
	}
	if f.Window != nil {
		if f.Window.Size != first {
			return fmt.Errorf("the window went from %d to %d bytes", f.Window.Size, first)
		}
		return nil
	}
	addr, err := reserve(first)
	if err != nil {
		return fmt.Errorf("address space for a window of %d bytes: %w", first, err)
	}
	f.Window = &Window{Size: first, addr: addr}
	return nil
}

func (w *Window) close() {
	w.clear()
	unreserve(w.addr, w.Size)
}

// Mappings lists what is mapped.
func (w *Window) Mappings() []Mapping {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Mapping(nil), w.maps...)
}

// Stats counts requests since the start.
func (w *Window) Stats() WindowStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

func (w *Window) slots() []slot {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []slot
	for _, m := range w.maps {
		out = append(out, slot{WindowGPA + m.Offset, m.Len, uint64(w.addr) + m.Offset, m.FileOffset, m.fd})
	}
	return out
}

// prepareMap checks as vhost_user_backend_handle_shmem_map and qemu_ram_alloc_from_fd do, and takes a copy of the fd.
func (w *Window) prepareMap(m *Mapping, fds []int) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() {
		if err != nil {
			w.stats.Refused++
		}
	}()
	switch {
	case len(fds) != 1:
		return fmt.Errorf("%d descriptors, not one", len(fds))
	case m.ShmID != 0:
		return fmt.Errorf("no shared memory region %d", m.ShmID)
	case m.Len == 0 || m.Offset > w.Size || m.Len > w.Size-m.Offset:
		return fmt.Errorf("%v lies outside the window of %#x bytes", m, w.Size)
	}
	for _, x := range w.maps {
		if m.Offset < x.Offset+x.Len && x.Offset < m.Offset+m.Len {
			return fmt.Errorf("%v overlaps %v", m, x)
		}
	}
	if m.FileOffset%PageSize != 0 || m.Offset%PageSize != 0 {
		return fmt.Errorf("%v is not aligned to pages", m)
	}
	if m.Len < PageSize {
		return fmt.Errorf("a memory size of %d is less than a page", m.Len)
	}
	// A seek that fails passes, as it does there.
	if size, err := unix.Seek(fds[0], 0, unix.SEEK_END); err == nil {
		end := int64(m.FileOffset + (m.Len+PageSize-1)&^(PageSize-1))
		if size == 0 {
			if err := unix.Ftruncate(fds[0], end); err != nil {
				return fmt.Errorf("QEMU can't extend an empty file to %d bytes: %w", end, err)
			}
		} else if size < end {
			return fmt.Errorf("backing store size %#x is too small for 'size' option %#x", size, end)
		}
	}
	// QEMU maps before it replies (into its own address space; the guest sees it at the commit), so a file that can't be
	// mapped writable is refused.
	probe, err := unix.Mmap(fds[0], int64(m.FileOffset), int(m.Len), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("unable to map backing store for guest RAM: %w", err)
	}
	unix.Munmap(probe)
	if m.fd, err = unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	return nil
}

func (w *Window) commitMap(m Mapping) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := mapFixed(w.addr+uintptr(m.Offset), m.Len, m.fd, int64(m.FileOffset)); err != nil {
		unix.Close(m.fd)
		return err
	}
	w.maps = append(w.maps, m)
	w.stats.Maps++
	return nil
}

func (w *Window) prepareUnmap(m Mapping) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.find(m) < 0 {
		w.stats.Refused++
		return errors.New("shared memory mapping not found")
	}
	return nil
}

func (w *Window) find(m Mapping) int {
	for i, x := range w.maps {
		if m.ShmID == 0 && x.Offset == m.Offset && x.Len == m.Len {
			return i
		}
	}
	return -1
}

func (w *Window) commitUnmap(m Mapping) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := w.find(m); i >= 0 {
		w.drop(w.maps[i])
		w.maps = append(w.maps[:i:i], w.maps[i+1:]...)
		w.stats.Unmaps++
	}
}

func (w *Window) drop(m Mapping) {
	mapFixed(w.addr+uintptr(m.Offset), m.Len, -1, 0)
	unix.Close(m.fd)
}

// clear is virtio_reset: all mappings go, and no message tells.
func (w *Window) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.maps {
		w.drop(m)
	}
	w.maps = nil
}

// mapped says whether [off, off+n) is covered.
func (w *Window) mapped(off, n uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n > 0 {
		found := false
		for _, m := range w.maps {
			if off >= m.Offset && off-m.Offset < m.Len {
				step := min(n, m.Len-(off-m.Offset))
				off, n, found = off+step, n-step, true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// Load and Store are the guest's accesses to the window. The copy is made by the kernel: an access that would raise
// SIGBUS is EFAULT, and the garbage collector does not wait for one that takes long.
func (w *Window) Load(p []byte, off uint64) error {
	if !w.mapped(off, uint64(len(p))) {
		return ErrUnmapped
	}
	n, err := copyFrom(p, w.addr+uintptr(off))
	if err == nil && n < len(p) {
		err = unix.EFAULT
	}
	return err
}

func (w *Window) Store(p []byte, off uint64) error {
	if !w.mapped(off, uint64(len(p))) {
		return ErrUnmapped
	}
	n, err := copyTo(w.addr+uintptr(off), p)
	if err == nil && n < len(p) {
		err = unix.EFAULT
	}
	return err
}

// Bytes is mapped window memory in place, or nil. Touching it past the end of a file raises SIGBUS, and so does touching it
// after it was unmapped.
func (w *Window) Bytes(off uint64, n int) []byte {
	if !w.mapped(off, uint64(n)) {
		return nil
	}
	return bytesAt(w.addr+uintptr(off), n)
}
