package main

import (
	"sync/atomic"

	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/fs"
)

// connections counts front-ends. Both only ever grow.
type connections struct {
	all    atomic.Uint64
	broken atomic.Uint64 // of them, those that ended because they broke the protocol
}

// stats is the result of "stats": what the front-ends and guests have asked
// since the daemon started, and what of it was wrong.
type stats struct {
	Connections       uint64 `json:"connections"`
	BrokenConnections uint64 `json:"broken_connections"`
	Requests          uint64 `json:"requests"`
	BadRequests       uint64 `json:"bad_requests"`  // that broke the FUSE protocol
	BrokenChains      uint64 `json:"broken_chains"` // descriptors that can't be read
	BrokenQueues      uint64 `json:"broken_queues"` // times that a queue was given up
	Recovered         uint64 `json:"recovered_requests"`
	Late              uint64 `json:"late_requests"` // that outlasted the stop of their queue
	Faults            uint64 `json:"faults"`        // of the daemon itself
}

func takeStats(c *connections, dev *device.Device, server *fs.FS) stats {
	s := stats{
		Connections:       c.all.Load(),
		BrokenConnections: c.broken.Load(),
		BadRequests:       server.Stats().BadRequests.Load(),
		Faults:            server.Stats().Bugs.Load(),
	}
	for i := range dev.NumQueues() {
		q := dev.QueueStats(i)
		s.Requests += q.Requests.Load()
		s.BrokenChains += q.BrokenChains.Load()
		s.BrokenQueues += q.BrokenRings.Load()
		s.Recovered += q.Recovered.Load()
		s.Late += q.Late.Load()
		s.Faults += q.Panics.Load()
	}
	return s
}
