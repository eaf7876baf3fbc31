package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is the QEMU device that is played.
type Device int

const (
	// FSDevice is vhost-user-fs-pci: QEMU owns the configuration, resets are told, no window.
	FSDevice Device = iota
	// GenericDevice is vhost-user-test-device-pci: configuration and window come from the daemon, resets are not told.
	GenericDevice
)

// Options say what the front-end and the guest's driver are like. The zero value is vhost-user-fs-pci with one request
// queue and 512 MiB of memory.
type Options struct {
	Device    Device
	Queues    int // with hiprio; default 2
	QueueSize int // default 128
	// Without takes away features that QEMU and Linux would use: FRingIndirect, FEventIdx, FProtocolFeatures.
	Without uint64
	// Packed asks for packed rings, Log for FLogAll from the start.
	Packed bool
	// WithoutProtocol takes away protocol features.
	WithoutProtocol uint64
	// Inflight keeps in-flight buffers, as vhost-user-blk does.
	Inflight bool
	// KeepInflight goes on with the same buffer after a reset, which the
	// back-end has to empty.
	KeepInflight bool
	// KickOnStart signals every queue when the device has started. The specification lets a back-end wait for it; a daemon
	// that a guest can rely on does not.
	KickOnStart bool
	// NoKick gives the back-end no descriptor to be kicked by: it has to poll the rings.
	NoKick bool
	// Regions default to PCRegions(512 MiB).
	Regions []Region
	// CommitDelay is the time between the reply to SHMEM_MAP and the mapping, longer than QEMU's to be seen.
	CommitDelay time.Duration
	// BearsReset has a front-end that can remove a mapping from the memory table which a reset has dropped. QEMU 11.1 can't.
	BearsReset bool
	// Timeout bounds each wait for the daemon; default 20 s.
	Timeout time.Duration
	// Logf, if set, gets every message and every fault.
	Logf func(format string, args ...any)
}

// Frontend is a VM's end of one vhost-user device. Its methods may be called by any goroutine; those that start, stop,
// connect and disconnect only by one at a time.
type Frontend struct {
	Mem    *Memory
	Window *Window // nil without one
	opts   Options
	path   string
	queues []*Queue

	bql      sync.Mutex
	conn     *Conn
	features uint64 // offered by the daemon
	acked    uint64
	protocol uint64 // negotiated
	memSlots uint64 // as first told; it must not shrink
	regions  []slot // the memory table as the daemon knows it
	started  bool
	logging  bool
	log      *DirtyLog
	inflight inflight
	backend  *backend

	faultMu sync.Mutex
	faults  []string
}

// slot is a memory region that was sent to the daemon, or is to be.
type slot struct {
	gpa, size, user, offset uint64
	fd                      int
}

