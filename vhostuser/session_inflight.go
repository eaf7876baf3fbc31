package vhostuser

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sizes of the structures of the in-flight buffer (specification, "Inflight I/O
// tracking"): QueueRegionSplit and DescStateSplit, and those for packed rings.
// Regions are aligned to a cache line.
const (
	inflightHeadSplit  = 16
	inflightDescSplit  = 16
	inflightHeadPacked = 32
	inflightDescPacked = 32
	inflightAlign      = 64
)

// InflightQueueSize returns the number of bytes that track the requests of one
// ring of queueSize descriptors.
func InflightQueueSize(packed bool, queueSize uint32) int {
	if packed {
		return inflightHeadPacked + int(queueSize)*inflightDescPacked
	}
	return inflightHeadSplit + int(queueSize)*inflightDescSplit
}

// inflightStride is the distance between the regions of two rings.
func inflightStride(packed bool, queueSize uint32) int {
	return (InflightQueueSize(packed, queueSize) + inflightAlign - 1) &^ (inflightAlign - 1)
}

// inflightBuffer is the buffer that survives this process in the front-end.
type inflightBuffer struct {
	mem       []byte
	numQueues int
	queueSize uint32
}

// queue returns the region of ring i, or nil if there is no buffer.
func (b *inflightBuffer) queue(i int, size uint32, packed bool) ([]byte, error) {
	if b.mem == nil || i >= b.numQueues {
		return nil, nil
	}
	if size > b.queueSize {
		return nil, fmt.Errorf("the in-flight buffer is for queues of %d, the ring has %d; ask for a buffer with the ring's size", b.queueSize, size)
	}
	stride := inflightStride(packed, b.queueSize)
	from, n := i*stride, InflightQueueSize(packed, size)
	if from+n > len(b.mem) {
		return nil, fmt.Errorf("the in-flight buffer has %d bytes, ring %d needs those up to %d; ask for a buffer after SET_FEATURES", len(b.mem), i, from+n)
	}
	return b.mem[from : from+n : from+n], nil
}

func (b *inflightBuffer) release() {
	if b.mem != nil {
		_ = unix.Munmap(b.mem)
	}
	*b = inflightBuffer{}
}

// checkInflight checks what GET_INFLIGHT_FD and SET_INFLIGHT_FD have in common.
func (s *session) checkInflight(m *message) (inflightDesc, error) {
	d := decodeInflight(m.payload)
	if len(m.payload) != inflightSize && len(m.payload) != inflightPacked {
		return d, breach(m.request, fmt.Sprintf("payload of %d bytes, not %d or %d", len(m.payload), inflightPacked, inflightSize),
			"send the structure that the specification gives for it")
	}
	if d.numQueues == 0 || int(d.numQueues) > len(s.vrings) {
		return d, breach(m.request, fmt.Sprintf("%d queues, the device has %d", d.numQueues, len(s.vrings)),
			"configure no more queues in the front-end than the device has")
	}
	if d.queueSize == 0 || d.queueSize > maxVringSize {
		return d, breach(m.request, fmt.Sprintf("queue size %d, not 1 to %d", d.queueSize, maxVringSize), "send the size of the queues")
	}
	return d, nil
}

// getInflightFD makes a new buffer and gives it away: it comes back with
// SET_INFLIGHT_FD at each start. A reply with size 0 says that there is none.
func (s *session) getInflightFD(m *message) error {
	d, err := s.checkInflight(m)
	if err != nil {
		return err
	}
	stride := inflightStride(s.acked&featureRingPacked != 0, uint32(d.queueSize))
	d.mmapSize, d.mmapOffset = uint64(stride)*uint64(d.numQueues), 0
	fd, err := newInflightFile(int64(d.mmapSize))
	if err != nil {
		fd, d.mmapSize = -1, 0
	} else {
		defer unix.Close(fd)
	}
	size := len(m.payload)
	lost := s.reply(m, fd, func(b []byte) []byte {
		b = d.append(b)
		if size == inflightSize {
			b = le.AppendUint32(b, 0)
		}
		return b
	})
	if lost != nil {
		return lost
	}
	return err
}

// newInflightFile makes a file of zeroes whose size nobody can change.
func newInflightFile(size int64) (int, error) {
	fd, err := unix.MemfdCreate("vhost-user-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("making the in-flight buffer (is the limit of open files reached?): %w", err)
	}
	err = unix.Ftruncate(fd, size)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("making the in-flight buffer of %d bytes (is memory short?): %w", size, err)
	}
	return fd, nil
}

// setInflightFD takes the buffer, possibly one that an earlier process made.
func (s *session) setInflightFD(m *message) error {
	d, err := s.checkInflight(m)
	if err != nil {
		return err
	}
	least := uint64(inflightStride(s.acked&featureRingPacked != 0, uint32(d.queueSize))) * uint64(d.numQueues)
	if d.mmapSize < least || d.mmapSize > 1<<32 || d.mmapOffset%uint64(os.Getpagesize()) != 0 || d.mmapOffset > 1<<62 {
		return breach(m.request, fmt.Sprintf("%d bytes at offset %d for %d queues of %d, which take %d at a page boundary",
			d.mmapSize, d.mmapOffset, d.numQueues, d.queueSize, least), "send back what GET_INFLIGHT_FD answered")
	}
	if err := checkFileSize(m.fds[0], d.mmapOffset, d.mmapSize); err != nil {
		return fmt.Errorf("in-flight buffer: %w", err)
	}
	mem, err := unix.Mmap(m.fds[0], int64(d.mmapOffset), int(d.mmapSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the in-flight buffer (is memory short?): %w", err)
	}
	s.inflight.release()
	s.inflight = inflightBuffer{mem: mem, numQueues: int(d.numQueues), queueSize: uint32(d.queueSize)}
	return nil
}
