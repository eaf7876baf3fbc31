// Package device is the virtio file system device between the vhost-user session
// and the server of requests: it implements [vhostuser.Device] over package
// virtqueue, and knows nothing about FUSE. What it asks of the server above it
// is in server.go.
//
// # Threads
//
// Each started ring has one reader, on an OS thread of its own: it sleeps in one
// system call until the driver kicks (wait.go), takes every available chain,
// has it served right there, and publishes the batch with one store and at most
// one call of the driver (run.go), a batch that takes long in parts (parts.go).
// Before it sleeps again it looks for the next request for a moment, as long as
// that is of use (busypoll.go).
//
// Queue 0 is hiprio; its reader does not look like that, but rests while requests
// come in quick succession, and the readers of other queues serve them on the side
// (recess.go).
//
// A request that may block is served by the reader too if the ring has nothing
// else in it, while a second thread waits for the same kick and would read in
// its place (reader.go, turn.go): as long as the driver waits for the answer
// nobody else has to be woken. Where there is more to do it goes to a crew
// (crew.go): the pool, a bounded number of workers, or the waiters, for
// requests that wait for what others do, a lock: any number, which take turns.
// Requests that the same answer is good for ([Joiner]: FSYNC of a file) are not
// served side by side: those that come while one is being served wait for it
// without a thread, and then one serves for all.
// A large answer is copied by a helper while the reader goes on with what is
// behind it (spread.go).
// All these threads start when they are needed and end when they are idle, so
// that an idle device neither wakes up nor has threads beside its readers. Only a
// ring without a kick descriptor has to be looked at from time to time.
//
// OS threads are never given back to the Go scheduler: they end with their
// goroutine, since the server may have changed their credentials.
//
// # Stop
//
// A stop ends the readers, has waiting requests cut short ([Interrupter]), and
// waits for the rest, but not for ever. Chains that were cut short are served
// again when the ring goes on from the same place; those that outlast the stop
// are completed then. When the driver begins anew they are dropped, and the
// server is reset only after the last of them.
//
// # Trust
//
// What the guest can break, a chain or a whole ring, is answered, counted, and
// logged once per kind and interval; other queues go on. The server is trusted;
// if it panics all the same, that request gets an error and that thread is not
// used any more. What may call the device, and when, is up to the session.
//
// # Locks
//
//	ring.mu        what a ring keeps from one life to the next
//	  run.mu       one life: completion, requests with workers, its threads
//	    Queue.mu   of package virtqueue
//	crew.mu        threads and waiting requests; nothing is taken under it
//	signaller.mu   replacing an eventfd; signalling takes none
//
// What the reader keeps, of parts, busy polling and recesses too, belongs to who
// has the turn (turn.go) and needs no lock. No lock is held while a request is
// served, nor across a system call that may wait.
//
// # Tests
//
// go test -race ./device needs no privileges. It has a driver in memory of its own
// (driver_test.go) and a server that blocks, waits and panics on command
// (server_test.go). What decides by the clock, parts, busy polling and recesses, is
// told the time, and tested with times of the test's. BenchmarkRequests is what the
// device costs beside its server.
package device
