package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openTrunc opens one file with O_TRUNC and without, at once, while its pages are dirtied through a mapping and written
// back (xfstests generic/464). None of it may hang.
func openTrunc(l *load) (string, error) {
	const size = 32 * page
	f, err := l.share("opentrunc", size, size)
	if err != nil {
		return "", err
	}
	data := bytes.Repeat([]byte{'b'}, size)
	rounds := 0
	l.loop(func() error {
		rounds++
		h, err := os.OpenFile(f.Name(), os.O_RDWR|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.WriteAt(data, 0)
		return err
	})
	l.loop(func() error {
		h, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer h.Close()
		if _, err := h.ReadAt(make([]byte, size), 0); err != nil && err != io.EOF {
			return err
		}
		return h.Sync()
	})
	l.loop(func() error {
		daring(func() {
			for o := 0; o < size; o += page {
				f.mem[o]++
			}
		})
		return nil
	})
	l.loop(func() error { return unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
	l.group.Wait()
	return fmt.Sprintf("%d rounds", rounds), nil
}
