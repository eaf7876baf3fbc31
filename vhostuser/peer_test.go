package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeDevice records what the session asks of it and holds to the rules that
// the session must keep. It closes descriptors as a device has to.
type fakeDevice struct {
	features    uint64
	protocol    ProtocolFeatures
	shmem       []uint64
	config      []byte
	failStart   error
	failEnable  error
	queues      int
	mu          sync.Mutex
	calls       []string
	rings       map[int]Ring
	callFDs     map[int]int
	errFDs      map[int]int
	channels    []*BackendChannel
	regionTotal int
	mapped      bool
	faults      []string
}

const testFeatures = 1<<32 | 1<<34 | 1<<28 | 1<<29 // VERSION_1, RING_PACKED, INDIRECT_DESC, EVENT_IDX

func newFakeDevice() *fakeDevice {
	return &fakeDevice{
		features: testFeatures,
		protocol: Supported,
		shmem:    []uint64{64 << 20},
		config:   []byte("tag"),
		queues:   3,
		rings:    make(map[int]Ring),
		callFDs:  make(map[int]int),
		errFDs:   make(map[int]int),
	}
}

func (d *fakeDevice) record(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// take returns the calls since the last take.
func (d *fakeDevice) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func (d *fakeDevice) faultLocked(format string, args ...any) {
	d.faults = append(d.faults, fmt.Sprintf(format, args...))
}

// set changes what the device does.
func (d *fakeDevice) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *fakeDevice) ring(i int) Ring {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rings[i]
}

func (d *fakeDevice) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.regionTotal
}

func (d *fakeDevice) Features() uint64                   { return d.features }
func (d *fakeDevice) ProtocolFeatures() ProtocolFeatures { return d.protocol }
func (d *fakeDevice) NumQueues() int                     { return d.queues }
func (d *fakeDevice) MaxQueueSize() int                  { return 1024 }
func (d *fakeDevice) ShmemRegions() []uint64             { return d.shmem }

func (d *fakeDevice) ReadConfig(off, n uint32) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return nil, errors.New("no configuration")
	}
	if int(off) >= len(d.config) {
		return nil, nil
	}
	return d.config[off:min(int(off+n), len(d.config))], nil
}

func (d *fakeDevice) WriteConfig(off uint32, data []byte, migration bool) error {
	d.record("WriteConfig %d %q %t", off, data, migration)
	if !migration {
		return errors.New("read-only")
	}
	return nil
}

func (d *fakeDevice) SetFeatures(acked uint64) { d.record("SetFeatures %#x", acked) }

func (d *fakeDevice) StartRing(i int, r Ring) error {
	d.record("StartRing %d", i)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failStart != nil {
		d.closeFD(r.Kick)
		return d.failStart
	}
	if _, ok := d.rings[i]; ok {
		d.faultLocked("ring %d started twice", i)
	}
	if r.Inflight != nil {
		r.Inflight[0]++
		r.Inflight[len(r.Inflight)-1]++
	}
	d.rings[i] = r
	return nil
}

func (d *fakeDevice) EnableRing(i int, on bool) error {
	d.record("EnableRing %d %t", i, on)
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.rings[i]; !ok {
		d.faultLocked("ring %d is not started", i)
	}
	return d.failEnable
}

func (d *fakeDevice) StopRing(i int) (uint32, error) {
	d.record("StopRing %d", i)
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rings[i]
	if !ok {
		d.faultLocked("ring %d is not started", i)
		return 0, nil
	}
	d.closeFD(r.Kick)
	delete(d.rings, i)
	return r.Base + 5, nil
}

func (d *fakeDevice) LogRing(i int, on bool, gpa uint64) { d.record("LogRing %d %t %#x", i, on, gpa) }

func (d *fakeDevice) SetCall(i, fd int) {
	d.record("SetCall %d %t", i, fd >= 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replaceFD(d.callFDs, i, fd)
}

func (d *fakeDevice) SetErr(i, fd int) {
	d.record("SetErr %d %t", i, fd >= 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replaceFD(d.errFDs, i, fd)
}

func (d *fakeDevice) replaceFD(fds map[int]int, i, fd int) {
	if old, ok := fds[i]; ok {
		d.closeFD(old)
	}
	fds[i] = fd
}

func (d *fakeDevice) closeFD(fd int) {
	if fd >= 0 {
		if err := unix.Close(fd); err != nil {
			d.faultLocked("closing descriptor %d: %v", fd, err)
		}
	}
}

func (d *fakeDevice) BackendChannel(ch *BackendChannel) {
	d.record("BackendChannel")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.channels = append(d.channels, ch)
}

func (d *fakeDevice) channel() *BackendChannel {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channels[len(d.channels)-1]
}

func (d *fakeDevice) Reset() {
	d.record("Reset")
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rings) != 0 {
		d.faultLocked("reset with %d rings running", len(d.rings))
	}
}

func (d *fakeDevice) Closed() {
	d.record("Closed")
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rings) != 0 {
		d.faultLocked("closed with %d rings running", len(d.rings))
	}
	for i := range d.callFDs {
		d.replaceFD(d.callFDs, i, -1)
	}
	for i := range d.errFDs {
		d.replaceFD(d.errFDs, i, -1)
	}
}

