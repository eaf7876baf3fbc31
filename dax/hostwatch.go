package dax

import (
	"encoding/binary"
	"math"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// hostWatch notices what others on the host do to files that the window shows,
// and takes the pages away so that the guest gets new ones. Managed only: with the
// other backings the pages are the file's own.
//
// fanotify tells who it was, unlike inotify, and so our own writes are left
// out. A change through a mapping of another process goes unnoticed.
type hostWatch struct {
	m      *Manager
	fan    int // -1: changes are not noticed
	stopFD int
	done   sync.WaitGroup

	mu     sync.Mutex
	files  map[string][]*inodeState // by fsid and file handle; several where one is seen by several mounts
	warned bool
}

func (h *hostWatch) start(m *Manager) {
	h.m, h.fan, h.stopFD = m, -1, -1
	h.files = make(map[string][]*inodeState)
	if m.cfg.Backing != Managed {
		return
	}
	fan, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_FID|unix.FAN_UNLIMITED_MARKS, unix.O_RDONLY)
	if err != nil {
		h.warn(err)
		return
	}
	if h.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		unix.Close(fan)
		h.warn(err)
		return
	}
	h.fan = fan
	h.done.Add(1)
	go h.loop()
}

func (h *hostWatch) stop() {
	if h.fan < 0 {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(h.stopFD, one[:])
	h.done.Wait()
	unix.Close(h.fan)
	unix.Close(h.stopFD)
}

// warn says once that changes are not noticed. h.mu is held, or nobody else runs.
func (h *hostWatch) warn(err error) {
	if h.warned {
		return
	}
	h.warned = true
	h.m.log.Warn("what others on the host change in files that the guest has mapped shows in the guest only when it maps them anew", "err", err)
}

// add watches x, whose fd is open.
func (h *hostWatch) add(x *inodeState) {
	if h.fan < 0 {
		return
	}
	key, err := fileKey(x.fd)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		err = unix.FanotifyMark(h.fan, unix.FAN_MARK_ADD, unix.FAN_MODIFY, x.fd, "")
	}
	if err != nil {
		h.warn(err)
		return
	}
	h.files[key] = append(h.files[key], x)
	x.watchKey = key
}

// remove ends that, before x.fd is closed.
func (h *hostWatch) remove(x *inodeState) {
	if h.fan < 0 || x.watchKey == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	left := slices.DeleteFunc(h.files[x.watchKey], func(o *inodeState) bool { return o == x })
	if len(left) > 0 {
		h.files[x.watchKey] = left
	} else {
		delete(h.files, x.watchKey)
		unix.FanotifyMark(h.fan, unix.FAN_MARK_REMOVE, unix.FAN_MODIFY, x.fd, "")
	}
	x.watchKey = ""
}

// fileKey names a file as fanotify does.
func fileKey(fd int) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", err
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return "", err
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(st.Fsid.Val[0]))
	b = binary.NativeEndian.AppendUint32(b, uint32(st.Fsid.Val[1]))
	b = binary.NativeEndian.AppendUint32(b, uint32(handle.Size()))
	b = binary.NativeEndian.AppendUint32(b, uint32(handle.Type()))
	return string(append(b, handle.Bytes()...)), nil
}

func (h *hostWatch) loop() {
	defer h.done.Done()
	own := int32(os.Getpid())
	op := h.m.NewOp()
	buf := make([]byte, 64<<10)
	for {
		fds := [...]unix.PollFd{{Fd: int32(h.fan), Events: unix.POLLIN}, {Fd: int32(h.stopFD), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		n, err := unix.Read(h.fan, buf)
		if err != nil {
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			h.m.log.Error("watching files that the guest has mapped", "err", err)
			return
		}
		changed := make(map[*inodeState]bool)
		for b := buf[:n]; len(b) >= eventHeader; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < eventHeader || size > len(b) {
				break
			}
			h.event(b[:size], own, changed)
			b = b[size:]
		}
		for x := range changed {
			h.m.stats.HostChanges.Add(1)
			h.m.refresh(op, x)
		}
	}
}

const eventHeader = 24 // struct fanotify_event_metadata

// event adds to changed what an event is about.
func (h *hostWatch) event(b []byte, own int32, changed map[*inodeState]bool) {
	ne := binary.NativeEndian
	mask, pid := ne.Uint64(b[8:]), int32(ne.Uint32(b[20:]))
	h.mu.Lock()
	defer h.mu.Unlock()
	if mask&unix.FAN_Q_OVERFLOW != 0 {
		for _, l := range h.files {
			for _, x := range l {
				changed[x] = true
			}
		}
		return
	}
	ours := pid == own || pid == int32(h.m.back.pid)
	for info := b[eventHeader:]; len(info) >= 4; {
		size := int(ne.Uint16(info[2:]))
		if size < 4 || size > len(info) {
			return
		}
		if info[0] == unix.FAN_EVENT_INFO_TYPE_FID && size >= 20 {
			// fsid, then struct file_handle, which may be padded.
			if n := 20 + int(ne.Uint32(info[12:])); n <= size {
				l := h.files[string(info[4:n])]
				if ours && len(l) == 1 {
					return
				}
				// What is done through one of several is a change for the others.
				for _, x := range l {
					changed[x] = true
				}
			}
		}
		info = info[size:]
	}
}

// refresh makes the guest read the pages of x from the file again.
func (m *Manager) refresh(op *Op, x *inodeState) {
	op.lock(x, classMmap, heldExclusive)
	defer op.End()
	if x.fd < 0 {
		return
	}
	size, ok := x.knownSize()
	if !ok {
		size = x.eof.Load()
	}
	m.replaced(op, x, 0, size)
}

// replaced has the guest read the pages of x again from the one on that has offset
// from: somebody else has changed the file, which now has size bytes. x's mmap lock
// is held exclusively. Pages that come back meanwhile are of that file.
func (m *Manager) replaced(op *Op, x *inodeState, from, size uint64) {
	m.spansOf(op, x, pageDown(from), math.MaxInt64)
	for _, s := range op.spans {
		if err := m.back.invalidate(s); err != nil {
			m.stats.InvalidateErrors.Add(1)
			size = min(size, x.eof.Load())
		}
	}
	op.spans = op.spans[:0]
	m.setEnd(op, x, size)
}
