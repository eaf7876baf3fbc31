package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// Limits of the device.
const (
	// MaxTag is the size in bytes of the tag in the configuration space.
	MaxTag = 36
	// MaxRequestQueues is the number of request queues beside hiprio.
	MaxRequestQueues = 64
	// maxQueueSize is the largest size that virtio allows.
	maxQueueSize = 32768
	// configSize is the size of struct virtio_fs_config: tag and number of
	// request queues.
	configSize = MaxTag + 4
)

// Feature bits of virtio.
const (
	featureIndirectDesc uint64 = 1 << 28
	featureEventIdx     uint64 = 1 << 29
	featureVersion1     uint64 = 1 << 32
	featureRingPacked   uint64 = 1 << 34
)

// Options configures a Device.
type Options struct {
	// Server answers the requests. It is needed.
	Server Server

	// RequestQueues is the number of request queues, 1 to MaxRequestQueues.
	RequestQueues int

	// Tag is what the configuration space has as the name of the file
	// system, up to MaxTag bytes. If it is empty there is no configuration
	// space, and the front-end provides it.
	Tag string

	// Workers is the number of threads for requests that may block, shared
	// by all queues; the reader of each queue serves one more. With 0 it is
	// the readers alone, and what is behind such a request waits.
	Workers int

	// Helpers is the number of threads that answer large requests beside the
	// readers. With 0, or without Workers, there are none.
	Helpers int

	// Waiters is the number of threads for requests that wait for others.
	// 0 stands for 256.
	Waiters int

	// WorkerIdle is how long a worker without work lives. 0 stands for 10 s.
	WorkerIdle time.Duration

	// BusyPoll is how long the reader of a queue may look for the next request
	// before it sleeps. 0: it sleeps at once.
	BusyPoll time.Duration

	// StopLimit bounds how long a stop of a ring waits for requests that are
	// being served. 0 stands for 20 s. What takes longer completes when the
	// ring runs again, or never.
	StopLimit time.Duration

	// Window has the shared memory regions. nil: there are none.
	Window Window

	// NoMemSlots takes CONFIGURE_MEM_SLOTS off the offer, which bounds the
	// front-end to eight memory regions in all. QEMU 11.1 dies at the next
	// start of a device that was reset with a mapping in its window, if
	// that is negotiated.
	NoMemSlots bool

	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

// Window is the owner of the device's shared memory regions. Its methods are
// called from the session's goroutine and must not wait.
type Window interface {
	// ShmemRegions and BackendChannel are those of vhostuser.Device.
	ShmemRegions() []uint64
	BackendChannel(ch *vhostuser.BackendChannel)

	// RingsEnabled tells that the first ring runs: from now on the front-end
	// takes back-end requests.
	RingsEnabled()
	// RingsStopping tells that a ring is about to stop, before it does: from
	// now on the front-end takes no back-end requests, and those under way
	// fail.
	RingsStopping()
}

// Device is a virtio-fs device for one front-end at a time. It implements
// vhostuser.Device.
type Device struct {
	opts     Options
	log      *slog.Logger
	limited  limitedLog
	rings    []*ring
	pool     crew
	detached crew
	helpers  helpers
	// inline says that readers serve requests that may block.
	inline bool
	// hiprio is the life of that ring, or the last one.
	hiprio  atomic.Pointer[run]
	running int  // rings that are started
	enabled bool // RingsEnabled was told
	config  []byte
	// late counts requests that are still being served although their ring
	// has stopped.
	late sync.WaitGroup
}

var _ vhostuser.Device = (*Device)(nil)

// New makes a device. Close ends its threads.
func New(opts Options) (*Device, error) {
	switch {
	case opts.RequestQueues < 1 || opts.RequestQueues > MaxRequestQueues:
		return nil, fmt.Errorf("%d request queues are not possible; choose 1 to %d", opts.RequestQueues, MaxRequestQueues)
	case len(opts.Tag) > MaxTag:
		return nil, fmt.Errorf("the tag has %d bytes; choose one of at most %d", len(opts.Tag), MaxTag)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Waiters == 0 {
		opts.Waiters = 256
	}
	if opts.WorkerIdle == 0 {
		opts.WorkerIdle = 10 * time.Second
	}
	if opts.StopLimit == 0 {
		opts.StopLimit = 20 * time.Second
	}
	d := &Device{opts: opts, log: opts.Logger, inline: opts.Workers == 0}
	d.limited.init(opts.Logger)
	d.pool.init(d, opts.Workers)
	d.detached.init(d, opts.Waiters)
	if opts.Workers == 0 {
		opts.Helpers = 0 // nobody serves what they can't
	}
	d.helpers.init(d, opts.Helpers)
	if y, ok := opts.Server.(Yielder); ok {
		d.detached.crowded = y.Yield
	}
	for i := range opts.RequestQueues + 1 {
		r := &ring{dev: d, index: i}
		r.call.init()
		r.errs.init()
		d.rings = append(d.rings, r)
	}
	d.config = make([]byte, configSize)
	copy(d.config, opts.Tag)
	binary.LittleEndian.PutUint32(d.config[MaxTag:], uint32(opts.RequestQueues))
	return d, nil
}

// Close ends the threads of the device and closes its descriptors. No connection may be served any more.
func (d *Device) Close() {
	d.helpers.close()
	d.pool.close()
	d.detached.close()
	for _, r := range d.rings {
		r.call.close()
		r.errs.close()
	}
}

// QueueStats returns the counters of a queue; 0 is hiprio.
func (d *Device) QueueStats(queue int) *QueueStats { return &d.rings[queue].stats }

// NumQueues returns the number of queues, hiprio included.
func (d *Device) NumQueues() int { return len(d.rings) }

// MaxQueueSize returns the largest size of a queue.
func (d *Device) MaxQueueSize() int { return maxQueueSize }

// Features returns the virtio features on offer.
func (d *Device) Features() uint64 {
	return featureVersion1 | featureIndirectDesc | featureEventIdx | featureRingPacked
}

// SetFeatures implements vhostuser.Device. Each ring gets its features when it
// starts.
func (d *Device) SetFeatures(uint64) {}

// ProtocolFeatures returns the vhost-user protocol features on offer.
func (d *Device) ProtocolFeatures() vhostuser.ProtocolFeatures {
	f := vhostuser.Supported
	if d.opts.NoMemSlots {
		f &^= vhostuser.ProtocolConfigureMemSlots
	}
	if d.opts.Tag == "" {
		f &^= vhostuser.ProtocolConfig
	}
	return f
}

// ReadConfig returns a part of struct virtio_fs_config.
func (d *Device) ReadConfig(off, n uint32) ([]byte, error) {
	if off >= configSize {
		return nil, nil
	}
	return d.config[off:min(uint64(off)+uint64(n), configSize)], nil
}

// WriteConfig refuses every change: there is no field that a driver may write.
// The state of a migrated device is taken if it is what the device has.
func (d *Device) WriteConfig(off uint32, data []byte, migration bool) error {
	if migration {
		have, _ := d.ReadConfig(off, uint32(len(data)))
		if string(have) == string(data[:min(len(have), len(data))]) {
			return nil
		}
		return errors.New("the configuration space of the other side differs from this one's; give the daemons on both sides the same tag and number of queues")
	}
	return errors.New("the guest's driver writes to the configuration space, which is read-only; report this as a bug of the driver")
}

// ShmemRegions returns the sizes of the shared memory regions.
func (d *Device) ShmemRegions() []uint64 {
	if d.opts.Window == nil {
		return nil
	}
	return d.opts.Window.ShmemRegions()
}

// BackendChannel implements vhostuser.Device.
func (d *Device) BackendChannel(ch *vhostuser.BackendChannel) {
	if d.opts.Window != nil {
		d.opts.Window.BackendChannel(ch)
	}
}

// RegionAdded implements vhostuser.MemoryObserver for a Window that does.
func (d *Device) RegionAdded(r vhostuser.Region, id vhostuser.FileID, total int) {
	if o, ok := d.opts.Window.(vhostuser.MemoryObserver); ok {
		o.RegionAdded(r, id, total)
	}
}

// RegionRemoved implements vhostuser.MemoryObserver for a Window that does.
func (d *Device) RegionRemoved(r vhostuser.Region, id vhostuser.FileID, total int) {
	if o, ok := d.opts.Window.(vhostuser.MemoryObserver); ok {
		o.RegionRemoved(r, id, total)
	}
}

// Mapped implements vhostuser.MemoryObserver for a Window that does.
func (d *Device) Mapped() bool {
	o, ok := d.opts.Window.(vhostuser.MemoryObserver)
	return ok && o.Mapped()
}

// SetCall implements vhostuser.Device. It calls the driver: a daemon that was
// killed may have published requests and not told of them, and what was published
// while there was no descriptor was told to nobody.
func (d *Device) SetCall(i, fd int) {
	r := d.rings[i]
	r.setSignal(&r.call, "call", fd)
	if fd >= 0 {
		r.callDriver()
	}
}

// SetErr implements vhostuser.Device.
func (d *Device) SetErr(i, fd int) { d.rings[i].setSignal(&d.rings[i].errs, "error", fd) }

// StartRing implements vhostuser.Device.
func (d *Device) StartRing(i int, r vhostuser.Ring) error {
	if err := d.rings[i].start(r); err != nil {
		return err
	}
	d.running++
	if r.Enabled {
		d.tellEnabled()
	}
	return nil
}

// EnableRing implements vhostuser.Device.
func (d *Device) EnableRing(i int, on bool) error {
	if on {
		d.tellEnabled()
	} else {
		d.tellStopping()
	}
	d.rings[i].enable(on)
	return nil
}

// StopRing implements vhostuser.Device.
func (d *Device) StopRing(i int) (base uint32, err error) {
	d.tellStopping()
	base, err = d.rings[i].stop()
	if d.running--; d.running == 0 {
		d.opts.Server.RingsStopped()
	}
	return base, err
}

// LogRing implements vhostuser.Device.
func (d *Device) LogRing(i int, on bool, usedGPA uint64) { d.rings[i].setLog(on, usedGPA) }

// Reset implements vhostuser.Device.
func (d *Device) Reset() {
	for _, r := range d.rings {
		r.forget()
	}
	d.waitLate()
	d.opts.Server.Reset()
}

// Closed implements vhostuser.Device.
func (d *Device) Closed() {
	for _, r := range d.rings {
		r.forget()
		r.setSignal(&r.call, "call", -1)
		r.setSignal(&r.errs, "error", -1)
	}
	d.waitLate()
	d.opts.Server.Reset()
}

// waitLate waits for the requests that have outlasted the stop of their ring,
// for which the server's state has to stay. It has no bound: they wait for
// something that is stuck, and would use what is not there any more.
func (d *Device) waitLate() {
	done := make(chan struct{})
	go func() { d.late.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		case <-time.After(d.opts.StopLimit):
			d.log.Warn("requests are still being served for a guest that has gone; see whether a disk or network file system hangs")
		}
	}
}

// tellEnabled tells the window that a ring runs, once.
func (d *Device) tellEnabled() {
	if !d.enabled {
		d.enabled = true
		if d.opts.Window != nil {
			d.opts.Window.RingsEnabled()
		}
	}
}

// tellStopping tells the window that a ring stops, once until one is enabled.
func (d *Device) tellStopping() {
	if d.enabled {
		d.enabled = false
		if d.opts.Window != nil {
			d.opts.Window.RingsStopping()
		}
	}
}
