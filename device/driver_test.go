package device_test

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// Where the driver has things, from the start of guest memory. Each of the
// queue's requests has two descriptors, one in each direction, and a slot of
// memory for both of its buffers.
const (
	memorySize = 8 << 20
	queueStep  = 2 << 20 // each queue has its own part of the memory
	descAt     = 0
	availAt    = 0x10000
	usedAt     = 0x20000
	slotsAt    = 0x40000
	slotSize   = 0x2000
	inSize     = 0x1000
	outSize    = 0x1000

	guestBase = 0x4000_0000
	userBase  = 0x7f00_0000_0000

	queueSize = 128
	slots     = queueSize / 2
)

const featuresUsed = 1<<32 | 1<<28

// machine is guest memory and a driver for each of two queues.
type machine struct {
	t      testing.TB
	dev    *device.Device
	memory guestmem.Memory
	ram    []byte
	queues [2]*queue
}

// queue is the driver's side of one split ring.
type queue struct {
	m     *machine
	index int
	ram   []byte
	kick  int
	call  int
	err   int
	avail uint16
	used  uint16
	hide  bool // what is exposed is not to be seen yet
	base  uint32
	// inflight is the region of the shared in-flight buffer, or nil.
	inflight []byte

	// Scratch of waitCall, so that it allocates nothing.
	fds [1]unix.PollFd
	buf [8]byte
}

