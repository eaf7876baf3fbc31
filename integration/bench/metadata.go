package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// getattr asks for the attributes of the data file.
type getattr struct {
	s   *session
	ino uint64
}

func newGetattr(s *session, _, _ int) lane {
	return &getattr{s: s, ino: hostIno(s.tree.path(readFile))}
}

func hostIno(path string) uint64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

func (l *getattr) start(r *fuseclient.Request) {
	r.Begin(fuseclient.OpGetattr, l.s.data, nobody)
	r.Getattr()
}

func (l *getattr) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("GETATTR", r)
	}
	a := r.AttrOut()
	if a.Attr.Ino != l.ino || a.Attr.Size != dataSize || a.Attr.Mode != unix.S_IFREG|0o644 {
		return false, wrong("GETATTR", a.Attr, fmt.Sprintf("inode %d of %d bytes", l.ino, dataSize))
	}
	return false, nil
}

// lookup looks names up and forgets them.
type lookup struct {
	s     *session
	names []string
	steps steps
	at    uint64
}

func newLookupSame(s *session, _, _ int) lane { return newLookup(s, 0, 1) }

func newLookupMany(s *session, i, _ int) lane { return newLookup(s, i, s.tree.entries) }

func newLookup(s *session, i, names int) *lookup {
	return &lookup{s: s, names: s.tree.names[:names], steps: newSteps(i, names)}
}

func (l *lookup) start(r *fuseclient.Request) {
	l.at = l.steps.next()
	r.Begin(fuseclient.OpLookup, l.s.names, nobody)
	r.Lookup(l.names[l.at])
}

func (l *lookup) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("LOOKUP", r)
	}
	e := r.Entry()
	if e.NodeId == 0 || e.Attr.Size != l.at {
		return false, wrong("LOOKUP of "+l.names[l.at], e.Attr, l.at)
	}
	l.s.forgets.add(e.NodeId, 1)
	return false, nil
}

// openRelease opens the data file and closes it.
type openRelease struct {
	s    *session
	open bool
}

func newOpenRelease(s *session, _, _ int) lane { return &openRelease{s: s} }

func (l *openRelease) start(r *fuseclient.Request) {
	r.Begin(fuseclient.OpOpen, l.s.data, nobody)
	r.Open(unix.O_RDONLY)
	l.open = true
}

func (l *openRelease) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("OPEN or RELEASE", r)
	}
	if !l.open {
		return false, nil
	}
	l.open = false
	fh := r.OpenOut().Fh
	r.Begin(fuseclient.OpRelease, l.s.data, nobody)
	r.CloseHandle(fh)
	return true, nil
}

// statfs asks about the file system.
type statfs struct {
	blocks uint64
	bsize  uint32
}

func newStatfs(s *session, _, _ int) lane {
	var st unix.Statfs_t
	unix.Statfs(s.tree.dir, &st)
	return &statfs{blocks: st.Blocks, bsize: uint32(st.Bsize)}
}

func (l *statfs) start(r *fuseclient.Request) {
	r.Begin(fuseclient.OpStatfs, fuseclient.RootID, nobody)
	r.Statfs()
}

func (l *statfs) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("STATFS", r)
	}
	if s := r.StatfsOut(); s.Blocks != l.blocks || s.Bsize != l.bsize {
		return false, wrong("STATFS", s, fmt.Sprintf("%d blocks of %d bytes", l.blocks, l.bsize))
	}
	return false, nil
}

// getxattr reads an extended attribute of the data file.
type getxattr struct {
	s    *session
	want string
}

func newGetxattr(s *session, _, _ int) lane { return &getxattr{s, string(s.tree.xattr())} }

func (l *getxattr) start(r *fuseclient.Request) {
	r.Begin(fuseclient.OpGetxattr, l.s.data, nobody)
	r.Getxattr(xattrName, 256)
}

func (l *getxattr) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused("GETXATTR (does the daemon serve extended attributes?)", r)
	}
	if got := r.Reply()[:r.N]; string(got) != l.want {
		return false, wrong("GETXATTR", string(got), l.want)
	}
	return false, nil
}

// readdir reads the long directory from one end to the other, over and over, with a buffer as getdents(2) of glibc has.
type readdir struct {
	s     *session
	count []uint64 // lookups by size of the file, which is its number
	node  []uint64
	keep  bool // FORGETs come at the end, as from a guest that caches the files

	fh, off uint64
	seen    int
	state   int
}

const (
	readdirOpen = iota
	readdirRead
	readdirClose

	readdirSize = 32 << 10
)

func newReaddir(s *session, _, _ int) lane {
	return &readdir{s: s, count: make([]uint64, s.tree.entries), node: make([]uint64, s.tree.entries), keep: true}
}

func newReaddirForget(s *session, _, _ int) lane { return &readdir{s: s} }

func (l *readdir) start(r *fuseclient.Request) {
	if l.state == readdirOpen {
		r.Begin(fuseclient.OpOpendir, l.s.names, nobody)
		r.Open(unix.O_RDONLY | unix.O_DIRECTORY)
		return
	}
	l.read(r)
}

func (l *readdir) read(r *fuseclient.Request) {
	r.Begin(fuseclient.OpReaddirplus, l.s.names, nobody)
	r.Read(l.fh, l.off, readdirSize, 0)
}

func (l *readdir) reply(r *fuseclient.Request) (more bool, err error) {
	if r.Err != 0 {
		return false, refused("OPENDIR, READDIRPLUS or RELEASEDIR", r)
	}
	switch l.state {
	case readdirOpen:
		l.fh, l.off, l.seen, l.state = r.OpenOut().Fh, 0, 0, readdirRead
		l.read(r)
		return true, nil
	case readdirClose:
		l.state = readdirOpen
		l.start(r)
		return true, nil
	}
	n, err := r.EachDirentPlus(func(e *fuse.EntryOut, off uint64, name []byte) error {
		l.off = off
		if name[0] == '.' {
			return nil
		}
		if e.NodeId == 0 || e.Attr.Size >= uint64(l.s.tree.entries) {
			return wrong("READDIRPLUS at "+string(name), e.Attr, "an entry of the directory")
		}
		l.seen++
		if l.keep {
			l.node[e.Attr.Size] = e.NodeId
			l.count[e.Attr.Size]++
		} else {
			l.s.forgets.add(e.NodeId, 1)
		}
		return nil
	})
	if err != nil || n > 0 {
		return false, err
	}
	// The end of the directory.
	if l.seen != l.s.tree.entries {
		return false, wrong("READDIRPLUS", l.seen, fmt.Sprintf("%d entries", l.s.tree.entries))
	}
	l.state = readdirClose
	r.Begin(fuseclient.OpReleasedir, l.s.names, nobody)
	r.CloseHandle(l.fh)
	return true, nil
}

// finish gives back what a lane holds at the end of a run.
func (l *readdir) finish() error {
	for i, n := range l.count {
		if n > 0 {
			l.s.forgets.add(l.node[i], n)
			l.count[i] = 0
		}
	}
	if l.state != readdirRead {
		return nil
	}
	l.state = readdirOpen
	return l.s.call(fuseclient.OpReleasedir, l.s.names, func(r *fuseclient.Request) { r.CloseHandle(l.fh) }, nil)
}
