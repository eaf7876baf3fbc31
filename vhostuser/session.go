package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/virtiofsd-go/virtiofsd-go/guestmem"
)

// Config is what a session needs besides its device.
type Config struct {
	// Log gets refusals (warn), and each message (debug).
	Log *slog.Logger
	// Classify says how the region that fd stands for may be touched; nil is
	// [Classify]. It runs on the connection's goroutine and must not wait:
	// it may make no request to the file system of fd, which another process
	// may be serving.
	Classify func(fd int, r Region) guestmem.Kind
}

// Serve serves one connection until it ends, and closes it: with nil when the
// front-end has closed it, with ctx's error when ctx ended, with a
// [ProtocolError] when the front-end broke the protocol. On return all rings
// are stopped, and the descriptors and mappings of the session are released.
func Serve(ctx context.Context, sock *net.UnixConn, dev Device, cfg Config) error {
	s := newSession(sock, dev, cfg)
	stop := context.AfterFunc(ctx, func() { _ = sock.Close() })
	err := s.run()
	stop()
	s.end()
	_ = sock.Close()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// session is the state of one connection. All of it belongs to the goroutine
// that runs it.
type session struct {
	conn     *conn
	dev      Device
	log      *slog.Logger
	classify func(fd int, r Region) guestmem.Kind

	offeredFeatures uint64
	offeredProtocol ProtocolFeatures
	shmem           []uint64

	owned       bool
	featuresSet bool
	acked       uint64 // feature bits, vhost's own among them
	protocol    ProtocolFeatures
	status      uint64
	vrings      []vring
	withdrawn   bool

	mem      *guestmem.Memory
	regions  []knownRegion
	dirtyLog *guestmem.DirtyLog
	logFD    int // of SET_LOG_FD, or -1
	inflight inflightBuffer

	backend *BackendChannel
}

func newSession(sock *net.UnixConn, dev Device, cfg Config) *session {
	s := &session{
		conn:     newConn(sock),
		dev:      dev,
		log:      cfg.Log,
		classify: cfg.Classify,
		shmem:    dev.ShmemRegions(),
		vrings:   make([]vring, dev.NumQueues()),
		mem:      new(guestmem.Memory),
		logFD:    -1,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.classify == nil {
		s.classify = Classify
	}
	for i := range s.vrings {
		s.vrings[i].reset()
	}
	s.offeredProtocol = dev.ProtocolFeatures() & Supported
	for _, size := range s.shmem {
		if size != 0 {
			s.offeredProtocol |= ProtocolSHMEM
		}
	}
	s.offeredFeatures = dev.Features()&^(vhostFeatures|featureIOMMUPlatform) | FeatureProtocolFeatures
	if s.offeredProtocol&ProtocolLogShmFD != 0 {
		s.offeredFeatures |= FeatureLogAll
	}
	return s
}

// run serves messages until the connection or the protocol ends.
func (s *session) run() error {
	for {
		if err := s.serveOne(); err != nil {
			return err
		}
	}
}

func (s *session) serveOne() error {
	h, fds, err := s.conn.receiveHeader()
	m := &message{request: Request(h.request), fds: fds}
	defer m.closeFDs()
	if err != nil {
		what := "message header"
		if h.request != 0 {
			what = m.request.String()
		}
		return s.receiveError(what, err)
	}
	r, err := checkHeader(h)
	if err != nil {
		return err
	}
	m.payload, err = s.conn.receivePayload(h.size)
	if err != nil {
		return s.receiveError(m.request.String(), err)
	}
	if err := r.check(s, m); err != nil {
		return err
	}
	// A front-end can know that REPLY_ACK is negotiated only in messages after
	// the one that negotiates it.
	m.needReply = h.flags&flagNeedReply != 0 && s.protocol&ProtocolReplyAck != 0 && !r.ownReply
	s.log.Debug("vhost-user message", "request", m.request, "size", h.size, "fds", len(fds), "needReply", m.needReply)

	err = r.handle(s, m)
	var broken *ProtocolError
	if errors.As(err, &broken) {
		return err
	}
	if err != nil {
		s.log.Warn("vhost-user request refused", "request", m.request, "error", err)
	}
	if m.needReply {
		return s.replyU64(m, failure(err))
	}
	return nil
}

// checkHeader finds the rule of a message and checks what the header alone tells.
func checkHeader(h header) (*rule, error) {
	req := Request(h.request)
	if req < 1 || req > maxRequest {
		return nil, breach(req, "unknown", "use a front-end that negotiates protocol features before using them")
	}
	switch {
	case h.flags&flagVersionMask != flagVersion:
		return nil, breach(req, fmt.Sprintf("version %d, not %d", h.flags&flagVersionMask, flagVersion), "connect a vhost-user front-end")
	case h.flags&flagReply != 0:
		return nil, breach(req, "the reply flag is set in a request", "send replies only on the back-end channel")
	case h.flags&^flagsKnown != 0:
		return nil, breach(req, fmt.Sprintf("unknown flags %#x", h.flags&^flagsKnown), "set only the version and need_reply")
	}
	r := &rules[req]
	if err := r.checkSize(req, h.size); err != nil {
		return nil, err
	}
	if r.handle == nil {
		return nil, breach(req, fmt.Sprintf("this device does not offer it (%v)", r.protocol&^protocolNever),
			"negotiate protocol features before using them")
	}
	return r, nil
}

// receiveError turns an error of the connection into the one that ends the
// session: io.EOF between messages is an orderly end.
func (s *session) receiveError(what string, err error) error {
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, errLateFDs):
		return &ProtocolError{Request: what, Fault: err.Error(), Advice: fmt.Sprintf("send at most %d with the first byte", maxFDs)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &ProtocolError{Request: what, Fault: "the connection ended within it", Advice: "see the front-end's log for why it ended"}
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return fmt.Errorf("vhost-user: receiving %s: %w; restart the front-end", what, err)
}

// end stops everything that the connection started, in the order in which it
// depends on each other.
func (s *session) end() {
	if s.backend != nil {
		s.backend.close()
	}
	for i := range s.vrings {
		s.stopVring(i)
		s.vrings[i].dropKick()
	}
	s.dev.Closed()
	s.releaseMemory()
	s.inflight.release()
}

func (s *session) reply(m *message, fd int, fill func(b []byte) []byte) error {
	if err := s.conn.send(uint32(m.request), flagReply, fd, fill); err != nil {
		return connectionLost(m.request, err)
	}
	return nil
}

func (s *session) replyU64(m *message, v uint64) error {
	return s.reply(m, -1, func(b []byte) []byte { return le.AppendUint64(b, v) })
}

// connectionLost is the error of a reply that could not be sent; the front-end
// has gone away or broken the stream.
func connectionLost(r Request, err error) error {
	return &ProtocolError{Request: r.String(), Fault: fmt.Sprintf("the reply could not be sent: %v", err), Advice: "see the front-end's log for why it ended"}
}

// failure is the value that tells err to a front-end.
func failure(err error) uint64 {
	if err != nil {
		return 1
	}
	return 0
}

func (s *session) getFeatures(m *message) error {
	return s.replyU64(m, s.offeredFeatures)
}

func (s *session) setFeatures(m *message) error {
	features := le.Uint64(m.payload)
	if extra := features &^ s.offeredFeatures; extra != 0 {
		return breach(m.request, fmt.Sprintf("feature bits %#x were not offered", extra), "accept only bits of GET_FEATURES")
	}
	if changed := (features ^ s.acked) &^ vhostFeatures; s.featuresSet && changed != 0 {
		for i := range s.vrings {
			if s.vrings[i].started {
				return breach(m.request, fmt.Sprintf("feature bits %#x change while ring %d runs", changed, i), "stop all rings with GET_VRING_BASE first")
			}
		}
	}
	s.acked, s.featuresSet = features, true
	s.dev.SetFeatures(features &^ vhostFeatures)
	s.applyLog()
	if features&FeatureProtocolFeatures == 0 {
		// Without protocol features there is no SET_VRING_ENABLE.
		var failed error
		for i := range s.vrings {
			failed = errors.Join(failed, s.enableVring(i, true))
		}
		return failed
	}
	return nil
}

func (s *session) getProtocolFeatures(m *message) error {
	return s.replyU64(m, uint64(s.offeredProtocol))
}

func (s *session) setProtocolFeatures(m *message) error {
	features := ProtocolFeatures(le.Uint64(m.payload))
	if extra := features &^ s.offeredProtocol; extra != 0 {
		return breach(m.request, fmt.Sprintf("protocol features %v were not offered", extra), "accept only bits of GET_PROTOCOL_FEATURES")
	}
	s.protocol = features
	return nil
}

func (s *session) setOwner(*message) error {
	s.owned = true
	return nil
}

// resetOwner disables all rings, which is what the specification recommends of
// the meanings that this request has had.
func (s *session) resetOwner(*message) error {
	var failed error
	for i := range s.vrings {
		failed = errors.Join(failed, s.enableVring(i, false))
	}
	return failed
}

func (s *session) getQueueNum(m *message) error {
	return s.replyU64(m, uint64(len(s.vrings)))
}

func (s *session) getConfig(m *message) error {
	c, err := checkConfig(m)
	if err != nil {
		return err
	}
	s.withdraw()
	if s.withdrawn {
		return s.reply(m, -1, func(b []byte) []byte { return append(c.append(b), make([]byte, c.size)...) })
	}
	data, err := s.dev.ReadConfig(c.offset, c.size)
	if err != nil {
		// A reply without payload is the failure of this request.
		if lost := s.reply(m, -1, nil); lost != nil {
			return lost
		}
		return fmt.Errorf("reading %d bytes of configuration space at %d: %w", c.size, c.offset, err)
	}
	return s.reply(m, -1, func(b []byte) []byte {
		b = c.append(b)
		n := copy(b[len(b):len(b)+int(c.size)], data)
		clear(b[len(b)+n : len(b)+int(c.size)])
		return b[:len(b)+int(c.size)]
	})
}

func (s *session) setConfig(m *message) error {
	c, err := checkConfig(m)
	if err != nil {
		return err
	}
	if c.flags != configWritable && c.flags != configMigration {
		return breach(m.request, fmt.Sprintf("unknown flags %#x", c.flags), "use 0 for writable fields or 1 for migration")
	}
	return s.dev.WriteConfig(c.offset, m.payload[configHeadSize:], c.flags == configMigration)
}

func checkConfig(m *message) (configHead, error) {
	c := decodeConfig(m.payload)
	if int(c.size) != len(m.payload)-configHeadSize {
		return c, breach(m.request, fmt.Sprintf("%d bytes of data for an access of %d", len(m.payload)-configHeadSize, c.size),
			"send as many bytes as the access has")
	}
	if c.offset > MaxConfigSize || c.offset+c.size > MaxConfigSize {
		return c, breach(m.request, fmt.Sprintf("access to bytes %d to %d of a space of at most %d", c.offset, uint64(c.offset)+uint64(c.size), MaxConfigSize),
			"stay within the configuration space")
	}
	return c, nil
}

// setStatus records the virtio device status. Status 0 resets nothing, see
// [Device].
func (s *session) setStatus(m *message) error {
	s.status = le.Uint64(m.payload)
	return nil
}

func (s *session) resetDevice(*message) error {
	s.suspendBackend()
	for i := range s.vrings {
		s.stopVring(i)
		s.vrings[i].reset()
	}
	s.status = 0
	s.dev.Reset()
	// What the driver had in flight it has forgotten. The front-end may go on
	// with the buffer as it is; all zeroes is one that nobody has used.
	clear(s.inflight.mem)
	return nil
}

func (s *session) getShmemConfig(m *message) error {
	return s.reply(m, -1, func(b []byte) []byte { return appendShmemConfig(b, s.shmem) })
}
