package fuseclient

import (
	"encoding/binary"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Dirent is an entry of READDIR; with READDIRPLUS also what a LOOKUP would say, and a reference if Entry.NodeId is not 0.
type Dirent struct {
	Ino, Off uint64
	Type     uint32
	Name     string
	Entry    fuse.EntryOut
}

const direntSize = 24

// Readdir reads entries from off on, into a buffer of size bytes; none means the end.
func (c *Client) Readdir(who Caller, node, fh, off uint64, size int, plus bool) (list []Dirent, err error) {
	op := OpReaddir
	if plus {
		op = OpReaddirplus
	}
	r := c.begin(op, node, who)
	r.Read(fh, off, min(size, c.opts.MaxData), 0)
	err = c.finish(r, func() { list = r.Dirents(plus) })
	return list, err
}

// Dirents parses the reply to a READDIR or READDIRPLUS. What Linux would not take is a fault, and ends the list.
func (r *Request) Dirents(plus bool) []Dirent {
	var list []Dirent
	le := binary.LittleEndian
	for b := r.ReplyData(); len(b) > 0; {
		var d Dirent
		if plus {
			if len(b) < sizeOf[fuse.EntryOut]()+direntSize {
				r.fault("%d bytes are left behind the last entry", len(b))
				return list
			}
			copy(bytesOf(&d.Entry), b)
			b = b[sizeOf[fuse.EntryOut]():]
		}
		if len(b) < direntSize {
			r.fault("%d bytes are left behind the last entry", len(b))
			return list
		}
		d.Ino, d.Off, d.Type = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[20:])
		n := int(le.Uint32(b[16:]))
		padded := (direntSize + n + 7) &^ 7
		if n == 0 || n > 255 || padded > len(b) {
			r.fault("entry with a name of %d bytes, %d are left", n, len(b))
			return list
		}
		d.Name = string(b[direntSize : direntSize+n])
		b = b[padded:]
		list = append(list, d)
	}
	return list
}

// EachDirentPlus calls f for every entry of the reply to a READDIRPLUS, in place, and counts them. It stops at an error.
func (r *Request) EachDirentPlus(f func(e *fuse.EntryOut, off uint64, name []byte) error) (n int, err error) {
	le := binary.LittleEndian
	head := sizeOf[fuse.EntryOut]()
	for b := r.ReplyData(); len(b) > 0; n++ {
		if len(b) < head+direntSize {
			return n, fmt.Errorf("%d bytes are left behind the last entry", len(b))
		}
		d := b[head:]
		length := int(le.Uint32(d[16:]))
		padded := (direntSize + length + 7) &^ 7
		if length == 0 || length > 255 || padded > len(d) {
			return n, fmt.Errorf("entry with a name of %d bytes, %d are left", length, len(d))
		}
		if err := f(view[fuse.EntryOut](b), le.Uint64(d[8:]), d[direntSize:direntSize+length]); err != nil {
			return n, err
		}
		b = d[padded:]
	}
	return n, nil
}

func le64(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func le32(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}
