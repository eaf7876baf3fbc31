package vhostuser

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The fuzzer's input is a sequence of chunks, each sent by one sendmsg: a byte
// with the number of descriptors that come along and their kind, a byte with
// the number of bytes, and those bytes. The front-end reads what comes back and
// throws it away.
const (
	chunkFDs     = 0x0f // at most 10 of them
	chunkKind    = 0x30
	kindMemfd    = 0x00
	kindEventfd  = 0x10
	kindSocket   = 0x20
	kindReadOnly = 0x30
)

func chunk(kind byte, fds int, b []byte) []byte {
	return append([]byte{kind | byte(fds), byte(len(b))}, b...)
}

// fuzzFDs are descriptors that the fuzzer sends again and again.
type fuzzFDs struct {
	memfd, eventfd, readOnly int
}

func (f *fuzzFDs) pick(kind byte) (fd int, done func()) {
	keep := func() {}
	switch kind {
	case kindEventfd:
		return f.eventfd, keep
	case kindReadOnly:
		return f.readOnly, keep
	case kindSocket:
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return f.memfd, keep
		}
		return pair[0], func() { closeFDs(pair[:]) }
	}
	return f.memfd, keep
}

// play sends data to a session and waits for it to end.
func (f *fuzzFDs) play(t testing.TB, data []byte) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := unixConn(t, pair[0]), unixConn(t, pair[1])
	dev := newFakeDevice()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = Serve(context.Background(), theirs, dev, Config{})
	}()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		c := newConn(ours)
		for {
			h, fds, err := c.receiveHeader()
			closeFDs(fds)
			if err != nil {
				return
			}
			if _, err := c.receivePayload(h.size); err != nil {
				return
			}
		}
	}()
	f.send(ours, data)
	_ = ours.CloseWrite()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the session does not end")
	}
	<-drained
	_ = ours.Close()
	for _, fault := range dev.faults {
		t.Errorf("device: %s", fault)
	}
}

func (f *fuzzFDs) send(sock *net.UnixConn, data []byte) {
	for len(data) >= 2 {
		kind, n, size := data[0]&chunkKind, min(int(data[0]&chunkFDs), 10), int(data[1])
		data = data[2:]
		b := data[:min(size, len(data))]
		data = data[len(b):]
		if len(b) == 0 {
			continue
		}
		var fds []int
		var after []func()
		for range n {
			fd, done := f.pick(kind)
			fds = append(fds, fd)
			after = append(after, done)
		}
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		_, _, err := sock.WriteMsgUnix(b, oob, nil)
		for _, done := range after {
			done()
		}
		if err != nil {
			return
		}
	}
}

func FuzzSession(f *testing.F) {
	for _, seed := range sessionSeeds() {
		f.Add(seed)
	}
	fds := fuzzFDs{memfd: memfd(f, 1<<20), eventfd: eventfd(f)}
	var err error
	if fds.readOnly, err = unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(fds.readOnly) })
	a, b := socketPair(f)
	_, _ = a.Close(), b.Close()
	f.Fuzz(func(t *testing.T, data []byte) {
		open, maps := sockets(t), sharedMaps(t)
		fds.play(t, data)
		if now := sockets(t); !slices.Equal(now, open) {
			t.Errorf("descriptors leaked:\nbefore %q\nafter  %q", open, now)
		}
		if now := sharedMaps(t); now != maps {
			t.Errorf("%d shared mappings before, %d after", maps, now)
		}
	})
}

// sockets are the open descriptors, less those of the fuzzing engine.
func sockets(t testing.TB) []string {
	var mine []string
	for _, e := range openFDs(t) {
		if strings.Contains(e, "socket:") || strings.Contains(e, "memfd:") || strings.Contains(e, "eventfd") || strings.Contains(e, ".test") {
			mine = append(mine, e)
		}
	}
	return mine
}

// sessionSeeds are sessions that get somewhere: each request once in its place,
// and whole starts of a device.
func sessionSeeds() [][]byte {
	hello := slices.Concat(
		chunk(0, 0, encode(SetProtocolFeatures, 0, u64(uint64(Supported|ProtocolSHMEM)))),
		chunk(0, 0, encode(SetOwner, 0, nil)),
		chunk(0, 0, encode(SetFeatures, 0, u64(1<<32|1<<34|FeatureProtocolFeatures|FeatureLogAll))),
	)
	ring := slices.Concat(
		chunk(0, 0, encode(SetVringNum, 0, state(1, 128))),
		chunk(0, 0, encode(SetVringAddr, 0, addr(1, 1, 1<<40, 1<<40+0x2000, 1<<40+0x1000, 0x1000))),
		chunk(kindEventfd, 1, encode(SetVringKick, flagNeedReply, u64(1))),
		chunk(kindEventfd, 1, encode(SetVringCall, 0, u64(1))),
		chunk(0, 0, encode(SetVringEnable, flagNeedReply, state(1, 1))),
	)
	stop := slices.Concat(
		chunk(0, 0, encode(SetVringEnable, 0, state(1, 0))),
		chunk(0, 0, encode(GetVringBase, 0, state(1, 0))),
	)
	add := chunk(0, 1, encode(AddMemReg, flagNeedReply, memReg(Region{0, 0x10000, 1 << 40, 0})))
	inflight := chunk(0, 1, encode(SetInflightFD, flagNeedReply, inflightPayload(3*4160, 3, 128)))
	log := chunk(0, 1, encode(SetLogBase, 0, append(u64(4096), u64(0)...)))
	back := chunk(kindSocket, 1, encode(SetBackendReqFD, flagNeedReply, nil))
	seeds := [][]byte{
		slices.Concat(hello, add, ring, stop, ring),
		slices.Concat(hello, back, inflight, ring, log, stop, inflight, ring, chunk(0, 0, encode(ResetDevice, 0, nil))),
		slices.Concat(hello, chunk(0, 2, encode(SetMemTable, 0, memTable(Region{0, 0x1000, 1 << 40, 0}, Region{0x1000, 0x1000, 1 << 41, 0x1000})))),
		chunk(0, 10, encode(GetFeatures, 0, nil)),
		slices.Concat(chunk(kindEventfd, 3, encode(SetVringKick, 0, u64(0))[:5]), chunk(kindEventfd, 3, encode(SetVringKick, 0, u64(0))[5:])),
	}
	for _, w := range wires {
		kind := byte(kindMemfd)
		if w.req == SetBackendReqFD {
			kind = kindSocket
		}
		seeds = append(seeds, slices.Concat(hello, chunk(kind, w.minFDs, encode(w.req, flagNeedReply, w.payload()))))
	}
	return seeds
}