func newMachine(t testing.TB, opts device.Options) *machine {
	t.Helper()
	if opts.RequestQueues == 0 {
		opts.RequestQueues = 1
	}
	dev, err := device.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, memorySize); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dev: dev}
	m.ram, err = unix.Mmap(fd, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	err = m.memory.Replace([]guestmem.RegionSpec{{GuestAddr: guestBase, UserAddr: userBase, Size: memorySize, FD: fd, Kind: guestmem.RAM}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.queues {
		q := &queue{m: m, index: i, ram: m.ram[i*queueStep:][:queueStep]}
		m.queues[i] = q
		for _, p := range []*int{&q.kick, &q.call, &q.err} {
			if *p, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(m.close)
	return m
}

func (m *machine) close() {
	for _, q := range m.queues {
		q.stop()
	}
	m.dev.Closed()
	m.dev.Close()
	m.memory.Replace(nil)
	for _, q := range m.queues {
		for _, fd := range []int{q.kick, q.call, q.err} {
			unix.Close(fd)
		}
	}
	unix.Munmap(m.ram)
}

// mapped returns n bytes of memory that the garbage collector has no part in.
func mapped(t testing.TB, n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dup(t testing.TB, fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// start starts the ring where it stopped, or at 0.
func (q *queue) start() {
	q.m.t.Helper()
	q.m.dev.SetCall(q.index, dup(q.m.t, q.call))
	q.m.dev.SetErr(q.index, dup(q.m.t, q.err))
	if err := q.m.dev.StartRing(q.index, q.ring(dup(q.m.t, q.kick))); err != nil {
		q.m.t.Fatal(err)
	}
}

func (q *queue) ring(kick int) vhostuser.Ring {
	at := uint64(userBase + q.index*queueStep)
	return vhostuser.Ring{
		Size: queueSize, Desc: at + descAt, Avail: at + availAt, Used: at + usedAt,
		Base: q.base, Features: featuresUsed, Kick: kick, Enabled: true, Mem: &q.m.memory, Inflight: q.inflight,
	}
}

func (q *queue) stop() {
	if err := q.tryStop(); err != nil {
		q.m.t.Errorf("queue %d: %v", q.index, err)
	}
}

func (q *queue) tryStop() (err error) {
	q.base, err = q.m.dev.StopRing(q.index)
	return err
}

// reset forgets what the driver has put into the ring, which is stopped.
func (q *queue) reset() {
	q.avail, q.used, q.base = 0, 0, 0
	clear(q.ram[:slotsAt])
}

// submit makes a request of slot available, without a kick.
func (q *queue) submit(slot int, text string) {
	in := q.ram[slotsAt+slot*slotSize:][:inSize]
	copy(in, text)
	q.desc(2*slot, slotsAt+slot*slotSize, len(text), 1, 2*slot+1)
	q.desc(2*slot+1, slotsAt+slot*slotSize+inSize, outSize, 2, 0)
	q.expose(uint16(2 * slot))
}

func (q *queue) desc(i, at, n, flags, next int) {
	d := q.ram[descAt+16*i:]
	binary.LittleEndian.PutUint64(d, uint64(guestBase+q.index*queueStep+at))
	binary.LittleEndian.PutUint32(d[8:], uint32(n))
	binary.LittleEndian.PutUint16(d[12:], uint16(flags))
	binary.LittleEndian.PutUint16(d[14:], uint16(next))
}

// expose puts a head into the available ring.
func (q *queue) expose(head uint16) {
	binary.LittleEndian.PutUint16(q.ram[availAt+4+2*int(q.avail%queueSize):], head)
	q.avail++
	if q.hide {
		return
	}
	// x86 and the system call of the kick order the stores.
	binary.LittleEndian.PutUint16(q.ram[availAt+2:], q.avail)
}

// atOnce has the device, which may be looking at the ring, see all at once that f submits.
func (q *queue) atOnce(f func()) {
	q.hide = true
	f()
	q.hide = false
	binary.LittleEndian.PutUint16(q.ram[availAt+2:], q.avail)
}

// asleep waits until the device does not look at the ring before the next kick.
func (q *queue) asleep() {
	q.m.t.Helper()
	eventually(q.m.t, "the device wants to be kicked", func() bool { barrier.Add(1); return q.ram[usedAt]&1 == 0 })
	time.Sleep(10 * time.Millisecond) // for its last look
}

var one = [8]byte{1}

// barrier orders a store before a load.
var barrier atomic.Int32

// doKick tells the device about new requests, if it wants to be told.
func (q *queue) doKick() {
	barrier.Add(1)
	if q.ram[usedAt]&1 != 0 {
		return
	}
	if _, err := unix.Write(q.kick, one[:]); err != nil {
		q.m.t.Error(err)
	}
}

// reply is a completed request.
type reply struct {
	slot    int
	written int
	text    string
}

// poll takes a used entry if there is one.
func (q *queue) poll() (r reply, ok bool) {
	if binary.LittleEndian.Uint16(q.ram[usedAt+2:]) == q.used {
		return r, false
	}
	e := q.ram[usedAt+4+8*int(q.used%queueSize):]
	q.used++
	r.slot = int(binary.LittleEndian.Uint32(e)) / 2
	r.written = int(binary.LittleEndian.Uint32(e[4:]))
	if r.written <= outSize {
		r.text = string(q.ram[slotsAt+r.slot*slotSize+inSize:][:r.written])
	}
	return r, true
}

// waitCall waits until the driver is called.
func (q *queue) waitCall(limit time.Duration) bool {
	q.fds[0] = unix.PollFd{Fd: int32(q.call), Events: unix.POLLIN}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll(q.fds[:], int(time.Until(end)/time.Millisecond)+1)
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			unix.Read(q.call, q.buf[:])
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// errTold reports whether the front-end was told that the ring is broken.
func (q *queue) errTold() bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(q.err), Events: unix.POLLIN}}, 0)
	return n == 1
}

const long = 20 * time.Second

// next returns the next completed request.
func (q *queue) next() reply {
	q.m.t.Helper()
	for {
		if r, ok := q.poll(); ok {
			return r
		}
		if !q.waitCall(long) {
			q.m.t.Fatalf("queue %d: no reply", q.index)
		}
	}
}

// none checks that nothing is completed for a moment.
func (q *queue) none() {
	q.m.t.Helper()
	q.waitCall(50 * time.Millisecond)
	if r, ok := q.poll(); ok {
		q.m.t.Errorf("queue %d: unexpected reply %+v", q.index, r)
	}
}

// do has one request served and returns the reply.
func (q *queue) do(slot int, text string) reply {
	q.m.t.Helper()
	q.submit(slot, text)
	q.doKick()
	r := q.next()
	if r.slot != slot {
		q.m.t.Fatalf("queue %d: reply for slot %d, want %d", q.index, r.slot, slot)
	}
	return r
}

func (q *queue) expect(r reply, text string) {
	q.m.t.Helper()
	if r.text != text {
		q.m.t.Errorf("queue %d: got %+v, want %q", q.index, r, text)
	}
}

// pollQuiet is poll without the text of the reply, which it would allocate.
func (q *queue) pollQuiet() (slot int, ok bool) {
	if binary.LittleEndian.Uint16(q.ram[usedAt+2:]) == q.used {
		return 0, false
	}
	e := q.ram[usedAt+4+8*int(q.used%queueSize):]
	q.used++
	return int(binary.LittleEndian.Uint32(e)) / 2, true
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
