package vhostuser

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// window is a front-end's end of a back-end channel, beside its main channel.
type window struct {
	*peer
	back *conn
	ch   *BackendChannel
}

// asked is a request that came over the back-end channel.
type asked struct {
	code    BackendRequest
	needs   bool
	payload []byte
	fd      int
}

// openWindow starts a session with a back-end channel, on which requests may be
// sent once a ring is enabled.
func openWindow(t *testing.T, missing ProtocolFeatures) *window {
	t.Helper()
	dev := newFakeDevice()
	p := start(t, dev)
	p.negotiateWithout(missing)
	ours, theirs := socketPair(t)
	f, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	p.send(SetBackendReqFD, 0, nil, int(f.Fd()))
	_ = f.Close()
	p.askU64(GetFeatures)
	w := &window{p, newConn(ours), dev.channel()}
	t.Cleanup(func() { _ = ours.Close() })
	return w
}

// patient has the back-end wait for a mapping to show up for as long as the test
// takes. No request is under way.
func (w *window) patient() *window {
	w.ch.mu.Lock()
	defer w.ch.mu.Unlock()
	w.ch.grace, w.ch.apart = time.Minute, time.Minute
	return w
}

func (w *window) enable() {
	w.t.Helper()
	w.ask(GetVringBase, state(0, 0))
	w.send(SetVringNum, 0, state(0, 64))
	w.send(SetVringAddr, 0, addr(0, 0, 0x1000, 0x2000, 0x3000, 0))
	w.send(SetVringKick, 0, u64(0|vringNoFD))
	w.send(SetVringEnable, 0, state(0, 1))
	w.askU64(GetFeatures)
}

// next reads the next request of the back-end. Its descriptor is closed with
// the test.
func (w *window) next() asked {
	w.t.Helper()
	_ = w.back.sock.SetReadDeadline(time.Now().Add(20 * time.Second))
	h, fds, err := w.back.receiveHeader()
	if err != nil {
		w.t.Fatalf("no request from the back-end: %v", err)
	}
	b, err := w.back.receivePayload(h.size)
	if err != nil {
		w.t.Fatal(err)
	}
	a := asked{BackendRequest(h.request), h.flags&flagNeedReply != 0, append([]byte(nil), b...), -1}
	if len(fds) > 0 {
		a.fd = fds[0]
		w.t.Cleanup(func() { _ = unix.Close(a.fd) })
	}
	return a
}

func (w *window) answer(a asked, result uint64) {
	w.t.Helper()
	err := w.back.send(uint32(a.code), flagReply, -1, func(b []byte) []byte { return le.AppendUint64(b, result) })
	if err != nil {
		w.t.Fatal(err)
	}
}

// quiet checks that the back-end has sent nothing.
func (w *window) quiet() {
	w.t.Helper()
	w.askU64(GetFeatures)
	_ = w.back.sock.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, _, err := w.back.receiveHeader(); !errors.As(err, &timeout) || !timeout.Timeout() {
		w.t.Fatalf("a request came over the back-end channel, or it ended: %v", err)
	}
}

// readable is how many bytes wait in the front-end's end of the channel.
func (w *window) readable() (n int) {
	w.t.Helper()
	raw, err := w.back.sock.SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); err != nil {
		w.t.Fatal(err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *window) waitReadable() {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); w.readable() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("no request from the back-end")
		}
	}
}

// mapAsync starts a ShmemMap.
func (w *window) mapAsync(ctx context.Context, m Mapping) <-chan error {
	done := make(chan error, 1)
	go func() { done <- w.ch.ShmemMap(ctx, m) }()
	return done
}

func (w *window) result(done <-chan error) error {
	w.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		w.t.Fatal("the request does not return")
		return nil
	}
}

func pending(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("the request returned too early, with %v", err)
	default:
	}
}

const windowGPA = 1 << 38

// show sends the mapping as QEMU does when it has committed it.
func (w *window) show(base uint64, m Mapping) {
	w.t.Helper()
	w.must(AddMemReg, memReg(Region{base + m.ShmOffset, m.Len, 0x5000000000 + base + m.ShmOffset, m.FDOffset}), m.FD)
}

