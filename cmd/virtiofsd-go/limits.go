package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// wantedNofile is the number of open files that the daemon asks for by default.
const wantedNofile = 1_000_000

// Descriptors that the daemon needs for itself.
const (
	// fdsPerQueue: kick, call and error eventfds, the wait set, the eventfd
	// that stops it, and one that is on its way in a message.
	fdsPerQueue = 8
	// fdsForMemory: a descriptor for each region of guest memory, as many
	// as QEMU can have.
	fdsForMemory = 512
	// fdsForWaiters: threads that wait for a lock and hold a descriptor
	// that is not yet, or no longer, counted as the guest's.
	fdsForWaiters = 256
	fdsForTheRest = 64
)

// reservedFDs returns how many descriptors are not for the guest's files.
func reservedFDs(c *config) int {
	return fdsPerQueue*(c.queues+1) + fdsForMemory + fdsForWaiters + fdsForTheRest + c.threadPoolSize
}

// fdsForWindow returns how many descriptors the DAX window may take: each range
// can show another file, which is open for that, and of which the front-end gets
// a descriptor where each range is a mapping of its own.
func fdsForWindow(c *config) uint64 {
	n := uint64(c.daxWindow) / dax.RangeSize
	if c.daxBacking == dax.Passthrough {
		n *= 2
	}
	return n
}

// setupFDLimit raises RLIMIT_NOFILE and returns how many descriptors the file
// system may use for inodes and files of the guest.
func setupFDLimit(c *config, log *slog.Logger) (int, error) {
	limit, err := raiseNofile(c.rlimitNofile, log)
	if err != nil {
		return 0, err
	}
	reserved := reservedFDs(c)
	if limit <= uint64(reserved) {
		return 0, fmt.Errorf("the limit of open files is %d, and the daemon needs more than %d for itself; raise it (--rlimit-nofile, ulimit -n)", limit, reserved)
	}
	left := min(limit-uint64(reserved), 1<<30)
	left -= min(fdsForWindow(c), left/2)
	if left < 128 {
		log.Warn("the limit of open files leaves few for the guest", "limit", limit, "left", left)
	}
	return int(left), nil
}

// raiseNofile sets the soft and hard limit to want and returns the soft limit
// in force. want -1 stands for the default, which falls back on the hard limit
// where more is not allowed, and never lowers; 0 changes nothing.
func raiseNofile(want int64, log *slog.Logger) (uint64, error) {
	var cur unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &cur); err != nil {
		return 0, fmt.Errorf("the limit of open files can't be read: %w; check what filters the daemon's system calls", err)
	}
	if want == 0 || want < 0 && cur.Cur >= wantedNofile {
		return cur.Cur, nil
	}
	most, err := maxNofile()
	if err != nil {
		return 0, err
	}
	target := uint64(want)
	if want < 0 {
		target = min(wantedNofile, most)
	} else if target > most {
		return 0, fmt.Errorf("--rlimit-nofile=%d is above the %d that the kernel allows; ask for less, or raise /proc/sys/fs/nr_open", want, most)
	}
	err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: target, Max: target})
	if err == nil {
		return target, nil
	}
	if want > 0 {
		return 0, fmt.Errorf("the limit of open files can't be set to %d (it is %d at most for this user): %w; ask for less with --rlimit-nofile, or raise it before (ulimit -Hn)", target, cur.Max, err)
	}
	log.Info("the limit of open files can't be raised as far as wanted", "wanted", target, "limit", cur.Max)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur.Max, Max: cur.Max}); err != nil {
		return 0, fmt.Errorf("the limit of open files can't be raised to %d: %w; --rlimit-nofile=0 leaves it as it is", cur.Max, err)
	}
	return cur.Max, nil
}

func maxNofile() (uint64, error) {
	const path = "/proc/sys/fs/nr_open"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("the highest limit of open files can't be read: %w; mount /proc, or leave the limit as it is with --rlimit-nofile=0", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds no number: %w; leave the limit as it is with --rlimit-nofile=0", path, err)
	}
	return n, nil
}

// mostHelpers bounds the threads that copy large answers beside a queue's reader:
// more of them wait for memory, not for a processor.
const mostHelpers = 4

// helpers is how many of them there may be.
func helpers(c *config) int {
	return min(runtime.NumCPU()-1, mostHelpers, c.threadPoolSize)
}

// setupScheduler gives the Go scheduler more processors than the machine has.
// A thread that comes back from a system call runs on only with one of them in
// hand, and else waits behind a hand-over of some ten microseconds; with one
// for each queue, and some for workers, none ever waits. It also keeps the
// run-time's monitor thread from taking processors away from threads in system
// calls every few microseconds, which it does when none is idle.
func setupScheduler(c *config) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	readers := min(c.queues, runtime.NumCPU()) + 1
	runtime.GOMAXPROCS(max(runtime.NumCPU(), readers+min(c.threadPoolSize, 8)+helpers(c)) + 2)
}

// heapRoom is how much may be allocated between two collections at least.
const heapRoom = 16 << 20

// ballast counts as heap and is never touched, so takes no memory.
var ballast []byte

// setupCollector makes the heap grow less between collections than is usual:
// requests allocate nothing, so that what is collected is mostly what the guest
// has forgotten, and its memory is better used for the page cache. A small heap
// still gets room, or looking up and forgetting many files would collect dozens
// of times a second.
func setupCollector() {
	if os.Getenv("GOGC") == "" {
		const percent = 50
		debug.SetGCPercent(percent)
		ballast = make([]byte, heapRoom*100/percent)
		runtime.KeepAlive(ballast)
	}
}
