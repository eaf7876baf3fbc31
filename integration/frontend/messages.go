package frontend

import (
	"encoding/binary"
	"fmt"
)

// Request is the number of a front-end message, as in the vhost-user specification.
type Request uint32

// Front-end messages.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetLogBase          Request = 6
	SetLogFD            Request = 7
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	SendRARP            Request = 19
	NetSetMTU           Request = 20
	SetBackendReqFD     Request = 21
	IotlbMsg            Request = 22
	GetConfig           Request = 24
	SetConfig           Request = 25
	PostcopyAdvise      Request = 28
	GetInflightFD       Request = 31
	SetInflightFD       Request = 32
	GPUSetSocket        Request = 33
	ResetDevice         Request = 34
	VringKick           Request = 35
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	SetStatus           Request = 39
	GetStatus           Request = 40
	GetSharedObject     Request = 41
	SetDeviceStateFD    Request = 42
	CheckDeviceState    Request = 43
	GetShmemConfig      Request = 44
)

// Back-end messages.
const (
	BackendIotlbMsg        Request = 1
	BackendConfigChange    Request = 2
	BackendVringHostNotify Request = 3
	BackendShmemMap        Request = 9
	BackendShmemUnmap      Request = 10
)

var requestNames = map[Request]string{
	GetFeatures: "GET_FEATURES", SetFeatures: "SET_FEATURES", SetOwner: "SET_OWNER", ResetOwner: "RESET_OWNER",
	SetMemTable: "SET_MEM_TABLE", SetLogBase: "SET_LOG_BASE", SetLogFD: "SET_LOG_FD", SetVringNum: "SET_VRING_NUM",
	SetVringAddr: "SET_VRING_ADDR", SetVringBase: "SET_VRING_BASE", GetVringBase: "GET_VRING_BASE",
	SetVringKick: "SET_VRING_KICK", SetVringCall: "SET_VRING_CALL", SetVringErr: "SET_VRING_ERR",
	GetProtocolFeatures: "GET_PROTOCOL_FEATURES", SetProtocolFeatures: "SET_PROTOCOL_FEATURES",
	GetQueueNum: "GET_QUEUE_NUM", SetVringEnable: "SET_VRING_ENABLE", SetBackendReqFD: "SET_BACKEND_REQ_FD",
	GetConfig: "GET_CONFIG", SetConfig: "SET_CONFIG", GetInflightFD: "GET_INFLIGHT_FD", SetInflightFD: "SET_INFLIGHT_FD",
	ResetDevice: "RESET_DEVICE", GetMaxMemSlots: "GET_MAX_MEM_SLOTS", AddMemReg: "ADD_MEM_REG", RemMemReg: "REM_MEM_REG",
	SetStatus: "SET_STATUS", GetStatus: "GET_STATUS", GetShmemConfig: "GET_SHMEM_CONFIG",
}

func (r Request) String() string {
	if s, ok := requestNames[r]; ok {
		return s
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// Protocol feature bits, as masks.
const (
	ProtocolMQ                uint64 = 1 << 0
	ProtocolLogShmFD          uint64 = 1 << 1
	ProtocolReplyAck          uint64 = 1 << 3
	ProtocolBackendReq        uint64 = 1 << 5
	ProtocolConfig            uint64 = 1 << 9
	ProtocolBackendSendFD     uint64 = 1 << 10
	ProtocolInflightShmFD     uint64 = 1 << 12
	ProtocolResetDevice       uint64 = 1 << 13
	ProtocolInbandNotify      uint64 = 1 << 14
	ProtocolConfigureMemSlots uint64 = 1 << 15
	ProtocolStatus            uint64 = 1 << 16
	ProtocolDeviceState       uint64 = 1 << 19
	ProtocolShmem             uint64 = 1 << 22
)

// Device feature bits, as masks.
const (
	FLogAll           uint64 = 1 << 26 // VHOST_F_LOG_ALL
	FRingIndirect     uint64 = 1 << 28 // VIRTIO_F_RING_INDIRECT_DESC
	FEventIdx         uint64 = 1 << 29 // VIRTIO_F_RING_EVENT_IDX
	FProtocolFeatures uint64 = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	FVersion1         uint64 = 1 << 32 // VIRTIO_F_VERSION_1
	FRingPacked       uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
)

// Flags of a message header.
const (
	FlagVersion   uint32 = 1
	FlagReply     uint32 = 1 << 2
	FlagNeedReply uint32 = 1 << 3
	versionMask   uint32 = 3
)

// VringNoFD in the number of SET_VRING_KICK, CALL and ERR says that no descriptor comes with it.
const VringNoFD uint64 = 1 << 8

const (
	headerSize      = 12
	maxMemSlots     = 512       // VHOST_USER_MAX_RAM_SLOTS of QEMU on x86
	legacyMemSlots  = 8         // VHOST_MEMORY_BASELINE_NREGIONS
	shmemConfigSize = 8 + 256*8 // VhostUserShMemConfig
	mmapSize        = 40        // VhostUserMMap
	statusAckDriver = 1 | 2     // ACKNOWLEDGE, DRIVER
	statusDriverOK  = 4         // DRIVER_OK
	statusFeatures  = 8         // FEATURES_OK
	knownProtocol   = ProtocolMQ | ProtocolLogShmFD | ProtocolReplyAck | ProtocolBackendReq | ProtocolConfig |
		ProtocolBackendSendFD | ProtocolInflightShmFD | ProtocolResetDevice | ProtocolConfigureMemSlots |
		ProtocolStatus | ProtocolShmem
)

// Message is a vhost-user message apart from its descriptors.
type Message struct {
	Request Request
	Flags   uint32 // FlagVersion is added when sent
	Payload []byte
}

func (m Message) String() string {
	return fmt.Sprintf("%v flags %#x, %d bytes", m.Request, m.Flags, len(m.Payload))
}

// Encode gives the message's bytes on the socket.
func (m Message) Encode() []byte {
	b := make([]byte, headerSize+len(m.Payload))
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(m.Request))
	le.PutUint32(b[4:], m.Flags|FlagVersion)
	le.PutUint32(b[8:], uint32(len(m.Payload)))
	copy(b[headerSize:], m.Payload)
	return b
}

func u64s(v ...uint64) []byte {
	b := make([]byte, 0, 8*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func u32s(v ...uint32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}