func (d *fakeDevice) RegionAdded(r Region, _ FileID, total int) {
	d.record("RegionAdded %#x", r.GuestAddr)
	d.set(func() { d.regionTotal = total })
}

func (d *fakeDevice) Mapped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mapped
}

func (d *fakeDevice) RegionRemoved(r Region, _ FileID, total int) {
	d.record("RegionRemoved %#x", r.GuestAddr)
	d.set(func() { d.regionTotal = total })
}

// peer is the front-end's end of a session.
type peer struct {
	t    testing.TB
	sock *net.UnixConn
	dev  *fakeDevice
	done chan error
	err  error
	over bool
	log  *testWriter
}

// start serves a session on one end of a socket pair.
func start(t testing.TB, dev *fakeDevice) *peer {
	t.Helper()
	return startContext(t, context.Background(), dev)
}

func startContext(t testing.TB, ctx context.Context, dev *fakeDevice) *peer {
	t.Helper()
	ours, theirs := socketPair(t)
	p := &peer{t: t, sock: ours, dev: dev, done: make(chan error, 1), log: &testWriter{t: t}}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	go func() { p.done <- Serve(ctx, theirs, dev, Config{Log: log}) }()
	t.Cleanup(func() { p.close() })
	return p
}

// testWriter is a log that is shown with the test, and kept.
type testWriter struct {
	t    testing.TB
	mu   sync.Mutex
	kept strings.Builder
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept.Write(b)
}

// count returns how many messages with that text were logged.
func (w *testWriter) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.kept.String(), text)
}

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return unixConn(t, pair[0]), unixConn(t, pair[1])
}

func unixConn(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// close ends the connection and returns what Serve returned.
func (p *peer) close() error {
	_ = p.sock.Close()
	return p.wait()
}

// wait waits for Serve to return.
func (p *peer) wait() error {
	p.t.Helper()
	if p.over {
		return p.err
	}
	select {
	case p.err = <-p.done:
		p.over = true
		_ = p.sock.Close()
	case <-time.After(20 * time.Second):
		p.t.Fatal("the session does not end")
	}
	for _, fault := range p.dev.faults {
		p.t.Errorf("device: %s", fault)
	}
	return p.err
}

func encode(req Request, flags uint32, payload []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(payload))
	header{uint32(req), flags | flagVersion, uint32(len(payload))}.encode(b)
	return append(b, payload...)
}

// send sends one message. The descriptors stay the caller's.
func (p *peer) send(req Request, flags uint32, payload []byte, fds ...int) {
	p.t.Helper()
	p.sendBytes(encode(req, flags, payload), fds...)
}

func (p *peer) sendBytes(b []byte, fds ...int) {
	p.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := p.sock.WriteMsgUnix(b, oob, nil)
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		p.t.Fatal(err)
	}
}

// receive reads the reply to req.
func (p *peer) receive(req Request) []byte {
	p.t.Helper()
	payload, fds := p.receiveFDs(req)
	if len(fds) != 0 {
		closeFDs(fds)
		p.t.Fatalf("%v: %d descriptors in the reply", req, len(fds))
	}
	return payload
}

