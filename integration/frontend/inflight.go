package frontend

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// inflight is the area in which the daemon records the buffers it works on. The front-end keeps it across restarts of
// the daemon.
type inflight struct {
	fd           int
	size, offset uint64
	data         []byte // mapped at offset
}

func (i *inflight) close() {
	if i.data != nil {
		unix.Munmap(i.data)
	}
	if i.fd >= 0 {
		unix.Close(i.fd)
	}
	*i = inflight{fd: -1}
}

// reset is vhost_dev_reset_inflight and free: the next start asks for a new area.
func (i *inflight) reset() { i.close() }

func (f *Frontend) prepareInflight() error {
	// vhost_dev_prepare_inflight: the daemon must know the ring format before it sizes the area.
	if err := f.send(SetFeatures, u64s(f.acked)); err != nil {
		return err
	}
	in := &f.inflight
	if in.fd < 0 {
		if err := f.getInflight(); err != nil {
			return err
		}
	}
	return f.send(SetInflightFD, f.inflightPayload(in.size, in.offset), in.fd)
}

func (f *Frontend) inflightPayload(size, offset uint64) []byte {
	p := u64s(size, offset)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(f.queues)))
	p = binary.LittleEndian.AppendUint16(p, uint16(f.opts.QueueSize))
	return append(p, 0, 0, 0, 0) // padding of struct VhostUserInflight
}

func (f *Frontend) getInflight() error {
	reply, fds, err := f.ask(Message{Request: GetInflightFD, Payload: f.inflightPayload(0, 0)})
	if err != nil {
		return err
	}
	if len(reply.Payload) < 20 || len(fds) != 1 {
		closeAll(fds)
		return fmt.Errorf("%w: GET_INFLIGHT_FD answered with %d bytes and %d descriptors", errProtocol, len(reply.Payload), len(fds))
	}
	le := binary.LittleEndian
	in := inflight{fd: fds[0], size: le.Uint64(reply.Payload), offset: le.Uint64(reply.Payload[8:])}
	if in.size == 0 {
		in.close()
		return fmt.Errorf("%w: GET_INFLIGHT_FD answered with an empty area", errProtocol)
	}
	if in.data, err = unix.Mmap(in.fd, int64(in.offset), int(in.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		in.close()
		return fmt.Errorf("map the in-flight area: %w", err)
	}
	f.inflight = in
	return nil
}

// Inflight is the in-flight area in place, or nil.
func (f *Frontend) Inflight() []byte { return f.inflight.data }