func TestShmemMapOnTheWire(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0).patient()
	w.enable()
	m := Mapping{ShmID: 0, FD: memfd(t, 8<<20), FDOffset: 4 << 20, ShmOffset: 2 << 20, Len: 2 << 20, Writable: true}
	done := w.mapAsync(context.Background(), m)
	a := w.next()
	want := append(u64(0), u64(4<<20)...)
	want = append(append(append(want, u64(2<<20)...), u64(2<<20)...), u64(1)...)
	if a.code != 9 || !a.needs || string(a.payload) != string(want) || len(a.payload) != 40 || a.fd < 0 {
		t.Errorf("request %v %t %x fd %d", a.code, a.needs, a.payload, a.fd)
	}
	var sent, got unix.Stat_t
	_, _ = unix.Fstat(m.FD, &sent), unix.Fstat(a.fd, &got)
	if sent.Ino != got.Ino {
		t.Error("another file came over")
	}
	w.answer(a, 0)
	w.show(windowGPA, m)
	if err := w.result(done); err != nil {
		t.Error(err)
	}

	unmapped := make(chan error, 1)
	go func() { unmapped <- w.ch.ShmemUnmap(context.Background(), m) }()
	a = w.next()
	want = append(u64(0), u64(0)...)
	want = append(append(append(want, u64(2<<20)...), u64(2<<20)...), u64(1)...)
	if a.code != 10 || !a.needs || string(a.payload) != string(want) || a.fd >= 0 {
		t.Errorf("request %v %t %x fd %d", a.code, a.needs, a.payload, a.fd)
	}
	w.answer(a, 1)
	if err := w.result(unmapped); !errors.Is(err, ErrRefused) || errors.Is(err, ErrUncertain) {
		t.Errorf("refused unmap returned %v", err)
	}
}

