package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ring has three writers, each appending to one file directly from a buffer that is mapped from the next, while blocks of
// all three are punched and the files cut to nothing. An append to a DAX file is a WRITE of the pages that the buffer
// consists of; any other write would be a copy within the guest. All is done in whole blocks of one value, so no block of
// two values may ever be seen.
//
// A file is not punched or cut while it is being appended from: Linux 7.2 may then wait for ever, in dax_break_layout, for
// a page that was mapped again meanwhile.
func ring(l *load) (string, error) {
	const block = 4 * page
	const front = 8 * block // of each file is mapped
	const most = 32 * block
	var files [3]*shared
	var direct [3]*os.File
	for i := range files {
		var err error
		name := fmt.Sprintf("ring%d", i)
		if files[i], err = l.share(name, 0, front); err != nil {
			return "", err
		}
		if direct[i], err = os.OpenFile(files[i].Name(), os.O_RDWR|unix.O_DIRECT, 0); err != nil {
			return "", err
		}
	}
	var source [3]sync.RWMutex
	var appended atomic.Uint64
	for i, f := range files {
		next, nextSource := files[(i+1)%3], &source[(i+1)%3]
		size := int64(0)
		l.loop(func() error {
			if size >= most {
				size = 0
				source[i].Lock()
				err := f.Truncate(0)
				source[i].Unlock()
				if err != nil {
					return err
				}
			}
			if size < front {
				for range 8 {
					n, err := f.WriteAt(bytes.Repeat([]byte{byte(1 + rand.IntN(255))}, block), size)
					size += int64(n)
					if err != nil {
						return err
					}
				}
			}
			k := 1 + rand.IntN(4)
			at := rand.IntN(8-k+1) * block
			nextSource.RLock()
			n, err := unix.Pwrite(int(direct[i].Fd()), next.mem[at:at+k*block], size)
			nextSource.RUnlock()
			switch {
			case err == unix.EFAULT || err == nil && n < k*block:
				// The end of the next file was within the buffer.
				source[i].Lock()
				defer source[i].Unlock()
				return f.Truncate(size)
			case err != nil:
				return fmt.Errorf("append from mapped memory: %w", err)
			}
			size += int64(n)
			appended.Add(1)
			return nil
		})
		l.loop(func() error {
			off := int64(rand.IntN(8)) * block
			source[i].Lock()
			defer source[i].Unlock()
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, block)
		})
		l.loop(func() error {
			b := make([]byte, block)
			off := int64(rand.IntN(most/block)) * block
			if n, err := f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				return err
			} else if n == block && uniform(b, block) >= 0 {
				return fmt.Errorf("file %d: the block at %d has two values", i, off)
			}
			return nil
		})
	}
	l.group.Wait()
	return fmt.Sprintf("%d appends from mapped memory", appended.Load()), nil
}