func (p *peer) receiveFDs(req Request) ([]byte, []int) {
	p.t.Helper()
	_ = p.sock.SetReadDeadline(time.Now().Add(20 * time.Second))
	var head [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := p.sock.ReadMsgUnix(head[:], oob)
	if err != nil || n != len(head) {
		p.t.Fatalf("%v: no reply: %v; session: %v", req, err, p.wait())
	}
	fds, err := appendRights(nil, oob[:oobn])
	if err != nil {
		p.t.Fatal(err)
	}
	h := decodeHeader(head[:])
	if h.request != uint32(req) || h.flags != flagVersion|flagReply || h.size > maxPayload {
		p.t.Fatalf("%v: reply %v with flags %#x and %d bytes", req, Request(h.request), h.flags, h.size)
	}
	payload := make([]byte, h.size)
	if _, err := io.ReadFull(p.sock, payload); err != nil {
		p.t.Fatal(err)
	}
	return payload, fds
}

// ask sends a request and returns its own reply.
func (p *peer) ask(req Request, payload []byte, fds ...int) []byte {
	p.t.Helper()
	p.send(req, 0, payload, fds...)
	return p.receive(req)
}

func (p *peer) askU64(req Request) uint64 {
	p.t.Helper()
	b := p.ask(req, nil)
	if len(b) != 8 {
		p.t.Fatalf("%v: reply of %d bytes", req, len(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// do sends a request with NEED_REPLY and returns the value of the reply.
func (p *peer) do(req Request, payload []byte, fds ...int) uint64 {
	p.t.Helper()
	p.send(req, flagNeedReply, payload, fds...)
	b := p.receive(req)
	if len(b) != 8 {
		p.t.Fatalf("%v: reply of %d bytes", req, len(b))
	}
	return binary.LittleEndian.Uint64(b)
}

func (p *peer) must(req Request, payload []byte, fds ...int) {
	p.t.Helper()
	if v := p.do(req, payload, fds...); v != 0 {
		p.t.Fatalf("%v: answered %d", req, v)
	}
}

func (p *peer) refused(req Request, payload []byte, fds ...int) {
	p.t.Helper()
	if v := p.do(req, payload, fds...); v != 1 {
		p.t.Fatalf("%v: answered %d, not 1", req, v)
	}
}

// breaks expects the session to end with a ProtocolError that names req and
// contains fault.
func (p *peer) breaks(req Request, fault string) {
	p.t.Helper()
	err := p.wait()
	var broken *ProtocolError
	if !errors.As(err, &broken) {
		p.t.Fatalf("session ended with %v, not a protocol error", err)
	}
	if broken.Request != req.String() || !strings.Contains(broken.Fault, fault) || broken.Advice == "" {
		p.t.Errorf("%q is not about %v and %q with advice", err, req, fault)
	}
}

// negotiate does what comes before memory and rings.
func (p *peer) negotiate() {
	p.t.Helper()
	p.negotiateWithout(0)
}

func (p *peer) negotiateWithout(missing ProtocolFeatures) {
	p.t.Helper()
	p.askU64(GetFeatures)
	offered := p.askU64(GetProtocolFeatures)
	p.send(SetProtocolFeatures, 0, u64(offered&^uint64(missing)))
	p.send(SetOwner, 0, nil)
	p.send(SetFeatures, 0, u64(1<<32|FeatureProtocolFeatures))
}

// take returns the device's calls so far, after a round trip.
func (p *peer) take() []string {
	p.t.Helper()
	p.askU64(GetFeatures)
	return p.dev.take()
}

func (p *peer) called(want ...string) {
	p.t.Helper()
	if got := p.take(); !slices.Equal(got, want) {
		p.t.Errorf("device calls\n got %q\nwant %q", got, want)
	}
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func state(index, num uint32) []byte { return vringState{index, num}.append(nil) }

func addr(index, flags uint32, desc, used, avail, log uint64) []byte {
	b := state(index, flags)
	for _, v := range []uint64{desc, used, avail, log} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func region(r Region) []byte {
	var b []byte
	for _, v := range []uint64{r.GuestAddr, r.Size, r.UserAddr, r.MmapOffset} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func memReg(r Region) []byte { return append(u64(0), region(r)...) }

func memTable(regions ...Region) []byte {
	b := state(uint32(len(regions)), 0)
	for _, r := range regions {
		b = append(b, region(r)...)
	}
	return b
}

// memfd returns a file of size bytes that is closed with the test.
func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// checkLeaks compares open descriptors and shared mappings at the end of a test
// with those at its start. It has to be the first thing that a test does.
func checkLeaks(t testing.TB) {
	t.Helper()
	// The runtime opens its poller at first use.
	a, b := socketPair(t)
	_ = a.Close()
	_ = b.Close()
	fds, maps := openFDs(t), sharedMaps(t)
	t.Cleanup(func() {
		if now := openFDs(t); !slices.Equal(now, fds) {
			t.Errorf("descriptors leaked:\nbefore %q\nafter  %q", fds, now)
		}
		if now := sharedMaps(t); now != maps {
			t.Errorf("%d shared mappings before, %d after", maps, now)
		}
	})
}

func openFDs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "/proc/") {
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}

func sharedMaps(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "memfd:")
}