func TestMapReturnsOnlyWhenCommitted(t *testing.T) {
	ctx := context.Background()
	t.Run("shown after the reply", func(t *testing.T) {
		checkLeaks(t)
		w := openWindow(t, 0).patient()
		w.enable()
		m := Mapping{FD: memfd(t, 4<<20), Len: 2 << 20}
		done := w.mapAsync(ctx, m)
		w.answer(w.next(), 0)
		// Neither the reply nor another region is the mapping.
		w.show(windowGPA, Mapping{FD: memfd(t, 4<<20), Len: 2 << 20})
		w.show(windowGPA+1<<30, Mapping{FD: m.FD, FDOffset: 2 << 20, Len: 2 << 20})
		w.show(windowGPA+2<<30, Mapping{FD: m.FD, Len: 1 << 20})
		pending(t, done)
		w.show(windowGPA+3<<30, m)
		if err := w.result(done); err != nil {
			t.Error(err)
		}
	})
	t.Run("shown before the reply", func(t *testing.T) {
		w := openWindow(t, 0).patient()
		w.enable()
		m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
		done := w.mapAsync(ctx, m)
		a := w.next()
		w.show(windowGPA, m)
		pending(t, done)
		w.answer(a, 0)
		if err := w.result(done); err != nil {
			t.Error(err)
		}
	})
	t.Run("shown in a memory table", func(t *testing.T) {
		w := openWindow(t, 0).patient()
		w.enable()
		m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
		done := w.mapAsync(ctx, m)
		w.answer(w.next(), 0)
		w.must(SetMemTable, memTable(Region{windowGPA, 2 << 20, 1 << 40, 0}), m.FD)
		if err := w.result(done); err != nil {
			t.Error(err)
		}
	})
	t.Run("answered by a later request", func(t *testing.T) {
		w := openWindow(t, 0).patient() // or a barrier comes before the later one is answered
		w.enable()
		file := memfd(t, 4<<20)
		first := w.mapAsync(ctx, Mapping{FD: file, Len: 2 << 20})
		one := w.next()
		second := w.mapAsync(ctx, Mapping{FD: file, FDOffset: 2 << 20, ShmOffset: 2 << 20, Len: 2 << 20})
		w.answer(one, 0)
		two := w.next()
		if two.code == BackendConfigChange { // the second was slow to ask
			w.answer(two, 0)
			two = w.next()
		}
		w.answer(two, 1)
		if err := w.result(first); err != nil {
			t.Error(err)
		}
		if err := w.result(second); !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
	})
	t.Run("never shown, answered by a barrier", func(t *testing.T) {
		w := openWindow(t, 0)
		w.enable()
		done := w.mapAsync(ctx, Mapping{FD: memfd(t, 2<<20), Len: 2 << 20})
		w.answer(w.next(), 0)
		barrier := w.next()
		if barrier.code != BackendConfigChange || len(barrier.payload) != 0 || barrier.fd >= 0 {
			t.Errorf("barrier %+v", barrier)
		}
		pending(t, done)
		// A front-end that cannot tell its driver refuses, which is as good.
		w.answer(barrier, 1)
		if err := w.result(done); err != nil {
			t.Error(err)
		}
	})
	t.Run("barrier without configuration space", func(t *testing.T) {
		w := openWindow(t, ProtocolConfig)
		w.enable()
		done := w.mapAsync(ctx, Mapping{FD: memfd(t, 2<<20), Len: 2 << 20})
		w.answer(w.next(), 0)
		barrier := w.next()
		if barrier.code != BackendShmemUnmap || string(barrier.payload) != string(make([]byte, 40)) {
			t.Errorf("barrier %+v", barrier)
		}
		w.answer(barrier, 1)
		if err := w.result(done); err != nil {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		w := openWindow(t, 0)
		w.enable()
		m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
		done := w.mapAsync(ctx, m)
		w.answer(w.next(), 1)
		if err := w.result(done); !errors.Is(err, ErrRefused) || errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
	})
}

// Two devices of a virtual machine may map the same file. Once the place of our
// window is known, the other's mapping is not taken for ours.
func TestMappingOfAnotherDeviceIsNotOurs(t *testing.T) {
	w := openWindow(t, 0).patient()
	w.enable()
	m := Mapping{FD: memfd(t, 4<<20), Len: 2 << 20}
	done := w.mapAsync(context.Background(), m)
	w.answer(w.next(), 0)
	w.show(windowGPA, m)
	if err := w.result(done); err != nil {
		t.Fatal(err)
	}
	m.FDOffset, m.ShmOffset = 2<<20, 2<<20
	done = w.mapAsync(context.Background(), m)
	w.answer(w.next(), 0)
	w.show(windowGPA*2, m)
	pending(t, done)
	w.show(windowGPA, m)
	if err := w.result(done); err != nil {
		t.Error(err)
	}
}

// A window that has moved is found again after one round trip.
func TestMovedWindowIsFoundAgain(t *testing.T) {
	w := openWindow(t, 0)
	w.enable()
	m := Mapping{FD: memfd(t, 8<<20), Len: 2 << 20}
	for i, base := range []uint64{windowGPA, windowGPA * 2, windowGPA * 2} {
		m.FDOffset, m.ShmOffset = uint64(i)<<21, uint64(i)<<21
		w.patient()
		if i == 1 {
			w.ch.grace = commitGrace
		}
		done := w.mapAsync(context.Background(), m)
		w.answer(w.next(), 0)
		w.show(base, m)
		if i == 1 {
			barrier := w.next()
			w.answer(barrier, 0)
		}
		if err := w.result(done); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNothingIsSentWhileRingsAreStopped(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
	refused := func(when string) {
		t.Helper()
		for name, err := range map[string]error{
			"map":     w.ch.ShmemMap(context.Background(), m),
			"unmap":   w.ch.ShmemUnmap(context.Background(), m),
			"barrier": w.ch.Barrier(context.Background()),
		} {
			if !errors.Is(err, ErrSuspended) || errors.Is(err, ErrUncertain) {
				t.Errorf("%s: %s returned %v", when, name, err)
			}
		}
		w.quiet()
	}
	refused("before a ring is enabled")
	w.enable()
	for _, stop := range []struct {
		name  string
		req   Request
		bytes []byte
	}{
		{"disabled", SetVringEnable, state(0, 0)},
		{"stopped", GetVringBase, state(0, 0)},
		{"reset", ResetDevice, nil},
	} {
		done := w.mapAsync(context.Background(), m)
		a := w.next()
		w.send(stop.req, 0, stop.bytes)
		if err := w.result(done); !errors.Is(err, ErrSuspended) || !errors.Is(err, ErrUncertain) {
			t.Errorf("%s: request under way returned %v", stop.name, err)
		}
		if stop.req == GetVringBase {
			w.receive(GetVringBase)
		}
		refused(stop.name)
		// The reply may still come, and is not taken for another's.
		w.answer(a, 0)
		w.enable()
		done = w.mapAsync(context.Background(), m)
		a = w.next()
		w.answer(a, 1)
		if err := w.result(done); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: request after the restart returned %v", stop.name, err)
		}
	}
}

// One ring's disabling may be the start of a stop of all. That the front-end
// enables a ring again, any one, tells that it was not.
func TestEnablingARingResumesWhileAnotherRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		ring uint32
	}{{"the running ring", 0}, {"a ring that was never started", 2}} {
		t.Run(c.name, func(t *testing.T) {
			w := openWindow(t, 0).patient()
			w.enable()
			w.must(SetVringEnable, state(2, 0))
			if err := w.ch.Barrier(context.Background()); !errors.Is(err, ErrSuspended) {
				t.Errorf("with a ring disabled: %v", err)
			}
			w.must(SetVringEnable, state(c.ring, 1))
			m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
			done := w.mapAsync(context.Background(), m)
			w.answer(w.next(), 0)
			w.show(windowGPA, m)
			if err := w.result(done); err != nil {
				t.Error(err)
			}
			// With no ring running it stays as it is.
			w.ask(GetVringBase, state(0, 0))
			w.must(SetVringEnable, state(2, 1))
			if err := w.ch.Barrier(context.Background()); !errors.Is(err, ErrSuspended) {
				t.Errorf("with no ring running: %v", err)
			}
			w.quiet()
		})
	}
}

