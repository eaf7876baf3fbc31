package vhostuser

import "fmt"

// need is what must be so before a request may come.
type need uint8

const (
	// needOwner: SET_OWNER has come, as vhost_dev_check_owner asks in the
	// kernel for memory and rings.
	needOwner need = 1 << iota
	// needFeatures: SET_FEATURES has come.
	needFeatures
	// needVring: the payload starts with the index of a ring of the device,
	// in 32 bits.
	needVring
	// needVringByte: the payload is a u64 with the index in bits 0 to 7 and
	// the no-fd flag in bit 8, and the number of fds agrees with the flag.
	needVringByte
	// needStopped: that ring is stopped.
	needStopped
	// needAllStopped: every ring is stopped.
	needAllStopped
)

// rule says when and in which form a request may come. Everything in it is
// checked before the handler runs; the handler checks what the payload means.
type rule struct {
	// size bounds the payload in bytes.
	size span
	// fds bounds the number of descriptors that come along.
	fds span
	// protocol are the protocol features of which all must be negotiated.
	// With one that is never offered the request is refused.
	protocol ProtocolFeatures
	// features are the feature bits that SET_FEATURES must have accepted.
	features uint64
	needs    need
	// ownReply: the request has a reply of its own, so that NEED_REPLY
	// changes nothing.
	ownReply bool
	handle   handler
}

// handler serves one request that meets its rule. It takes the descriptors that
// it keeps out of m; the rest are closed. An own reply is sent by the handler.
// A *ProtocolError ends the connection, any other error is a refusal.
type handler func(s *session, m *message) error

const (
	needVringOwned  = needOwner | needVring
	needVringFile   = needOwner | needVringByte
	maxMemTableSize = memTableHeadSize + maxTableRegions*regionSize
	maxConfigMsg    = configHeadSize + MaxConfigSize
)

// rules has the rule of each request at its number. Fields left out are zero: no
// payload, no descriptors, nothing needed.
var rules = [...]rule{
	GetFeatures:         {ownReply: true, handle: (*session).getFeatures},
	SetFeatures:         {size: exactly(u64Size), handle: (*session).setFeatures},
	SetOwner:            {handle: (*session).setOwner},
	ResetOwner:          {handle: (*session).resetOwner},
	GetProtocolFeatures: {ownReply: true, handle: (*session).getProtocolFeatures},
	SetProtocolFeatures: {size: exactly(u64Size), handle: (*session).setProtocolFeatures},
	GetQueueNum:         {protocol: ProtocolMQ, ownReply: true, handle: (*session).getQueueNum},
	SetBackendReqFD:     {fds: exactly(1), protocol: ProtocolBackendReq, handle: (*session).setBackendReqFD},

	SetMemTable:    {size: span{memTableHeadSize, maxMemTableSize}, fds: span{0, maxTableRegions}, needs: needOwner, handle: (*session).setMemTable},
	GetMaxMemSlots: {protocol: ProtocolConfigureMemSlots, ownReply: true, handle: (*session).getMaxMemSlots},
	AddMemReg:      {size: exactly(memRegSize), fds: exactly(1), protocol: ProtocolConfigureMemSlots, needs: needOwner, handle: (*session).addMemReg},
	RemMemReg:      {size: exactly(memRegSize), fds: span{0, 1}, protocol: ProtocolConfigureMemSlots, needs: needOwner, handle: (*session).remMemReg},
	SetLogBase:     {size: exactly(logSize), fds: exactly(1), protocol: ProtocolLogShmFD, needs: needOwner, ownReply: true, handle: (*session).setLogBase},
	SetLogFD:       {size: span{0, u64Size}, fds: exactly(1), needs: needOwner, handle: (*session).setLogFD},

	SetVringNum:    {size: exactly(vringStateSize), needs: needVringOwned | needStopped, handle: (*session).setVringNum},
	SetVringAddr:   {size: exactly(vringAddrSize), needs: needVringOwned, handle: (*session).setVringAddr},
	SetVringBase:   {size: exactly(vringStateSize), needs: needVringOwned | needStopped, handle: (*session).setVringBase},
	GetVringBase:   {size: exactly(vringStateSize), needs: needVringOwned, ownReply: true, handle: (*session).getVringBase},
	SetVringKick:   {size: exactly(u64Size), fds: span{0, 1}, needs: needVringFile | needFeatures, handle: (*session).setVringKick},
	SetVringCall:   {size: exactly(u64Size), fds: span{0, 1}, needs: needVringFile, handle: (*session).setVringCall},
	SetVringErr:    {size: exactly(u64Size), fds: span{0, 1}, needs: needVringFile, handle: (*session).setVringErr},
	SetVringEnable: {size: exactly(vringStateSize), features: FeatureProtocolFeatures, needs: needVringOwned, handle: (*session).setVringEnable},
	GetInflightFD:  {size: span{inflightPacked, inflightSize}, protocol: ProtocolInflightShmFD, needs: needFeatures, ownReply: true, handle: (*session).getInflightFD},
	SetInflightFD:  {size: span{inflightPacked, inflightSize}, fds: exactly(1), protocol: ProtocolInflightShmFD, needs: needFeatures | needAllStopped, handle: (*session).setInflightFD},

	GetConfig:      {size: span{configHeadSize, maxConfigMsg}, protocol: ProtocolConfig, ownReply: true, handle: (*session).getConfig},
	SetConfig:      {size: span{configHeadSize, maxConfigMsg}, protocol: ProtocolConfig, handle: (*session).setConfig},
	SetStatus:      {size: exactly(u64Size), protocol: ProtocolStatus, handle: (*session).setStatus},
	GetStatus:      {protocol: ProtocolStatus, ownReply: true, handle: (*session).getStatus},
	ResetDevice:    {protocol: ProtocolResetDevice, handle: (*session).resetDevice},
	GetShmemConfig: {protocol: ProtocolSHMEM, ownReply: true, handle: (*session).getShmemConfig},

	// What belongs to protocol features that are never offered.
	SetDeviceStateFD:    {size: exactly(deviceStateSize), fds: exactly(1), protocol: ProtocolDeviceState, ownReply: true},
	CheckDeviceState:    {protocol: ProtocolDeviceState, ownReply: true},
	SendRARP:            {size: exactly(u64Size), protocol: ProtocolRARP},
	NetSetMTU:           {size: exactly(u64Size), protocol: ProtocolMTU},
	IOTLBMsg:            {size: exactly(32), features: featureIOMMUPlatform, ownReply: true},
	SetVringEndian:      {size: exactly(vringStateSize), protocol: ProtocolCrossEndian, needs: needVring},
	CreateCryptoSession: {size: span{0, maxPayload}, protocol: ProtocolCryptoSession, ownReply: true},
	CloseCryptoSession:  {size: exactly(u64Size), protocol: ProtocolCryptoSession},
	PostcopyAdvise:      {protocol: ProtocolPageFault, ownReply: true},
	PostcopyListen:      {protocol: ProtocolPageFault},
	PostcopyEnd:         {protocol: ProtocolPageFault, ownReply: true},
	GPUSetSocket:        {fds: exactly(1), protocol: protocolNever},
	VringKick:           {size: exactly(vringStateSize), protocol: ProtocolInbandNotifications, needs: needVring},
	GetSharedObject:     {size: exactly(16), protocol: ProtocolSharedObject, ownReply: true},
}

