package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "seeds:", err)
		os.Exit(1)
	}
}

var seeds = map[string]func(*load) (string, error){"punch": punch, "opentrunc": openTrunc, "copy": copies, "ring": ring}

func run(args []string) error {
	if len(args) < 3 || seeds[args[0]] == nil {
		return errors.New("usage: seeds punch|opentrunc|copy|ring DIR DURATION [serial]")
	}
	duration, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	l := &load{dir: args[1], end: time.Now().Add(duration), serial: slices.Contains(args[3:], "serial")}
	done, err := seeds[args[0]](l)
	if err == nil {
		err = l.err
	}
	if err == nil {
		fmt.Println(done)
	}
	return err
}

// load is a number of goroutines that work until the time is over, or one of them fails.
type load struct {
	dir    string
	end    time.Time
	serial bool

	group  sync.WaitGroup
	failed atomic.Bool
	once   sync.Once
	err    error
}

func (l *load) running() bool { return !l.failed.Load() && time.Now().Before(l.end) }

func (l *load) fail(err error) {
	l.once.Do(func() { l.err = err; l.failed.Store(true) })
}

// loop repeats step.
func (l *load) loop(step func() error) {
	l.group.Go(func() {
		for l.running() {
			if err := step(); err != nil {
				l.fail(err)
			}
		}
	})
}

const page = 4096

// shared is a file that is mapped, too.
type shared struct {
	*os.File
	mem []byte
}

// share makes a file of size bytes and maps n of them, which may be more.
func (l *load) share(name string, size, n int) (*shared, error) {
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	return &shared{f, mem}, nil
}

// daring runs f, which touches mapped pages that may lie past the end of their file.
func daring(f func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
		}
	}()
	f()
}

// uniform returns the index of the first block of n bytes of b that is not of one value, -1 if there is none.
func uniform(b []byte, n int) int {
	for p := 0; p+n <= len(b); p += n {
		for _, c := range b[p : p+n] {
			if c != b[p] {
				return p / n
			}
		}
	}
	return -1
}
