package device

import "sync/atomic"

// QueueStats counts what happens on one queue. All fields only ever grow.
type QueueStats struct {
	Wakeups      atomic.Uint64 // returns from waiting for a kick
	Polls        atomic.Uint64 // times the reader looked for requests for a moment before it slept
	PollsFound   atomic.Uint64 // of them, those that found one
	Batches      atomic.Uint64 // publications of used entries by the reader
	Requests     atomic.Uint64 // chains taken from the ring
	Calls        atomic.Uint64 // signals to the driver
	Spread       atomic.Uint64 // large requests given to a helper
	Handed       atomic.Uint64 // requests handed to a worker
	Detached     atomic.Uint64 // requests that waited on a thread of their own
	Requeued     atomic.Uint64 // requests kept across a stop of the ring
	Recovered    atomic.Uint64 // requests taken up again when the ring started
	BrokenChains atomic.Uint64 // chains completed unserved because the driver built them wrong
	BrokenRings  atomic.Uint64 // times the ring had to be given up
	Panics       atomic.Uint64 // faults of the server, answered with length 0
	Late         atomic.Uint64 // requests that were still served when the ring had to stop
}