// protocolNever stands for what needs no protocol feature and is not offered.
const protocolNever ProtocolFeatures = 1 << 63

// check says what is wrong with m by its rule, or nil. The header's size has been
// checked before the payload was read.
func (r *rule) check(s *session, m *message) error {
	if missing := r.protocol &^ s.protocol; missing != 0 {
		if missing == protocolNever {
			return breach(m.request, "this device does not serve it", "use it with another device")
		}
		return breach(m.request, fmt.Sprintf("protocol feature %v is not negotiated", missing),
			"send it only after SET_PROTOCOL_FEATURES with a feature that was offered")
	}
	if missing := r.features &^ s.acked; missing != 0 {
		return breach(m.request, fmt.Sprintf("feature bits %#x are not negotiated", missing),
			"send it only after SET_FEATURES with them")
	}
	if n := len(m.fds); !r.fds.has(uint32(n)) {
		return breach(m.request, fmt.Sprintf("%d file descriptors came with it, not %v", n, r.fds),
			"send them with the first byte of the message")
	}
	if r.needs&needOwner != 0 && !s.owned {
		return breach(m.request, "SET_OWNER has not come", "send SET_OWNER first")
	}
	if r.needs&needFeatures != 0 && !s.featuresSet {
		return breach(m.request, "SET_FEATURES has not come", "send SET_FEATURES first")
	}
	if r.needs&needVring != 0 {
		m.vring = uint64(le.Uint32(m.payload))
	}
	if r.needs&needVringByte != 0 {
		v := le.Uint64(m.payload)
		if v&^(vringIndexMask|vringNoFD) != 0 {
			return breach(m.request, fmt.Sprintf("reserved bits are set in %#x", v), "set only the index and the no-fd flag")
		}
		if noFD := v&vringNoFD != 0; noFD != (len(m.fds) == 0) {
			return breach(m.request, fmt.Sprintf("%d file descriptors came with no-fd flag %t", len(m.fds), noFD),
				"set the flag exactly if there is no descriptor")
		}
		m.vring = v & vringIndexMask
	}
	if r.needs&(needVring|needVringByte) != 0 && m.vring >= uint64(len(s.vrings)) {
		return breach(m.request, fmt.Sprintf("ring %d does not exist, the device has %d", m.vring, len(s.vrings)),
			"configure no more queues in the front-end than the device has")
	}
	if r.needs&needStopped != 0 && s.vrings[m.vring].started {
		return breach(m.request, fmt.Sprintf("ring %d is running", m.vring), "stop it with GET_VRING_BASE first")
	}
	if r.needs&needAllStopped != 0 {
		for i := range s.vrings {
			if s.vrings[i].started {
				return breach(m.request, fmt.Sprintf("ring %d is running", i), "stop all rings with GET_VRING_BASE first")
			}
		}
	}
	return nil
}

// checkSize says whether the header's size is within the rule's bounds.
func (r *rule) checkSize(req Request, size uint32) error {
	if !r.size.has(size) {
		return breach(req, fmt.Sprintf("payload of %d bytes, not %v", size, r.size),
			"send the structure that the specification gives for it")
	}
	return nil
}

// span is a closed range.
type span struct{ min, max uint32 }

func exactly(n uint32) span { return span{n, n} }

func (s span) has(n uint32) bool { return s.min <= n && n <= s.max }

func (s span) String() string {
	if s.min == s.max {
		return fmt.Sprint(s.min)
	}
	return fmt.Sprintf("%d to %d", s.min, s.max)
}