// New makes the VM: memory and queues, and no connection yet. path is the daemon's socket.
func New(path string, o Options) (*Frontend, error) {
	if o.Queues == 0 {
		o.Queues = 2
	}
	if o.QueueSize == 0 {
		o.QueueSize = 128
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Regions == nil {
		o.Regions = PCRegions(512 << 20)
	}
	mem, err := newMemory(o.Regions)
	if err != nil {
		return nil, err
	}
	f := &Frontend{Mem: mem, opts: o, path: path, inflight: inflight{fd: -1}}
	for i := range o.Queues {
		q, err := newQueue(f, i, o.QueueSize, o.Packed)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.queues = append(f.queues, q)
	}
	return f, nil
}

// Open is New, Connect and Start: a booted guest.
func Open(path string, o Options) (*Frontend, error) {
	f, err := New(path, o)
	if err != nil {
		return nil, err
	}
	if err = f.Connect(); err == nil {
		err = f.Start()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close ends the connection and frees the VM. Queues must not be in use any more.
func (f *Frontend) Close() error {
	f.Disconnect()
	for _, q := range f.queues {
		q.close()
	}
	f.bql.Lock()
	defer f.bql.Unlock()
	if f.Window != nil {
		f.Window.close()
	}
	f.inflight.close()
	if f.log != nil {
		f.log.close()
	}
	f.Mem.close()
	return nil
}

// Queue is the virtqueue with that index; 0 is hiprio.
func (f *Frontend) Queue(i int) *Queue { return f.queues[i] }

// NumQueues counts the queues, hiprio included.
func (f *Frontend) NumQueues() int { return len(f.queues) }

// Features is what the daemon offered, Acked what was taken, Protocol the negotiated protocol features.
func (f *Frontend) Features() uint64 { return f.features }
func (f *Frontend) Acked() uint64    { return f.acked }
func (f *Frontend) Protocol() uint64 { return f.protocol }

// Conn is the main channel, for tests that break the protocol. A test must not use it at the same time as a method
// of the Frontend.
func (f *Frontend) Conn() *Conn { return f.conn }

// Faults lists what the daemon did against the rules, oldest first.
func (f *Frontend) Faults() []string {
	f.faultMu.Lock()
	defer f.faultMu.Unlock()
	return append([]string(nil), f.faults...)
}

func (f *Frontend) fault(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	f.logf("FAULT: %s", s)
	f.faultMu.Lock()
	defer f.faultMu.Unlock()
	if len(f.faults) < 1000 {
		f.faults = append(f.faults, s)
	}
}

func (f *Frontend) logf(format string, args ...any) {
	if f.opts.Logf != nil {
		f.opts.Logf(format, args...)
	}
}

// Connect does what QEMU does when the chardev connects: everything up to and with SET_VRING_CALL.
func (f *Frontend) Connect() error {
	f.bql.Lock()
	defer f.bql.Unlock()
	conn, err := Dial(f.path, f.opts.Timeout)
	if err != nil {
		return err
	}
	f.conn, f.regions, f.started = conn, nil, false
	if err := f.connect(); err != nil {
		f.disconnect()
		return err
	}
	return nil
}

func (f *Frontend) connect() (err error) {
	if f.features, err = f.getU64(GetFeatures); err != nil {
		return err
	}
	if f.features&FVersion1 == 0 {
		f.fault("the daemon does not offer VIRTIO_F_VERSION_1")
	}
	f.protocol = 0
	if f.features&FProtocolFeatures&^f.opts.Without != 0 {
		if err := f.negotiateProtocol(); err != nil {
			return err
		}
	}
	if err := f.send(SetOwner, nil); err != nil {
		return err
	}
	if _, err := f.getU64(GetFeatures); err != nil {
		return err
	}
	for i, q := range f.queues {
		if err := f.send(SetVringCall, u64s(uint64(i)), q.call); err != nil {
			return err
		}
		if err := f.send(SetVringErr, u64s(uint64(i)), q.errfd); err != nil {
			return err
		}
	}
	if f.protocol&ProtocolShmem != 0 && f.opts.Device == GenericDevice {
		return f.openWindow()
	}
	return nil
}

func (f *Frontend) negotiateProtocol() error {
	offered, err := f.getU64(GetProtocolFeatures)
	if err != nil {
		return err
	}
	f.protocol = offered & knownProtocol &^ f.opts.WithoutProtocol
	if f.opts.Device == FSDevice {
		f.protocol &^= ProtocolConfig | ProtocolShmem
	} else if f.protocol&ProtocolConfig == 0 {
		return errors.New("the generic device needs VHOST_USER_PROTOCOL_F_CONFIG; the daemon does not offer it (start it with a tag)")
	}
	if !f.opts.Inflight {
		f.protocol &^= ProtocolInflightShmFD
	}
	if err := f.send(SetProtocolFeatures, u64s(f.protocol)); err != nil {
		return err
	}
	if f.protocol&ProtocolMQ != 0 {
		n, err := f.getU64(GetQueueNum)
		if err != nil {
			return err
		}
		if n < uint64(len(f.queues)) {
			return fmt.Errorf("the daemon has %d queues, %d are needed", n, len(f.queues))
		}
	}
	if f.protocol&ProtocolConfigureMemSlots != 0 {
		n, err := f.getU64(GetMaxMemSlots)
		if err != nil {
			return err
		}
		if n < f.memSlots {
			return fmt.Errorf("the daemon's memory slots went from %d to %d", f.memSlots, n)
		}
		f.memSlots = n
	}
	if f.protocol&ProtocolBackendReq != 0 {
		return f.openBackend()
	}
	return nil
}

// Disconnect closes the connection without a word, as a killed VM does. Mappings and rings stay as they are.
func (f *Frontend) Disconnect() {
	if f.conn != nil {
		f.conn.Close() // without the lock: someone may be waiting for a reply under it
	}
	f.bql.Lock()
	b := f.backend
	f.disconnect()
	f.bql.Unlock()
	if b != nil {
		<-b.done
	}
}

func (f *Frontend) disconnect() {
	if f.conn != nil {
		f.conn.Close()
	}
	if f.backend != nil {
		f.backend.conn.Close()
		f.backend = nil
	}
	f.started = false
}

// send writes a message that has no reply.
func (f *Frontend) send(r Request, payload []byte, fds ...int) error {
	f.logf("-> %v %d bytes, %d fds", r, len(payload), len(fds))
	if err := f.conn.Send(Message{Request: r, Payload: payload}, fds...); err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	return nil
}

// ask writes a message and reads its reply. Called with bql.
func (f *Frontend) ask(m Message, fds ...int) (Message, []int, error) {
	f.logf("-> %v, %d fds", m, len(fds))
	start := time.Now()
	if err := f.conn.Send(m, fds...); err != nil {
		return Message{}, nil, fmt.Errorf("%v: %w", m.Request, err)
	}
	reply, rfds, err := f.conn.Recv()
	if err != nil {
		return Message{}, nil, fmt.Errorf("reply to %v: %w", m.Request, err)
	}
	f.logf("<- %v, %d fds, %v", reply, len(rfds), time.Since(start))
	if reply.Request != m.Request || reply.Flags&FlagReply == 0 {
		closeAll(rfds)
		return reply, nil, fmt.Errorf("%w: the answer to %v is %v", errProtocol, m.Request, reply)
	}
	if reply.Flags&FlagNeedReply != 0 {
		f.fault("the answer to %v has the need-reply flag", m.Request)
	}
	return reply, rfds, nil
}

// getU64 asks for a number.
func (f *Frontend) getU64(r Request) (uint64, error) {
	reply, fds, err := f.ask(Message{Request: r})
	if err != nil {
		return 0, err
	}
	closeAll(fds)
	if len(reply.Payload) != 8 || len(fds) != 0 {
		return 0, fmt.Errorf("%w: the answer to %v has %d bytes and %d descriptors", errProtocol, r, len(reply.Payload), len(fds))
	}
	return binary.LittleEndian.Uint64(reply.Payload), nil
}

// RefusedError is a REPLY_ACK answer other than 0.
type RefusedError struct {
	Request Request
	Code    uint64
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the daemon refused %v with %d", e.Request, e.Code)
}

// sendSync writes a message and waits until it has been obeyed: by its acknowledgement, or, where the daemon has no
// REPLY_ACK, by the answer to a GET_FEATURES behind it (vhost_user_write_sync).
func (f *Frontend) sendSync(r Request, payload []byte, fds ...int) error {
	if f.protocol&ProtocolReplyAck == 0 {
		if err := f.send(r, payload, fds...); err != nil {
			return err
		}
		_, err := f.getU64(GetFeatures)
		return err
	}
	reply, rfds, err := f.ask(Message{Request: r, Flags: FlagNeedReply, Payload: payload}, fds...)
	if err != nil {
		return err
	}
	closeAll(rfds)
	if len(reply.Payload) != 8 {
		return fmt.Errorf("%w: the acknowledgement of %v has %d bytes", errProtocol, r, len(reply.Payload))
	}
	if code := binary.LittleEndian.Uint64(reply.Payload); code != 0 {
		return &RefusedError{r, code}
	}
	return nil
}

// GetConfig reads the device's configuration space, as QEMU's generic device does whenever the guest looks at it.
func (f *Frontend) GetConfig(n uint32) ([]byte, error) {
	f.bql.Lock()
	defer f.bql.Unlock()
	const header = 12
	payload := append(u32s(0, n, 0), make([]byte, n)...)
	reply, fds, err := f.ask(Message{Request: GetConfig, Payload: payload})
	if err != nil {
		return nil, err
	}
	closeAll(fds)
	if len(reply.Payload) != header+int(n) {
		return nil, fmt.Errorf("%w: GET_CONFIG of %d bytes answered with %d", errProtocol, n, len(reply.Payload))
	}
	return reply.Payload[header:], nil
}

// Exchange sends any message on the main channel under the lock and returns its reply.
func (f *Frontend) Exchange(m Message, fds ...int) (Message, []int, error) {
	f.bql.Lock()
	defer f.bql.Unlock()
	return f.ask(m, fds...)
}

func eventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	return fd, nil
}

// Fault adds to the list of what the daemon did against the rules; for the layers above.
func (f *Frontend) Fault(s string) { f.fault("%s", s) }

// Hangup returns when the daemon has closed the connection, or the connection was closed here.
func (f *Frontend) Hangup() {
	c := f.conn
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	for !c.closed {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

// ForgiveLast takes back the last fault, for a test that made the daemon commit it.
func (f *Frontend) ForgiveLast() {
	f.faultMu.Lock()
	defer f.faultMu.Unlock()
	if n := len(f.faults); n > 0 {
		f.faults = f.faults[:n-1]
	}
}
