package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// copies copies from one file to another and back, at once, while the first half of each, the source, is being written
// through a mapping: page after page the next number, in order. No copy may have a number from before it began, or one
// that was not yet written.
//
// Every other copy goes to a new file, not into the second half of the other one. That one the daemon makes, while the
// guest makes those to a mapped file by itself; so, with serial, it is of one moment: it has pages of one number, then
// pages of the number before.
func copies(l *load) (string, error) {
	const half = 32 * page
	var files [2]*shared
	var written [2]atomic.Uint64 // a number that all pages have reached
	for i := range files {
		var err error
		if files[i], err = l.share(fmt.Sprintf("copy%d", i), 2*half, 2*half); err != nil {
			return "", err
		}
		l.loop(func() error {
			n := written[i].Load() + 1
			for o := 0; o < half; o += page {
				binary.LittleEndian.PutUint64(files[i].mem[o:], n)
			}
			written[i].Store(n)
			return nil
		})
	}
	var rounds atomic.Uint64
	for i := range files {
		src, there := files[i], files[1-i]
		l.loop(func() error {
			dst, at := there.File, int64(half)
			fresh := rounds.Add(1)%2 == 0
			if fresh {
				var err error
				if dst, err = os.Create(filepath.Join(l.dir, fmt.Sprintf("copy-of-%d", i))); err != nil {
					return err
				}
				defer dst.Close()
				defer os.Remove(dst.Name())
				at = 0
			}
			before := written[i].Load()
			if err := copyRange(src.File, dst, at, half, fresh && l.serial); err != nil {
				return err
			}
			after := written[i].Load() + 1
			got := make([]byte, half)
			h, err := os.Open(dst.Name())
			if err != nil {
				return err
			}
			defer h.Close()
			if _, err := h.ReadAt(got, at); err != nil {
				return err
			}
			first, last := binary.LittleEndian.Uint64(got), after
			for o := 0; o < half; o += page {
				n := binary.LittleEndian.Uint64(got[o:])
				if n < before || n > after || fresh && l.serial && (n > last || n+1 < first) {
					return fmt.Errorf("page %d of a copy has %d, the one before it %d and the first one %d; the source went from %d to %d", o/page, n, last, first, before, after)
				}
				last = n
			}
			return nil
		})
	}
	l.group.Wait()
	return fmt.Sprintf("%d copies", rounds.Load()), nil
}

// copyRange copies the first n bytes of src to dst at the given offset, in one go if whole is set.
func copyRange(src, dst *os.File, at int64, n int, whole bool) error {
	for from := int64(0); from < int64(n); {
		done, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &at, n-int(from), 0)
		switch {
		case err != nil:
			return fmt.Errorf("copy_file_range: %w", err)
		case done == 0 || whole && done < n:
			return fmt.Errorf("copy_file_range copied %d bytes of %d", done, n)
		}
	}
	return nil
}
