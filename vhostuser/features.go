package vhostuser

import (
	"fmt"
	"math/bits"
	"strings"
)

// Bits of the feature word that belong to vhost and not to virtio.
const (
	// FeatureLogAll is VHOST_F_LOG_ALL: writes to guest memory are logged.
	FeatureLogAll uint64 = 1 << 26
	// FeatureProtocolFeatures is VHOST_USER_F_PROTOCOL_FEATURES.
	FeatureProtocolFeatures uint64 = 1 << 30

	vhostFeatures = FeatureLogAll | FeatureProtocolFeatures

	// featureRingPacked is VIRTIO_F_RING_PACKED, on which the layout of the
	// in-flight buffer depends.
	featureRingPacked uint64 = 1 << 34
	// featureIOMMUPlatform is VIRTIO_F_IOMMU_PLATFORM.
	featureIOMMUPlatform uint64 = 1 << 33
)

// ProtocolFeatures is a set of VHOST_USER_PROTOCOL_F_ bits.
type ProtocolFeatures uint64

// Protocol features.
const (
	ProtocolMQ                   ProtocolFeatures = 1 << 0
	ProtocolLogShmFD             ProtocolFeatures = 1 << 1
	ProtocolRARP                 ProtocolFeatures = 1 << 2
	ProtocolReplyAck             ProtocolFeatures = 1 << 3
	ProtocolMTU                  ProtocolFeatures = 1 << 4
	ProtocolBackendReq           ProtocolFeatures = 1 << 5
	ProtocolCrossEndian          ProtocolFeatures = 1 << 6
	ProtocolCryptoSession        ProtocolFeatures = 1 << 7
	ProtocolPageFault            ProtocolFeatures = 1 << 8
	ProtocolConfig               ProtocolFeatures = 1 << 9
	ProtocolBackendSendFD        ProtocolFeatures = 1 << 10
	ProtocolHostNotifier         ProtocolFeatures = 1 << 11
	ProtocolInflightShmFD        ProtocolFeatures = 1 << 12
	ProtocolResetDevice          ProtocolFeatures = 1 << 13
	ProtocolInbandNotifications  ProtocolFeatures = 1 << 14
	ProtocolConfigureMemSlots    ProtocolFeatures = 1 << 15
	ProtocolStatus               ProtocolFeatures = 1 << 16
	ProtocolXenMmap              ProtocolFeatures = 1 << 17
	ProtocolSharedObject         ProtocolFeatures = 1 << 18
	ProtocolDeviceState          ProtocolFeatures = 1 << 19
	ProtocolGetVringBaseInflight ProtocolFeatures = 1 << 20
	ProtocolGPAAddresses         ProtocolFeatures = 1 << 21
	ProtocolSHMEM                ProtocolFeatures = 1 << 22
)

// Supported are the protocol features that a session can serve for a device.
// ProtocolSHMEM is not among them: it follows from [Device.ShmemRegions].
const Supported = ProtocolMQ | ProtocolLogShmFD | ProtocolReplyAck |
	ProtocolBackendReq | ProtocolConfig | ProtocolBackendSendFD |
	ProtocolInflightShmFD | ProtocolResetDevice | ProtocolConfigureMemSlots |
	ProtocolStatus

var protocolFeatureNames = [...]string{
	"MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ",
	"CROSS_ENDIAN", "CRYPTO_SESSION", "PAGEFAULT", "CONFIG",
	"BACKEND_SEND_FD", "HOST_NOTIFIER", "INFLIGHT_SHMFD", "RESET_DEVICE",
	"INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS", "STATUS", "XEN_MMAP",
	"SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
	"GPA_ADDRESSES", "SHMEM",
}

// String lists the features by the names of the specification.
func (f ProtocolFeatures) String() string {
	var names []string
	for rest := uint64(f); rest != 0; rest &= rest - 1 {
		n := bits.TrailingZeros64(rest)
		if n < len(protocolFeatureNames) {
			names = append(names, protocolFeatureNames[n])
		} else {
			names = append(names, fmt.Sprintf("bit %d", n))
		}
	}
	return strings.Join(names, "|")
}
