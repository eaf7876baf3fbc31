package guestmem

import "golang.org/x/sys/unix"

// maxIovecs is the kernel's limit, UIO_MAXIOV.
const maxIovecs = 1024

// bounceSize bounds the memory that a transfer with a window needs.
const bounceSize = 128 << 10

// bounces keeps buffers for that, of which few are used at a time.
var bounces = make(chan *[bounceSize]byte, 8)

func getBounce() *[bounceSize]byte {
	select {
	case b := <-bounces:
		return b
	default:
		return new([bounceSize]byte)
	}
}

func putBounce(b *[bounceSize]byte) {
	select {
	case bounces <- b:
	default:
	}
}

// ReadFrom reads up to n bytes, and not more than are left, from the file fd at
// offset off into the buffers at the cursor, with preadv2. An off of -1 is the
// file's own position. flags are those of preadv2 (RWF_NOWAIT).
//
// The cursor does not move: the caller skips what it takes. Fewer bytes than
// asked for are the end of the file or what preadv2 gave; 0 is the end of the
// file. An error is a unix.Errno, and then nothing was read as far as the
// caller is concerned, though guest memory may have changed; after a first part
// was read an error is left for the next call.
func (b *Buffers) ReadFrom(fd int, off int64, n int, flags int) (int, error) {
	return b.transfer(unix.SYS_PREADV2, fd, off, n, flags)
}

// WriteTo writes up to n bytes at the cursor, and not more than are left, to
// the file fd at offset off, with pwritev2. All else is as in ReadFrom; flags
// are those of pwritev2 (RWF_APPEND).
func (b *Buffers) WriteTo(fd int, off int64, n int, flags int) (int, error) {
	return b.transfer(unix.SYS_PWRITEV2, fd, off, n, flags)
}

func (b *Buffers) transfer(trap uintptr, fd int, off int64, n, flags int) (int, error) {
	n = min(n, b.left)
	if n <= 0 {
		return 0, nil
	}
	if b.windows && flags&unix.RWF_NOWAIT != 0 {
		// The window's own file may make us wait.
		return 0, unix.EAGAIN
	}
	done := 0
	seg, at := b.seg, b.off
	for done < n {
		if at == b.segs[seg].len {
			seg, at = seg+1, 0
		}
		room, segs := b.run(seg, at, n-done)
		want := min(room, n-done)
		var got int
		var err error
		if b.segs[seg].base == 0 {
			want = min(want, bounceSize)
			got, err = b.bounce(trap, fd, off, seg, at, want, flags)
		} else {
			got, err = b.direct(trap, fd, off, seg, segs, at, room-want, flags)
		}
		if trap == unix.SYS_PREADV2 {
			part := *b
			part.seg, part.off = seg, at
			if err != nil {
				part.markDirty(want)
			} else {
				part.markDirty(got)
			}
		}
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		done += got
		if off >= 0 {
			off += int64(got)
		}
		if got < want {
			break
		}
		for left := uintptr(got); left > 0; {
			if rest := b.segs[seg].len - at; left <= rest {
				at, left = at+left, 0
			} else {
				left -= rest
				seg, at = seg+1, 0
			}
		}
	}
	return done, nil
}

// run returns how many segments from offset at of segment seg one system call
// can move, up to the one that has the last of n bytes, and the bytes in them:
// segments that are mapped, or a single one that is not.
func (b *Buffers) run(seg int, at uintptr, n int) (bytes, segs int) {
	if b.segs[seg].base == 0 {
		return int(b.segs[seg].len - at), 1
	}
	for i := seg; i < len(b.segs) && segs < maxIovecs && bytes < n && b.segs[i].base != 0; i++ {
		bytes += int(b.segs[i].len - at)
		at = 0
		segs++
	}
	return bytes, segs
}

// direct moves what is in segs segments from offset at of segment seg, but for
// the last over bytes.
func (b *Buffers) direct(trap uintptr, fd int, off int64, seg, segs int, at uintptr, over, flags int) (int, error) {
	// The segments serve as the iovec: cut to size for the moment.
	v := b.segs[seg : seg+segs]
	first, last := v[0], v[segs-1]
	v[segs-1].len -= uintptr(over)
	v[0].base += at
	v[0].len -= at
	n, err := vectored(trap, fd, v, off, flags, flags&unix.RWF_NOWAIT != 0 && !b.unmapped)
	v[segs-1] = last
	v[0] = first
	return n, err
}

// bounce moves n bytes at offset at of segment seg, which lies in a window, by
// way of a buffer.
func (b *Buffers) bounce(trap uintptr, fd int, off int64, seg int, at uintptr, n, flags int) (int, error) {
	buf := getBounce()
	defer putBounce(buf)
	w := b.where[seg]
	r := b.table.regions[w.region]
	in := w.gpa - r.spec.GuestAddr + uint64(at)
	v := []iovec{bytesVector(buf[:n])}
	if trap == unix.SYS_PWRITEV2 {
		if err := r.read(buf[:n], in); err != nil {
			return 0, err
		}
		return vectored(trap, fd, v, off, flags, false)
	}
	got, err := vectored(trap, fd, v, off, flags, false)
	if err != nil || got == 0 {
		return 0, err
	}
	if err := b.storeInside(r, in, buf[:got]); err != nil {
		return 0, err
	}
	return got, nil
}
