package frontend_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/control"
	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

// TestBadInputIsCountedAndLoggedAtABoundedRate repeats each kind of bad input many times. The daemon counts all of it and
// logs a handful; then it serves the next front-end.
func TestBadInputIsCountedAndLoggedAtABoundedRate(t *testing.T) {
	ours(t)
	sockets, err := os.MkdirTemp("", "vfs")
	must(t, err)
	defer os.RemoveAll(sockets)
	var log bytes.Buffer
	ctl := filepath.Join(sockets, "c")
	d, err := frontend.StartDaemon(append(daemontest.Command(t), "--reconnect", "--control-socket="+ctl), filepath.Join(sockets, "s"), t.TempDir(), &log)
	must(t, err)
	ended := false
	defer func() {
		if !ended {
			d.Stop()
		}
	}()

	const many = 200
	// Connections that break the protocol.
	for range many {
		conn, err := frontend.Dial(d.Socket, 5*time.Second)
		must(t, err)
		must(t, conn.SendRaw(raw(0, 1, 0)))
		_, _, err = conn.Recv()
		if err == nil {
			t.Error("request 0 has an answer")
		}
		conn.Close()
	}
	fe, err := frontend.Open(d.Socket, frontend.Options{})
	must(t, err)
	defer fe.Close()
	// Requests of the front-end that are refused.
	for range many {
		must(t, fe.Conn().Send(frontend.Message{Request: frontend.RemMemReg, Payload: make([]byte, 40)}))
	}
	g := newRawGuest(t, fe)
	g.init()
	for range many {
		// A chain that leads outside memory, and a request whose header lies.
		g.chain(g.q.DescGPA, 0, []frontend.Desc{{Addr: 1 << 50, Len: getattr}, g.out()})
		g.submitSplit(0)
		g.request(getattr+1, 3, 8, 1)
		g.chain(g.q.DescGPA, 10, []frontend.Desc{g.in(), g.out()})
		g.submitSplit(10)
		if !g.completedSplit(5 * time.Second) {
			t.Fatal("a broken request does not come back")
		}
	}
	g.expectReply("after all that")
	// Rings that break.
	for range many {
		must(t, fe.Reset())
		must(t, fe.Start())
		g := newRawGuest(t, fe)
		g.submitSplit(65535)
		if !signalled(g.q.ErrFD(), 10*time.Second) {
			t.Fatal("the front-end is not told of a broken queue")
		}
	}

	client, err := control.Dial(context.Background(), ctl)
	must(t, err)
	defer client.Close()
	var counted map[string]uint64
	must(t, client.Call(context.Background(), "stats", nil, &counted))
	for name, want := range map[string]uint64{
		"connections": many + 1, "broken_connections": many, "broken_chains": many, "bad_requests": many, "broken_queues": many, "faults": 0,
	} {
		if counted[name] != want {
			t.Errorf("%s: %d counted, want %d", name, counted[name], want)
		}
	}
	fe.Disconnect()
	ended = true
	must(t, d.Stop())
	texts := map[string]int{}
	for line := range strings.Lines(log.String()) {
		_, text, _ := strings.Cut(line, "msg=")
		text, _, _ = strings.Cut(text[1:], `"`)
		texts[text]++
	}
	for text, n := range texts {
		if n > 15 {
			t.Errorf("%q was logged %d times", text, n)
		}
	}
	for _, word := range []string{"connection to the front-end has ended", "refused", "can't be read", "bad request", "given up"} {
		if !strings.Contains(log.String(), word) {
			t.Errorf("the log does not say %q", word)
		}
	}
	if t.Failed() {
		t.Logf("the daemon printed:\n%s", log.String())
	}
}

// signalled waits for an eventfd and clears it.
func signalled(fd int, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		// Interrupted by the runtime's signals, it is asked again.
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100); n == 1 {
			var count [8]byte
			_, err := unix.Read(fd, count[:])
			return err == nil
		}
	}
	return false
}
