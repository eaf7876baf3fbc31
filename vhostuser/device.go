package vhostuser

import "github.com/virtiofsd-go/virtiofsd-go/guestmem"

// Device is what a session serves. Its methods are called from the one
// goroutine of the connection, one at a time, and must return promptly, since
// the front-end waits: none may wait for the back-end channel, nor for a
// request that does. One Device may serve connections one after the other.
//
// An error means that the host refused, or that the front-end set up what the
// device cannot use. It is logged, and answered where the front-end asked for
// an answer; the connection goes on.
type Device interface {
	// Features are the virtio feature bits that the device offers. The
	// session itself adds VHOST_F_LOG_ALL and VHOST_USER_F_PROTOCOL_FEATURES.
	Features() uint64

	// ProtocolFeatures are the protocol features that the device wants
	// offered, out of [Supported]. The session adds [ProtocolSHMEM] if there
	// are shared memory regions.
	ProtocolFeatures() ProtocolFeatures

	// NumQueues is the number of queues, 1 to 256, constant.
	NumQueues() int

	// MaxQueueSize is the largest queue size, 1 to 32768, constant.
	MaxQueueSize() int

	// ReadConfig returns up to n bytes of configuration space from offset
	// off. off+n is at most [MaxConfigSize]; what is missing at the end reads
	// as zero. With an error the front-end is told that the read failed.
	ReadConfig(off, n uint32) ([]byte, error)

	// WriteConfig changes configuration space. migration tells that the
	// front-end restores the state of a migrated device, which may set
	// read-only fields; otherwise they are refused.
	WriteConfig(off uint32, data []byte, migration bool) error

	// ShmemRegions are the sizes in bytes of the shared memory regions, by
	// shmid, multiples of the page size, constant; 0 is an id not used. At
	// most [MaxShmemRegions].
	ShmemRegions() []uint64

	// SetFeatures tells the virtio feature bits that the driver accepted,
	// always a subset of Features. It may come again, unchanged, while rings
	// run.
	SetFeatures(acked uint64)

	// StartRing starts ring i, which is stopped. On an error the ring stays
	// stopped, and enabling it is answered with failure.
	StartRing(i int, r Ring) error

	// EnableRing enables or disables ring i, which is started. A disabled
	// ring is not processed.
	EnableRing(i int, on bool) error

	// StopRing stops ring i, which is started: on return every request taken
	// from it has been completed or is recorded for being served again, and
	// nothing more is read from or written to the ring, its memory, its kick
	// fd and its in-flight region. It takes bounded time, which requests
	// that wait must not delay; the back-end channel has failed its waiters
	// by then. base is the value for GET_VRING_BASE, valid even with an error.
	StopRing(i int) (base uint32, err error)

	// LogRing turns on or off the marking of writes to the used ring of ring
	// i, which is started, in the dirty log; the used ring's first byte is
	// logged at guest address usedGPA.
	LogRing(i int, on bool, usedGPA uint64)

	// SetCall gives ring i the eventfd to write to when it has used buffers,
	// or -1: no notification. It comes in any state of the ring, while it
	// runs too, and holds until the next SetCall, over stops and resets. The
	// descriptor is the device's from here on.
	SetCall(i, fd int)

	// SetErr gives ring i the eventfd to write to when the ring is broken,
	// or -1, as SetCall does.
	SetErr(i, fd int)

	// BackendChannel hands over the channel for requests to the front-end.
	// It belongs to the session; each replaces the one before.
	BackendChannel(ch *BackendChannel)

	// Reset forgets the driver: RESET_DEVICE. All rings are stopped.
	//
	// A device status of 0 is no reset: QEMU sends it whenever the rings
	// stop, for a paused virtual machine too, which then goes on with the
	// state it had.
	Reset()

	// Closed tells that the connection is gone. All rings are stopped. The
	// device closes the call and error descriptors, and uses neither memory
	// nor back-end channel of the session any more.
	Closed()
}

// Ring is a ring as StartRing gets it.
type Ring struct {
	// Size is the number of descriptors, 1 to MaxQueueSize.
	Size uint32

	// Desc, Avail and Used are the user addresses of the descriptor table (or
	// packed descriptor ring), the available ring (driver event suppression)
	// and the used ring (device event suppression). They are as the front-end
	// sent them: resolving and checking them is the device's.
	Desc, Avail, Used uint64

	// UsedLogGPA is the guest address at which writes to the used ring are
	// logged, if Log is set.
	UsedLogGPA uint64
	Log        bool

	// Base is the value of SET_VRING_BASE, or the one that StopRing returned
	// if none came since: for a split ring the available index in the low 16
	// bits, for a packed ring both indices with their wrap counters.
	Base uint32

	// Features are the virtio feature bits that the driver accepted.
	Features uint64

	// Kick is the eventfd that the driver's notifications arrive on, or -1:
	// the ring is polled. The descriptor is the device's, which closes it when
	// the ring has stopped, and if StartRing fails.
	Kick int

	// Enabled says whether the ring may be processed at once; otherwise
	// EnableRing does.
	Enabled bool

	// Inflight is the region of the shared in-flight buffer for this ring, of
	// [InflightQueueSize] bytes, or nil. It is valid until StopRing returns.
	Inflight []byte

	// Mem is the guest's memory, for the life of the connection.
	Mem *guestmem.Memory
}

// MemoryObserver may be implemented by a Device that wants to know the regions
// of the memory table, which with QEMU include all shared memory mappings of the
// virtual machine, its own and those of other devices. The calls come from the
// connection's goroutine, after the change, and must not wait for anything.
type MemoryObserver interface {
	// RegionAdded tells a new region and how many there are now.
	RegionAdded(r Region, id FileID, total int)
	// RegionRemoved tells that a region is gone and how many are left.
	RegionRemoved(r Region, id FileID, total int)
	// Mapped says whether there are shared memory mappings among the regions,
	// the device's own or those of another.
	Mapped() bool
}
