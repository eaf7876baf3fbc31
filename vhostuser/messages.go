package vhostuser

import "encoding/binary"

// The protocol has the byte order of the machine; all machines served here are
// little-endian. Decoders expect the length that the request's rule has checked.
var le = binary.LittleEndian

// Header flags.
const (
	flagVersion     = 0x1
	flagVersionMask = 0x3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
	flagsKnown      = flagVersionMask | flagReply | flagNeedReply
)

// Sizes of the wire structures in bytes.
const (
	headerSize       = 12
	u64Size          = 8
	vringStateSize   = 8
	vringAddrSize    = 40
	regionSize       = 32
	memRegSize       = 8 + regionSize
	memTableHeadSize = 8
	logSize          = 16
	configHeadSize   = 12
	inflightSize     = 24 // in C, with its padding
	inflightPacked   = 20 // without, as some front-ends send it
	deviceStateSize  = 8
	mmapSize         = 40
	shmemConfigSize  = 8 + MaxShmemRegions*8
)

const (
	// MaxConfigSize is the size of the largest configuration space.
	MaxConfigSize = 256
	// MaxShmemRegions is the number of shared memory region ids.
	MaxShmemRegions = 256
	// maxTableRegions is the most that SET_MEM_TABLE can name
	// (VHOST_MEMORY_BASELINE_NREGIONS).
	maxTableRegions = 8
	// maxFDs is the most descriptors that come with one message.
	maxFDs = 8
	// maxPayload bounds every payload in both directions.
	maxPayload = shmemConfigSize
)

// vringNoFD is the bit of SET_VRING_KICK, CALL and ERR that says that no
// descriptor comes along; vringIndexMask are the bits of the ring's index.
const (
	vringIndexMask = 0xff
	vringNoFD      = 1 << 8
)

// header precedes each message in both directions.
type header struct {
	request uint32
	flags   uint32
	size    uint32
}

func decodeHeader(b []byte) header {
	return header{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
}

func (h header) encode(b []byte) {
	le.PutUint32(b, h.request)
	le.PutUint32(b[4:], h.flags)
	le.PutUint32(b[8:], h.size)
}

// vringState is struct vhost_vring_state.
type vringState struct {
	index, num uint32
}

func decodeVringState(b []byte) vringState {
	return vringState{le.Uint32(b), le.Uint32(b[4:])}
}

func (s vringState) append(b []byte) []byte {
	b = le.AppendUint32(b, s.index)
	return le.AppendUint32(b, s.num)
}

// vringAddrLog is VHOST_VRING_F_LOG.
const vringAddrLog = 1 << 0

// vringAddr is struct vhost_vring_addr.
type vringAddr struct {
	index, flags           uint32
	desc, used, avail, log uint64
}

func decodeVringAddr(b []byte) vringAddr {
	return vringAddr{
		index: le.Uint32(b), flags: le.Uint32(b[4:]),
		desc: le.Uint64(b[8:]), used: le.Uint64(b[16:]),
		avail: le.Uint64(b[24:]), log: le.Uint64(b[32:]),
	}
}

// Region is a region of guest memory as the front-end describes it
// (VhostUserMemoryRegion): Size bytes at guest address GuestAddr, at UserAddr in
// the front-end's address space, which come from its file at MmapOffset.
type Region struct {
	GuestAddr, Size, UserAddr, MmapOffset uint64
}

func decodeRegion(b []byte) Region {
	return Region{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
}

// logDesc is VhostUserLog.
type logDesc struct {
	mmapSize, mmapOffset uint64
}

func decodeLog(b []byte) logDesc {
	return logDesc{le.Uint64(b), le.Uint64(b[8:])}
}

// Flags of GET_CONFIG and SET_CONFIG.
const (
	configWritable  = 0
	configMigration = 1
)

// configHead is VhostUserConfig without the bytes that follow it.
type configHead struct {
	offset, size, flags uint32
}

func decodeConfig(b []byte) configHead {
	return configHead{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
}

func (c configHead) append(b []byte) []byte {
	b = le.AppendUint32(b, c.offset)
	b = le.AppendUint32(b, c.size)
	return le.AppendUint32(b, c.flags)
}

// inflightDesc is VhostUserInflight.
type inflightDesc struct {
	mmapSize, mmapOffset uint64
	numQueues, queueSize uint16
}

func decodeInflight(b []byte) inflightDesc {
	return inflightDesc{
		le.Uint64(b), le.Uint64(b[8:]),
		le.Uint16(b[16:]), le.Uint16(b[18:]),
	}
}

func (d inflightDesc) append(b []byte) []byte {
	b = le.AppendUint64(b, d.mmapSize)
	b = le.AppendUint64(b, d.mmapOffset)
	b = le.AppendUint16(b, d.numQueues)
	return le.AppendUint16(b, d.queueSize)
}

// appendShmemConfig appends VhostUserShMemConfig, always whole.
func appendShmemConfig(b []byte, sizes []uint64) []byte {
	used := uint32(0)
	for _, size := range sizes {
		if size != 0 {
			used++
		}
	}
	b = le.AppendUint32(b, used)
	b = le.AppendUint32(b, 0)
	for i := range MaxShmemRegions {
		size := uint64(0)
		if i < len(sizes) {
			size = sizes[i]
		}
		b = le.AppendUint64(b, size)
	}
	return b
}

// mmapWritable is VHOST_USER_FLAG_MAP_RW.
const mmapWritable = 1 << 0

// appendMmap appends VhostUserMMap.
func appendMmap(b []byte, m Mapping) []byte {
	flags := uint64(0)
	if m.Writable {
		flags = mmapWritable
	}
	b = append(b, m.ShmID, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint64(b, m.FDOffset)
	b = le.AppendUint64(b, m.ShmOffset)
	b = le.AppendUint64(b, m.Len)
	return le.AppendUint64(b, flags)
}