// A front-end that disables one ring for good and goes on with the others takes requests.
//
// To see it fail: leave out resumeLater.
func TestDisabledRingHoldsRequestsUpForAMomentOnly(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	const apart = 20 * time.Millisecond
	w.ch.mu.Lock()
	w.ch.apart = apart
	w.ch.mu.Unlock()
	w.enable()
	w.must(SetVringEnable, state(2, 0))
	done := make(chan error, 1)
	go func() {
		err := w.ch.Barrier(context.Background())
		for errors.Is(err, ErrSuspended) {
			time.Sleep(time.Millisecond)
			err = w.ch.Barrier(context.Background())
		}
		done <- err
	}()
	w.answer(w.next(), 0)
	if err := w.result(done); err != nil {
		t.Error(err)
	}
	// The last one is the end of a stop.
	w.must(SetVringEnable, state(2, 0))
	w.must(SetVringEnable, state(0, 0))
	time.Sleep(5 * apart)
	if err := w.ch.Barrier(context.Background()); !errors.Is(err, ErrSuspended) {
		t.Errorf("with no ring running: %v", err)
	}
	w.quiet()
}

// A request whose first byte is still in the socket when a stop comes is made
// one that QEMU ignores: it would crash if it read the request after the stop.
func TestStopTakesBackWhatIsNotYetRead(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0).patient()
	for _, stop := range []struct {
		name  string
		req   Request
		bytes []byte
	}{
		{"disabled", SetVringEnable, state(0, 0)},
		{"stopped", GetVringBase, state(0, 0)},
		{"reset", ResetDevice, nil},
		{"kicked by another descriptor", SetVringKick, u64(0)},
	} {
		w.enable()
		m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20, Writable: true}
		done := w.mapAsync(context.Background(), m)
		w.waitReadable()
		if stop.req == SetVringKick {
			w.send(stop.req, 0, stop.bytes, eventfd(t))
		} else {
			w.send(stop.req, 0, stop.bytes)
		}
		if stop.req == GetVringBase {
			w.receive(GetVringBase)
		}
		w.askU64(GetFeatures)
		if err := w.result(done); !errors.Is(err, ErrSuspended) || errors.Is(err, ErrUncertain) {
			t.Errorf("%s: the request returned %v", stop.name, err)
		}
		// QEMU's main loop runs again.
		if a := w.next(); a.code != voidRequest|BackendShmemMap || a.needs || len(a.payload) != 0 {
			t.Errorf("%s: the front-end reads %#x, needs reply %t, with %d bytes", stop.name, uint32(a.code), a.needs, len(a.payload))
		}
		w.quiet()
	}
	w.enable()
	m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
	done := w.mapAsync(context.Background(), m)
	w.answer(w.next(), 0)
	w.show(windowGPA, m)
	if err := w.result(done); err != nil {
		t.Error(err)
	}
}

