package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// read reads the data file.
type read struct {
	s     *session
	size  int
	rand  bool
	steps steps
	off   uint64
}

// reader makes lanes that read size bytes at a time. Sequential ones share the file: lane i of n reads every n-th piece.
func reader(size int, random bool) func(*session, int, int) lane {
	return func(s *session, i, n int) lane {
		l := &read{s: s, size: size, rand: random}
		pieces := dataSize / size
		if random {
			l.steps = newSteps(i, pieces)
		} else {
			l.steps = steps{at: uint64(i % pieces), stride: uint64(n), n: uint64(pieces)}
		}
		return l
	}
}

func (l *read) start(r *fuseclient.Request) {
	l.off = l.steps.next() * uint64(l.size)
	r.Begin(fuseclient.OpRead, l.s.data, nobody)
	r.Read(l.s.dataFH, l.off, l.size, 0)
}

func (l *read) reply(r *fuseclient.Request) (bool, error) {
	return false, checkRead(r, l.off, l.size)
}

// checkRead looks at the length and at the pattern in some places; nothing is left there from the request before.
func checkRead(r *fuseclient.Request, off uint64, size int) error {
	if r.Err != 0 {
		return refused("READ", r)
	}
	b := r.ReplyData()
	if len(b) != size {
		return wrong("READ", len(b), fmt.Sprintf("%d bytes", size))
	}
	for _, at := range [...]int{0, size / 2 &^ 7, size - 8} {
		if got := binary.LittleEndian.Uint64(b[at:]); got != word(off+uint64(at)) {
			return wrong(fmt.Sprintf("READ at %d", off+uint64(at)), got, word(off+uint64(at)))
		}
		binary.LittleEndian.PutUint64(b[at:], 0)
	}
	return nil
}

// write writes to the scratch file, and syncs it if asked to.
type write struct {
	s     *session
	size  int
	fsync bool
	steps steps

	off   uint64
	stamp uint64
	sync  bool // under way
	// last are the writes that came back last, for checkWrites.
	last [4]struct{ off, stamp uint64 }
	done int
}

func writer(size int, random, fsync bool) func(*session, int, int) lane {
	return func(s *session, i, n int) lane {
		l := &write{s: s, size: size, fsync: fsync}
		pieces := dataSize / size
		if random {
			l.steps = newSteps(i, pieces)
		} else {
			l.steps = steps{at: uint64(i % pieces), stride: uint64(n), n: uint64(pieces)}
		}
		return l
	}
}

func (l *write) start(r *fuseclient.Request) {
	l.off = l.steps.next() * uint64(l.size)
	l.stamp = atomic.AddUint64(&l.s.stamp, 1)
	r.Begin(fuseclient.OpWrite, l.s.write, nobody)
	stampData(r.Data()[:l.size], l.off, l.stamp)
	r.Write(l.s.writeFH, l.off, l.size, 0, 0)
}

// stampData marks both ends of a write with where it goes and when it was made.
func stampData(b []byte, off, stamp uint64) {
	for _, at := range [...]int{0, len(b) - 16} {
		binary.LittleEndian.PutUint64(b[at:], word(off))
		binary.LittleEndian.PutUint64(b[at+8:], stamp)
	}
}

func (l *write) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("WRITE or FSYNC", r)
	}
	if l.sync {
		l.sync = false
		return false, nil
	}
	if n := r.WriteOut().Size; int(n) != l.size {
		return false, wrong("WRITE", n, fmt.Sprintf("%d bytes", l.size))
	}
	l.last[l.done%len(l.last)].off, l.last[l.done%len(l.last)].stamp = l.off, l.stamp
	l.done++
	if l.fsync {
		l.sync = true
		r.Begin(fuseclient.OpFsync, l.s.write, nobody)
		r.Fsync(l.s.writeFH)
	}
	return l.sync, nil
}

// checkWrites looks for the last writes in the file, where later ones of other lanes may have taken their place.
func checkWrites(s *session, lanes []lane) error {
	f, err := os.Open(s.tree.path(writeFile))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, any := range lanes {
		l := any.(*write)
		for _, w := range l.last[:min(l.done, len(l.last))] {
			for _, at := range [...]uint64{0, uint64(l.size) - 16} {
				var b [16]byte
				if _, err := f.ReadAt(b[:], int64(w.off+at)); err != nil {
					return err
				}
				got, stamp := binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])
				if got != word(w.off) || stamp < w.stamp || stamp > s.stamp {
					return wrong(fmt.Sprintf("the file at %d after WRITE", w.off+at), stamp, w.stamp)
				}
			}
		}
	}
	return nil
}

// coldRead reads all pieces of a file that the host has dropped from its page cache, in an order that looks random, and has
// it dropped again.
type coldRead struct {
	read
	f    *os.File
	left int // pieces, until it is dropped
}

func besideCold(size int) func(*session) (lane, error) {
	return func(s *session) (lane, error) {
		f, err := os.Open(s.tree.path(coldFile))
		if err != nil {
			return nil, err
		}
		return &coldRead{read: read{s: s, size: size, steps: newSteps(0, dataSize/size)}, f: f}, nil
	}
}

func (l *coldRead) start(r *fuseclient.Request) {
	if l.left == 0 {
		unix.Fadvise(int(l.f.Fd()), 0, 0, unix.FADV_DONTNEED)
		l.left = dataSize / l.size
	}
	l.left--
	l.off = l.steps.next() * uint64(l.size)
	r.Begin(fuseclient.OpRead, l.s.cold, nobody)
	r.Read(l.s.coldFH, l.off, l.size, 0)
}

func (l *coldRead) finish() error { return l.f.Close() }

func besideFsync(s *session) (lane, error) { return writer(page, true, true)(s, 0, 1), nil }
