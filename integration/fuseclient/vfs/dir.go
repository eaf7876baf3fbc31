package vfs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// dirStream says which of READDIR and READDIRPLUS comes next: the first read of a stream is plus, as with
// FUSE_READDIRPLUS_AUTO.
type dirStream struct{ later bool }

func (d *dirStream) reset() { d.later = false }

// Getdents is getdents64(2). What the daemon gave and does not fit is asked for again.
func (f *file) Getdents(size int) ([]behaviour.Dirent, error) {
	if !f.o.node.isDir() {
		return nil, unix.ENOTDIR
	}
	f.o.pos.Lock()
	defer f.o.pos.Unlock()
	c := f.v.t.c
	plus := c.Flags&fuse.CAP_READDIRPLUS != 0 && !f.o.dir.later
	list, err := c.Readdir(f.v.caller(), f.o.node.id, f.o.fh, uint64(f.o.offset), max(4096, size), plus)
	if err != nil {
		return nil, err
	}
	f.o.dir.later = true
	var out []behaviour.Dirent
	full := false
	for _, d := range list {
		if plus && d.Entry.NodeId != 0 && d.Name != "." && d.Name != ".." {
			f.v.t.forget(node{id: d.Entry.NodeId, owned: true})
		}
		if strings.Contains(d.Name, "/") {
			return nil, unix.EIO
		}
		reclen := (19 + len(d.Name) + 1 + 7) &^ 7
		if full || reclen > size {
			full = true
			continue
		}
		size -= reclen
		out = append(out, dirent(d))
		f.o.offset = int64(d.Off)
	}
	if full && len(out) == 0 {
		return nil, unix.EINVAL
	}
	return out, nil
}

func dirent(d fuseclient.Dirent) behaviour.Dirent {
	return behaviour.Dirent{Ino: d.Ino, Off: int64(d.Off), Type: uint8(d.Type), Name: d.Name}
}
