package fuseclient

import (
	"math/rand/v2"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

// Layout is how a request is cut into descriptors.
type Layout int

const (
	// LinuxLayout is that of virtio_fs_enqueue_req: header, arguments, pages, on either side.
	LinuxLayout Layout = iota
	// SingleLayout is one descriptor for each side.
	SingleLayout
	// ByteLayout is one byte for each descriptor as far as the ring has room, then the rest in one.
	ByteLayout
	// MixedLayout cuts at random places.
	MixedLayout
)

func (l Layout) String() string {
	return [...]string{"linux", "single", "byte", "mixed"}[l]
}

// layoutLinux points descriptors at the request's own memory.
func (r *Request) layoutLinux() {
	read := append(r.readSegs[:0], frontend.Seg{GPA: r.inGPA, Len: inHeaderSize})
	if n := r.inLen - inHeaderSize; n > 0 {
		read = append(read, frontend.Seg{GPA: r.inGPA + inHeaderSize, Len: uint32(n)})
	}
	read = r.pages(read, r.dataOut)
	write := r.writeSegs[:0]
	if !r.noReply {
		write = append(write, frontend.Seg{GPA: r.outGPA, Len: outHeaderSize})
		if r.outArgs > 0 {
			write = append(write, frontend.Seg{GPA: r.outGPA + outHeaderSize, Len: uint32(r.outArgs)})
		}
		write = r.pages(write, r.dataIn)
	}
	r.readSegs, r.writeSegs = read, write
	r.chain.Readable, r.chain.Writable = read, write
}

func (r *Request) pages(segs []frontend.Seg, n int) []frontend.Seg {
	for at := 0; at < n; at += r.c.opts.SegSize {
		segs = append(segs, frontend.Seg{GPA: r.dataAt + uint64(at), Len: uint32(min(r.c.opts.SegSize, n-at))})
	}
	return segs
}

// layoutBounced copies the request to a place where it lies in one piece and cuts that piece.
func (r *Request) layoutBounced() error {
	readable := r.inLen + r.dataOut
	writable := 0
	if !r.noReply {
		writable = outHeaderSize + r.outArgs + r.dataIn
	}
	b := &r.bounce
	if len(b.mem) < readable+writable {
		n := uint64(readable + writable)
		gpa, err := r.c.fe.Mem.Alloc(n, 1)
		if err != nil {
			return err
		}
		b.gpa, b.mem = gpa, r.c.fe.Mem.Bytes(gpa, n)
	}
	copy(b.mem, r.in[:r.inLen])
	copy(b.mem[r.inLen:], r.data[:r.dataOut])
	clear(b.mem[readable:][:min(writable, outHeaderSize)])
	limit := r.q.fq.Size()
	if writable > 0 {
		limit /= 2
	}
	r.readSegs = r.cut(r.readSegs[:0], b.gpa, readable, limit)
	r.writeSegs = r.cut(r.writeSegs[:0], b.gpa+uint64(readable), writable, limit)
	r.chain.Readable, r.chain.Writable = r.readSegs, r.writeSegs
	return nil
}

func (r *Request) cut(segs []frontend.Seg, gpa uint64, n, limit int) []frontend.Seg {
	for n > 0 {
		step := n
		if len(segs) < limit-1 {
			switch r.c.opts.Layout {
			case ByteLayout:
				step = 1
			case MixedLayout:
				step = 1 + rand.IntN(min(n, 5000))
			}
		}
		segs = append(segs, frontend.Seg{GPA: gpa, Len: uint32(step)})
		gpa += uint64(step)
		n -= step
	}
	return segs
}

// unbounce brings the reply to where it is read.
func (r *Request) unbounce() {
	mem := r.bounce.mem[r.inLen+r.dataOut:]
	used := min(int(r.chain.Used), outHeaderSize+r.outArgs+r.dataIn)
	args := min(used, outHeaderSize+r.outArgs)
	clear(r.out[:outHeaderSize+r.outArgs])
	copy(r.out, mem[:args])
	copy(r.data, mem[args:used])
}
