package main

import (
	"fmt"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// workload is one kind of load.
type workload struct {
	name  string
	about string
	bytes int // moved by one operation, for MB/s
	// lane makes the lane with that number, of n. Whatever it draws it draws from its number, so that all daemons get
	// the same.
	lane func(s *session, i, n int) lane
	// beside, if set, is one more request under way all the time, on the first queue, that should not disturb the others:
	// the row tells how much of the rate without it is left. Such rows have one depth.
	beside func(s *session) (lane, error)
	depth  int
	// after, if set, checks what is left of it on the host.
	after func(s *session, lanes []lane) error
}

var workloads = []workload{
	{name: "getattr", about: "attributes of one file", lane: newGetattr},
	{name: "lookup-same", about: "LOOKUP of one name, then FORGET", lane: newLookupSame},
	{name: "lookup-many", about: "LOOKUP of names out of many, then FORGET", lane: newLookupMany},
	{name: "open-release", about: "OPEN for reading, RELEASE", lane: newOpenRelease},
	{name: "read4k-rand", about: "READ of 4 KiB anywhere in 64 MiB", bytes: page, lane: reader(page, true)},
	{name: "read128k-seq", about: "READ of 128 KiB, one after the other", bytes: 128 << 10, lane: reader(128<<10, false)},
	{name: "read1m-seq", about: "READ of 1 MiB, one after the other", bytes: 1 << 20, lane: reader(1<<20, false)},
	{name: "write4k-rand", about: "WRITE of 4 KiB anywhere in 64 MiB", bytes: page, lane: writer(page, true, false), after: checkWrites},
	{name: "write1m-seq", about: "WRITE of 1 MiB, one after the other", bytes: 1 << 20, lane: writer(1<<20, false, false), after: checkWrites},
	{name: "churn", about: "CREATE, WRITE of 4 KiB, FLUSH, RELEASE, UNLINK, FORGET", bytes: page, lane: newChurn, after: checkChurn},
	{name: "readdirplus", about: "READDIRPLUS of 32 KiB of a long directory whose files are known", lane: newReaddir},
	{name: "readdirplus-new", about: "the same, with FORGET of every entry", lane: newReaddirForget},
	{name: "statfs", about: "STATFS of the root", lane: newStatfs},
	{name: "getxattr", about: "GETXATTR of 64 bytes", lane: newGetxattr},
	{name: "write-fsync", about: "WRITE of 4 KiB, FSYNC", bytes: page, lane: writer(page, true, true), after: checkWrites},
	{name: "mixed", about: "LOOKUP, GETATTR, OPEN, 4 READs and 2 WRITEs of 4 KiB, RELEASE, FORGET", lane: newMixed},
	{name: "getattr+fsync", about: "getattr, beside WRITE and FSYNC", lane: newGetattr, beside: besideFsync, depth: 8},
	{name: "getattr+cold", about: "getattr, beside READ of 4 KiB from disk", lane: newGetattr, beside: besideCold(page), depth: 8},
	{name: "getattr+cold1m", about: "getattr, beside READ of 1 MiB from disk", lane: newGetattr, beside: besideCold(1 << 20), depth: 8},
	{name: "getattr+lock", about: "getattr, beside SETLKW that waits", lane: newGetattr, beside: besideLock, depth: 8},
}

func findWorkload(name string) (*workload, error) {
	for i := range workloads {
		if workloads[i].name == name {
			return &workloads[i], nil
		}
	}
	return nil, fmt.Errorf("there is no workload %q; --list shows them", name)
}

// refused is the error for a reply that is one.
func refused(what string, r *fuseclient.Request) error {
	if r.Err == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", what, r.Err)
}

// wrong is the error for a reply that is not true.
func wrong(what string, got, want any) error {
	return fmt.Errorf("%s: wrong answer: %v instead of %v", what, got, want)
}

var nobody fuseclient.Caller

// steps draws numbers below n that look random: a full cycle, from a place of its own for each lane.
type steps struct{ at, stride, n uint64 }

func newSteps(lane, n int) steps {
	return steps{at: uint64(lane) * 7919 % uint64(n), stride: stride(uint64(n)), n: uint64(n)}
}

func (s *steps) next() uint64 {
	s.at = (s.at + s.stride) % s.n
	return s.at
}

// stride is near the golden section of n and has no divisor in common with it.
func stride(n uint64) uint64 {
	gcd := func(a, b uint64) uint64 {
		for b != 0 {
			a, b = b, a%b
		}
		return a
	}
	for s := max(1, n*618/1000); ; s++ {
		if gcd(s, n) == 1 {
			return s
		}
	}
}
