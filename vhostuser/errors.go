package vhostuser

import (
	"errors"
	"fmt"
)

// ProtocolError says how the front-end broke the protocol. It ends the
// connection.
type ProtocolError struct {
	// Request names the message.
	Request string
	// Fault is what was wrong with it, Advice what to do about it.
	Fault, Advice string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("vhost-user: %s: %s: connection closed; %s", e.Request, e.Fault, e.Advice)
}

func breach(r Request, fault, advice string) *ProtocolError {
	return &ProtocolError{Request: r.String(), Fault: fault, Advice: advice}
}

// Errors of the back-end channel.
var (
	// ErrSuspended: no ring is enabled, or one is being stopped, when the
	// front-end must not be asked for anything. Ask again when rings run.
	ErrSuspended = errors.New("vhost-user: back-end channel suspended while rings are stopped")
	// ErrChannelClosed: the channel, or its connection, has ended.
	ErrChannelClosed = errors.New("vhost-user: back-end channel closed")
	// ErrRefused: the front-end answered with failure.
	ErrRefused = errors.New("vhost-user: front-end refused the request (its log has the reason)")
	// ErrUncertain is joined to an error of a request that was sent and whose
	// outcome is not known: the front-end may have done it, or may yet do it.
	ErrUncertain = errors.New("vhost-user: the request may still take effect")
	// ErrNotOffered: a protocol feature that the request needs is not
	// negotiated (SHMEM, REPLY_ACK, and BACKEND_SEND_FD for a descriptor).
	ErrNotOffered = errors.New("vhost-user: front-end lacks a protocol feature (use one that has it)")
)
