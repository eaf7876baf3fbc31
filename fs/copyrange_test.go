package fs

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The host's kernel ends a copy early when the thread gets a signal; the run-time sends some.
func TestACopyIsNotCutShortByASignal(t *testing.T) {
	g := newGuest(t, Options{})
	const size = 1 << 20
	from, src := g.create(rootID, "from", unix.O_RDWR, 0o600)
	to, dst := g.create(rootID, "to", unix.O_RDWR, 0o600)
	if err := unix.Ftruncate(g.fs.files.get(src).fd, size); err != nil {
		t.Fatal(err)
	}
	thread := unix.Gettid()
	var done atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !done.Load() {
			unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
			time.Sleep(20 * time.Microsecond)
		}
	}()
	defer func() {
		done.Store(true)
		<-ended
	}()
	for i := range 300 {
		rep, e := g.call(opCopyFileRange64, from, le(src, uint64(0), to, dst, uint64(0), uint64(size), uint64(0)))
		g.must("COPY_FILE_RANGE", e)
		if n := overlay[copyFileRangeOut](aligned(rep)).BytesCopied; n != size {
			t.Fatalf("copy %d: %d bytes of %d", i+1, n, size)
		}
	}
}
