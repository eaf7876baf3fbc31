package dax

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPressureTakesMemoryBack has the engine told that tasks of the host wait for memory. No test can make them: urgent data
// of a connection wake a poll just as the kernel's notice does.
//
// To see it fail: let awaitPressure wait for POLLIN.
func TestPressureTakesMemoryBack(t *testing.T) {
	const ranges = 32
	m, g := guestOfSparseFile(t, ranges, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("skip: no connection here: %v", err)
	}
	defer l.Close()
	told, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	kernel, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	file, err := told.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	psi, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	m.engine.done.Add(1)
	go m.engine.awaitPressure(psi)
	defer unix.Shutdown(int(file.Fd()), unix.SHUT_RDWR) // ends it

	for i := range uint64(ranges) {
		g.read(i*RangeSize, 1)
	}
	if s := m.Stats(); s.Pressure == 0 && s.Reclaims != 0 {
		t.Fatalf("%d reclaims for no reason", s.Reclaims)
	}
	out, err := kernel.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := unix.Send(int(out.Fd()), []byte{0}, unix.MSG_OOB); err != nil {
		t.Fatal(err)
	}
	for m.Stats().ReclaimedRanges < ranges/2 {
		time.Sleep(time.Millisecond) // the watchdog ends it
	}
	if s := m.Stats(); s.Pressure == 0 {
		t.Error("memory was taken back, and not for the pressure")
	}
}
