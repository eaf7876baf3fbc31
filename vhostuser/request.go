package vhostuser

import "strconv"

// Request is the number of a request of the front-end (VhostUserRequest).
type Request uint32

// Requests of the front-end.
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
	IOTLBMsg            Request = 22
	SetVringEndian      Request = 23
	GetConfig           Request = 24
	SetConfig           Request = 25
	CreateCryptoSession Request = 26
	CloseCryptoSession  Request = 27
	PostcopyAdvise      Request = 28
	PostcopyListen      Request = 29
	PostcopyEnd         Request = 30
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

	maxRequest = GetShmemConfig
)

// String returns the name that the specification gives the request, without
// its VHOST_USER_ prefix.
func (r Request) String() string {
	if r >= 1 && r <= maxRequest {
		return requestNames[r]
	}
	return "request " + strconv.FormatUint(uint64(r), 10)
}

var requestNames = [...]string{
	GetFeatures:         "GET_FEATURES",
	SetFeatures:         "SET_FEATURES",
	SetOwner:            "SET_OWNER",
	ResetOwner:          "RESET_OWNER",
	GetProtocolFeatures: "GET_PROTOCOL_FEATURES",
	SetProtocolFeatures: "SET_PROTOCOL_FEATURES",
	GetQueueNum:         "GET_QUEUE_NUM",
	SetBackendReqFD:     "SET_BACKEND_REQ_FD",
	SetMemTable:         "SET_MEM_TABLE",
	GetMaxMemSlots:      "GET_MAX_MEM_SLOTS",
	AddMemReg:           "ADD_MEM_REG",
	RemMemReg:           "REM_MEM_REG",
	SetLogBase:          "SET_LOG_BASE",
	SetLogFD:            "SET_LOG_FD",
	SetVringNum:         "SET_VRING_NUM",
	SetVringAddr:        "SET_VRING_ADDR",
	SetVringBase:        "SET_VRING_BASE",
	GetVringBase:        "GET_VRING_BASE",
	SetVringKick:        "SET_VRING_KICK",
	SetVringCall:        "SET_VRING_CALL",
	SetVringErr:         "SET_VRING_ERR",
	SetVringEnable:      "SET_VRING_ENABLE",
	GetInflightFD:       "GET_INFLIGHT_FD",
	SetInflightFD:       "SET_INFLIGHT_FD",
	GetConfig:           "GET_CONFIG",
	SetConfig:           "SET_CONFIG",
	SetStatus:           "SET_STATUS",
	GetStatus:           "GET_STATUS",
	ResetDevice:         "RESET_DEVICE",
	GetShmemConfig:      "GET_SHMEM_CONFIG",
	SetDeviceStateFD:    "SET_DEVICE_STATE_FD",
	CheckDeviceState:    "CHECK_DEVICE_STATE",
	SendRARP:            "SEND_RARP",
	NetSetMTU:           "NET_SET_MTU",
	IOTLBMsg:            "IOTLB_MSG",
	SetVringEndian:      "SET_VRING_ENDIAN",
	CreateCryptoSession: "CREATE_CRYPTO_SESSION",
	CloseCryptoSession:  "CLOSE_CRYPTO_SESSION",
	PostcopyAdvise:      "POSTCOPY_ADVISE",
	PostcopyListen:      "POSTCOPY_LISTEN",
	PostcopyEnd:         "POSTCOPY_END",
	GPUSetSocket:        "GPU_SET_SOCKET",
	VringKick:           "VRING_KICK",
	GetSharedObject:     "GET_SHARED_OBJECT",
}

// BackendRequest is the number of a request of the back-end
// (VhostUserBackendRequest).
type BackendRequest uint32

// Requests of the back-end.
const (
	BackendIOTLBMsg           BackendRequest = 1
	BackendConfigChange       BackendRequest = 2
	BackendVringHostNotifier  BackendRequest = 3
	BackendVringCall          BackendRequest = 4
	BackendVringErr           BackendRequest = 5
	BackendSharedObjectAdd    BackendRequest = 6
	BackendSharedObjectRemove BackendRequest = 7
	BackendSharedObjectLookup BackendRequest = 8
	BackendShmemMap           BackendRequest = 9
	BackendShmemUnmap         BackendRequest = 10
)

var backendRequestNames = [...]string{
	BackendIOTLBMsg:           "BACKEND_IOTLB_MSG",
	BackendConfigChange:       "BACKEND_CONFIG_CHANGE_MSG",
	BackendVringHostNotifier:  "BACKEND_VRING_HOST_NOTIFIER_MSG",
	BackendVringCall:          "BACKEND_VRING_CALL",
	BackendVringErr:           "BACKEND_VRING_ERR",
	BackendSharedObjectAdd:    "BACKEND_SHARED_OBJECT_ADD",
	BackendSharedObjectRemove: "BACKEND_SHARED_OBJECT_REMOVE",
	BackendSharedObjectLookup: "BACKEND_SHARED_OBJECT_LOOKUP",
	BackendShmemMap:           "BACKEND_SHMEM_MAP",
	BackendShmemUnmap:         "BACKEND_SHMEM_UNMAP",
}

// String returns the name that the specification gives the request, without
// its VHOST_USER_ prefix.
func (r BackendRequest) String() string {
	if r >= 1 && int(r) < len(backendRequestNames) {
		return backendRequestNames[r]
	}
	return "back-end request " + strconv.FormatUint(uint64(r), 10)
}
