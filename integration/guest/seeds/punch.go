package main

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// punch punches, zeroes and truncates under pages that others keep dirtying through a mapping. These write the start of
// each page only: what is elsewhere in a page afterwards can have got there in no other way than by an old page that came
// back.
func punch(l *load) (string, error) {
	const size, from, to = 64 * page, 8 * page, 40 * page
	mark := []byte("STORE")
	f, err := l.share("punch", size, size)
	if err != nil {
		return "", err
	}
	full := bytes.Repeat([]byte{'a'}, size)
	changes := []func() error{
		func() error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		},
		func() error { return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, from, to-from) },
		func() error {
			if err := f.Truncate(from); err != nil {
				return err
			}
			return f.Truncate(size)
		},
	}
	rounds := 0
	for ; l.running(); rounds++ {
		if _, err := f.WriteAt(full, 0); err != nil {
			return "", err
		}
		var stop atomic.Bool
		var stores sync.WaitGroup
		for range 2 {
			stores.Go(func() {
				for !stop.Load() {
					daring(func() {
						for o := 0; o < size && !stop.Load(); o += page {
							copy(f.mem[o:], mark)
						}
					})
				}
			})
		}
		time.Sleep(time.Millisecond) // for some dirty pages, not for order
		err := changes[rounds%len(changes)]()
		time.Sleep(time.Millisecond)
		stop.Store(true)
		stores.Wait()
		if err != nil {
			return "", err
		}
		for o := from; o < to; o += page {
			if rest := f.mem[o+len(mark) : o+page]; bytes.Count(rest, []byte{0}) != len(rest) {
				return "", fmt.Errorf("round %d: page %d came back", rounds, o/page)
			}
		}
		if err := f.Sync(); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d rounds", rounds), nil
}
