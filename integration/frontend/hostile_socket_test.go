package frontend_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

func le(words ...any) []byte {
	var b []byte
	for _, w := range words {
		b, _ = binary.Append(b, binary.LittleEndian, w)
	}
	return b
}

// raw is a message with any header.
func raw(request, flags, size uint32, payload ...byte) []byte {
	return append(le(request, flags, size), payload...)
}

func msg(r frontend.Request, payload ...byte) []byte {
	return raw(uint32(r), frontend.FlagVersion, uint32(len(payload)), payload...)
}

func memfd(t *testing.T, size int64) int {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	must(t, err)
	must(t, unix.Ftruncate(fd, size))
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestBrokenMessagesEndOnlyTheirConnection sends what QEMU never would. The daemon may refuse it or hang up; then it serves
// the next front-end, with no descriptor more than before.
func TestBrokenMessagesEndOnlyTheirConnection(t *testing.T) {
	ours(t)
	d := daemontest.Start(t, t.TempDir(), "--reconnect")
	region := func(gpa, size, user, offset uint64) []byte { return le(gpa, size, user, offset) }
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	must(t, err)
	defer unix.Close(ev)
	ram, empty := memfd(t, 1<<20), memfd(t, 0)
	var many []int
	for range 200 {
		many = append(many, ev)
	}
	cases := []struct {
		name string
		data []byte
		fds  []int
	}{
		{"nothing", nil, nil},
		{"half a header", []byte{1, 0, 0, 0, 1}, nil},
		{"version 0", raw(1, 0, 0), nil},
		{"version 2", raw(1, 2, 0), nil},
		{"a reply", raw(1, 5, 0), nil},
		{"request 0", raw(0, 1, 0), nil},
		{"request 2^32-1", raw(^uint32(0), 1, 0), nil},
		{"every flag", raw(1, ^uint32(0), 0), nil},
		{"a payload of 4 GiB", raw(2, 1, ^uint32(0), 1, 2, 3), nil},
		{"GET_FEATURES with a payload", msg(frontend.GetFeatures, le(uint64(1))...), nil},
		{"GET_FEATURES with descriptors", msg(frontend.GetFeatures), []int{ev, ev}},
		{"200 descriptors", msg(frontend.GetFeatures), many},
		{"SET_FEATURES of 4 bytes", msg(frontend.SetFeatures, le(uint32(1))...), nil},
		{"features that were not offered", msg(frontend.SetFeatures, le(^uint64(0))...), nil},
		{"protocol features that were not offered", msg(frontend.SetProtocolFeatures, le(^uint64(0))...), nil},
		{"a memory table of 9 regions", msg(frontend.SetMemTable, append(le(uint32(9), uint32(0)), make([]byte, 9*32)...)...), []int{ram}},
		{"a memory table of 2^32-1 regions", msg(frontend.SetMemTable, le(^uint32(0), uint32(0))...), []int{ram}},
		{"a memory table without descriptors", msg(frontend.SetMemTable, append(le(uint32(1), uint32(0)), region(0, 4096, 4096, 0)...)...), nil},
		{"a memory table with too many descriptors", msg(frontend.SetMemTable, append(le(uint32(1), uint32(0)), region(0, 4096, 4096, 0)...)...), []int{ram, ram, ram}},
		{"a region of no bytes", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 0, 4096, 0)...)...), []int{ram}},
		{"a region over the end of the address space", msg(frontend.AddMemReg, append(le(uint64(0)), region(^uint64(4095), 1<<20, 4096, 0)...)...), []int{ram}},
		{"a region over the end of user addresses", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 1<<20, ^uint64(4095), 0)...)...), []int{ram}},
		{"a region of 2^63 bytes", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 1<<63, 4096, 0)...)...), []int{ram}},
		{"a region past the end of its file", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 1<<30, 4096, 0)...)...), []int{ram}},
		{"a region in an empty file", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 4096, 4096, 0)...)...), []int{empty}},
		{"a region whose file offset overflows", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 4096, 4096, ^uint64(4095))...)...), []int{ram}},
		{"a region in an eventfd", msg(frontend.AddMemReg, append(le(uint64(0)), region(0, 4096, 4096, 0)...)...), []int{ev}},
		{"removing a region that is not there", msg(frontend.RemMemReg, append(le(uint64(0)), region(0, 4096, 4096, 0)...)...), nil},
		{"a ring past the last", msg(frontend.SetVringNum, le(uint32(1000), uint32(128))...), nil},
		{"a ring of no entries", msg(frontend.SetVringNum, le(uint32(0), uint32(0))...), nil},
		{"a ring of 100 entries", msg(frontend.SetVringNum, le(uint32(0), uint32(100))...), nil},
		{"a ring of 65536 entries", msg(frontend.SetVringNum, le(uint32(0), uint32(65536))...), nil},
		{"a ring outside memory", msg(frontend.SetVringAddr, le(uint32(0), uint32(0), uint64(1)<<50, uint64(1)<<50, uint64(1)<<50, uint64(0))...), nil},
		{"a ring that is not aligned", msg(frontend.SetVringAddr, le(uint32(0), uint32(0), uint64(4097), uint64(4099), uint64(4101), uint64(0))...), nil},
		{"a kick for a ring past the last", msg(frontend.SetVringKick, le(uint64(77))...), []int{ev}},
		{"a kick without its descriptor", msg(frontend.SetVringKick, le(uint64(0))...), nil},
		{"a kick with two descriptors", msg(frontend.SetVringKick, le(uint64(0))...), []int{ev, ev}},
		{"no kick, and a descriptor", msg(frontend.SetVringKick, le(uint64(0)|frontend.VringNoFD)...), []int{ev}},
		{"a kick that is a memfd", msg(frontend.SetVringKick, le(uint64(0))...), []int{ram}},
		{"a call that is a memfd", msg(frontend.SetVringCall, le(uint64(0))...), []int{ram}},
		{"the base of a ring past the last", msg(frontend.GetVringBase, le(uint32(99), uint32(0))...), nil},
		{"the base of a ring that never started", msg(frontend.GetVringBase, le(uint32(0), uint32(0))...), nil},
		{"enabling a ring past the last", msg(frontend.SetVringEnable, le(uint32(99), uint32(1))...), nil},
		{"enabling a ring with 7", msg(frontend.SetVringEnable, le(uint32(0), uint32(7))...), nil},
		{"a log without its descriptor", msg(frontend.SetLogBase, le(uint64(4096), uint64(0))...), nil},
		{"a log larger than its file", msg(frontend.SetLogBase, le(uint64(1)<<40, uint64(0))...), []int{ram}},
		{"a log of nothing", msg(frontend.SetLogBase, le(uint64(0), uint64(0))...), []int{ram}},
		{"a configuration of 2^32-1 bytes", msg(frontend.GetConfig, le(uint32(0), ^uint32(0), uint32(0))...), nil},
		{"a configuration from 2^32-1 on", msg(frontend.GetConfig, append(le(^uint32(0), uint32(256), uint32(0)), make([]byte, 256)...)...), nil},
		{"a backend channel without its descriptor", msg(frontend.SetBackendReqFD), nil},
		{"a backend channel that is no socket", msg(frontend.SetBackendReqFD), []int{ram}},
		{"an in-flight area for 65535 queues", msg(frontend.GetInflightFD, append(le(uint64(0), uint64(0), ^uint16(0), ^uint16(0)), 0, 0, 0, 0)...), nil},
		{"an in-flight area in an empty file", msg(frontend.SetInflightFD, append(le(uint64(4096), uint64(0), uint16(2), uint16(128)), 0, 0, 0, 0)...), []int{empty}},
		{"an in-flight area too small", msg(frontend.SetInflightFD, append(le(uint64(64), uint64(0), uint16(2), uint16(128)), 0, 0, 0, 0)...), []int{ram}},
		{"a network request", msg(frontend.NetSetMTU, le(uint64(1500))...), nil},
		{"a GPU request", msg(frontend.GPUSetSocket), []int{ev}},
		{"postcopy", msg(frontend.PostcopyAdvise), nil},
	}
	before := -1
	for i, when := range []string{"at the start", "after the handshake", "with rings running"} {
		for _, c := range cases {
			t.Run(when+"/"+c.name, func(t *testing.T) {
				fe, err := frontend.New(d.Socket, frontend.Options{Regions: frontend.PCRegions(16 << 20), Timeout: 5 * time.Second})
				must(t, err)
				defer fe.Close()
				var conn *frontend.Conn
				if i == 0 {
					conn, err = frontend.Dial(d.Socket, 5*time.Second)
					must(t, err)
					defer conn.Close()
				} else {
					must(t, fe.Connect())
					conn = fe.Conn()
				}
				if i == 2 {
					must(t, fe.Start())
				}
				sendErr := conn.SendRaw(c.data, c.fds...)
				if len(c.data) > 0 {
					must(t, sendErr)
				}
				hungUpOrAnswers(t, conn)
			})
			select {
			case <-d.Done():
				t.Fatalf("%q ended the daemon", c.name)
			default:
			}
		}
		serves(t, d)
		n := openFDs(t, d, before)
		if before >= 0 && n > before {
			t.Errorf("%s: %d descriptors are open, %d before%s", when, n, before, fdList(d))
		}
		before = n
	}
}