// A request that the front-end has read before a stop it has carried out before
// it, and the reply may be read after the stop.
func TestStopLeavesWhatIsCarriedOut(t *testing.T) {
	for range 20 {
		checkLeaks(t)
		w := openWindow(t, 0)
		w.enable()
		m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
		done := w.mapAsync(context.Background(), m)
		w.answer(w.next(), 0)
		w.send(SetVringEnable, 0, state(0, 0))
		if err := w.result(done); err != nil {
			t.Fatal(err)
		}
	}
}

// While its first byte is not read no request is sent, and it can be cancelled.
func TestRequestIsSentWhenItIsBeingRead(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	w.enable()
	ctx, cancel := context.WithCancel(context.Background())
	m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
	done := w.mapAsync(ctx, m)
	w.waitReadable()
	time.Sleep(5 * time.Millisecond) // for a mistake to show
	if n := w.readable(); n != 1 {
		t.Errorf("%d bytes are in the socket, want 1", n)
	}
	cancel()
	if err := w.result(done); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
		t.Errorf("returned %v", err)
	}
	if a := w.next(); a.code != voidRequest|BackendShmemMap {
		t.Errorf("the front-end reads %#x", uint32(a.code))
	}
}

func TestWaitsEndWithTheirContext(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	w.enable()
	m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
	t.Run("for the reply", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := w.mapAsync(ctx, m)
		a := w.next()
		cancel()
		if err := w.result(done); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		w.answer(a, 0)
	})
	t.Run("for the commit", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := w.mapAsync(ctx, m)
		w.answer(w.next(), 0)
		barrier := w.next()
		cancel()
		if err := w.result(done); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		w.answer(barrier, 0)
	})
	t.Run("before sending", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.ch.ShmemMap(ctx, m); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		w.quiet()
	})
	t.Run("for its turn", func(t *testing.T) {
		done := make(chan error, 1)
		go func() { done <- w.ch.ShmemUnmap(context.Background(), m) }()
		open := w.next()
		ctx, cancel := context.WithCancel(context.Background())
		one := w.mapAsync(ctx, m)
		w.quiet()
		cancel()
		if err := w.result(one); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		two := w.mapAsync(context.Background(), m)
		w.send(SetVringEnable, 0, state(0, 0))
		if err := w.result(two); !errors.Is(err, ErrSuspended) || errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		if err := w.result(done); !errors.Is(err, ErrSuspended) || !errors.Is(err, ErrUncertain) {
			t.Errorf("returned %v", err)
		}
		w.answer(open, 0)
		w.enable()
		last := w.mapAsync(context.Background(), m)
		w.answer(w.next(), 1)
		if err := w.result(last); !errors.Is(err, ErrRefused) {
			t.Errorf("returned %v", err)
		}
	})
}

func TestChannelEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(w *window, a asked)
	}{
		{"closed by the front-end", func(w *window, _ asked) { _ = w.back.sock.Close() }},
		{"with the connection", func(w *window, _ asked) { _ = w.sock.Close() }},
		{"replaced", func(w *window, _ asked) {
			ours, theirs := socketPair(w.t)
			w.t.Cleanup(func() { _ = ours.Close() })
			f, _ := theirs.File()
			_ = theirs.Close()
			w.send(SetBackendReqFD, 0, nil, int(f.Fd()))
			_ = f.Close()
		}},
		{"reply to another request", func(w *window, a asked) { w.answer(asked{code: BackendShmemUnmap}, 0) }},
		{"reply of a wrong size", func(w *window, a asked) {
			_ = w.back.send(uint32(a.code), flagReply, -1, func(b []byte) []byte { return append(b, 0) })
		}},
		{"request instead of a reply", func(w *window, a asked) {
			_ = w.back.send(uint32(a.code), 0, -1, func(b []byte) []byte { return le.AppendUint64(b, 0) })
		}},
		{"reply with a descriptor", func(w *window, a asked) {
			_ = w.back.send(uint32(a.code), flagReply, eventfd(w.t), func(b []byte) []byte { return le.AppendUint64(b, 0) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			w := openWindow(t, 0)
			w.enable()
			m := Mapping{FD: memfd(t, 2<<20), Len: 2 << 20}
			done := w.mapAsync(context.Background(), m)
			c.end(w, w.next())
			if err := w.result(done); !errors.Is(err, ErrChannelClosed) || !errors.Is(err, ErrUncertain) {
				t.Errorf("request under way returned %v", err)
			}
			if err := w.ch.ShmemMap(context.Background(), m); !errors.Is(err, ErrChannelClosed) || errors.Is(err, ErrUncertain) {
				t.Errorf("next request returned %v", err)
			}
			_ = w.back.sock.Close()
		})
	}
}

func TestMapNeedsItsFeatures(t *testing.T) {
	for _, missing := range []ProtocolFeatures{ProtocolSHMEM, ProtocolReplyAck, ProtocolBackendSendFD} {
		w := openWindow(t, missing)
		w.enable()
		err := w.ch.ShmemMap(context.Background(), Mapping{FD: memfd(t, 4096), Len: 4096})
		if !errors.Is(err, ErrNotOffered) {
			t.Errorf("without %v: %v", missing, err)
		}
		w.quiet()
	}
}

func TestMapOfAClosedDescriptorFailsAlone(t *testing.T) {
	w := openWindow(t, 0)
	w.enable()
	if err := w.ch.ShmemMap(context.Background(), Mapping{FD: 1 << 20, Len: 4096}); !errors.Is(err, unix.EBADF) {
		t.Errorf("returned %v", err)
	}
	done := w.mapAsync(context.Background(), Mapping{FD: memfd(t, 4096), Len: 4096})
	w.answer(w.next(), 1)
	if err := w.result(done); !errors.Is(err, ErrRefused) {
		t.Errorf("returned %v", err)
	}
}

// The main channel is served while nobody answers on the back-end channel.
func TestMainChannelNeverWaitsForTheBackendChannel(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	w.enable()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	file := memfd(t, 2<<20)
	var all []<-chan error
	for range 64 {
		all = append(all, w.mapAsync(ctx, Mapping{FD: file, Len: 2 << 20}))
	}
	for i := range uint64(20) {
		w.must(AddMemReg, memReg(Region{i << 21, 1 << 20, 1<<40 + i<<21, 0}), file)
		w.must(RemMemReg, memReg(Region{i << 21, 1 << 20, 1<<40 + i<<21, 0}))
	}
	w.must(SetVringEnable, state(0, 0))
	w.ask(GetVringBase, state(0, 0))
	for _, done := range all {
		if err := w.result(done); !errors.Is(err, ErrSuspended) {
			t.Errorf("returned %v", err)
		}
	}
}

// A front-end that maps, commits and shows as QEMU does, under load from many
// goroutines, with stops in between.
func TestManyMappingsAtOnce(t *testing.T) {
	checkLeaks(t)
	w := openWindow(t, 0)
	w.enable()
	const workers, rounds = 8, 40
	file := memfd(t, workers<<21)
	var mu sync.Mutex // the big lock: one message at a time on either channel
	committed := make(map[uint64]bool)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		for {
			_ = w.back.sock.SetReadDeadline(time.Time{})
			h, fds, err := w.back.receiveHeader()
			if err != nil {
				return
			}
			payload, err := w.back.receivePayload(h.size)
			if err != nil {
				return
			}
			mu.Lock()
			w.answer(asked{code: BackendRequest(h.request)}, 0)
			if BackendRequest(h.request) != BackendConfigChange {
				off := le.Uint64(payload[16:])
				r := Region{windowGPA + off, 2 << 20, 1<<40 + off, le.Uint64(payload[8:])}
				if BackendRequest(h.request) == BackendShmemMap {
					committed[off] = true
					w.must(AddMemReg, memReg(r), fds[0])
				} else {
					committed[off] = false
					w.must(RemMemReg, memReg(r))
				}
			}
			mu.Unlock()
			closeFDs(fds)
		}
	}()
	var wg sync.WaitGroup
	for i := range uint64(workers) {
		wg.Go(func() {
			m := Mapping{FD: file, FDOffset: i << 21, ShmOffset: i << 21, Len: 2 << 20}
			for range rounds {
				if err := w.ch.ShmemMap(context.Background(), m); err != nil {
					t.Errorf("map: %v", err)
				}
				mu.Lock()
				if !committed[m.ShmOffset] {
					t.Error("a map returned before it was committed")
				}
				mu.Unlock()
				if err := w.ch.ShmemUnmap(context.Background(), m); err != nil {
					t.Errorf("unmap: %v", err)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	_ = w.back.sock.Close()
	mu.Unlock()
	<-serving
}