// hungUpOrAnswers waits for the daemon to close the connection, or to answer a good request behind the bad one.
func hungUpOrAnswers(t *testing.T, c *frontend.Conn) {
	t.Helper()
	if err := c.Send(frontend.Message{Request: frontend.GetFeatures}); err != nil {
		return
	}
	// A message cut short swallows this one: nothing comes then, until the connection is closed here.
	got := make(chan error, 1)
	go func() {
		for {
			m, fds, err := c.Recv()
			for _, fd := range fds {
				unix.Close(fd)
			}
			if err != nil || m.Request == frontend.GetFeatures {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil && err != io.EOF && !errors.Is(err, unix.ECONNRESET) && err != io.ErrUnexpectedEOF {
			t.Errorf("after the message: %v", err)
		}
	case <-time.After(200 * time.Millisecond):
	}
}

// serves checks that the next front-end gets a file system.
func serves(t *testing.T, d *frontend.Daemon) {
	t.Helper()
	fe, err := frontend.Open(d.Socket, frontend.Options{Regions: frontend.PCRegions(64 << 20)})
	if err != nil {
		t.Fatalf("the next front-end: %v", err)
	}
	defer fe.Close()
	c := fuseclient.New(fe, fuseclient.Options{})
	defer c.Close()
	must(t, c.Init())
	alive(t, c)
}

// TestRandomMessages flips bits in the start-up sequence.
func TestRandomMessages(t *testing.T) {
	ours(t)
	d := daemontest.Start(t, t.TempDir(), "--reconnect")
	rnd := rand.New(rand.NewPCG(3, 4))
	ram := memfd(t, 1<<20)
	for round := range 300 {
		conn, err := frontend.Dial(d.Socket, time.Second)
		must(t, err)
		for range 10 {
			n := rnd.IntN(60)
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(rnd.Uint32() & (rnd.Uint32() | 3))
			}
			var fds []int
			for range rnd.IntN(3) {
				fds = append(fds, ram)
			}
			if conn.SendRaw(raw(rnd.Uint32N(46), 1|rnd.Uint32N(2)<<3, uint32(n), payload...), fds...) != nil {
				break
			}
		}
		conn.Close()
		select {
		case <-d.Done():
			t.Fatalf("round %d ended the daemon", round)
		default:
		}
	}
	serves(t, d)
}
