package main

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// churn makes a small file and removes it.
type churn struct {
	s        *session
	name     string
	state    int
	node, fh uint64
	noFlush  bool
}

const (
	churnCreate = iota
	churnWrite
	churnFlush
	churnRelease
	churnUnlink
)

func newChurn(s *session, i, _ int) lane { return &churn{s: s, name: fmt.Sprintf("churn-%d", i)} }

func (l *churn) start(r *fuseclient.Request) {
	l.state = churnCreate
	r.Begin(fuseclient.OpCreate, l.s.churn, nobody)
	r.Create(l.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, unix.S_IFREG|0o644)
}

func (l *churn) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused(fmt.Sprintf("step %d of %s", l.state, l.name), r)
	}
	switch l.state {
	case churnCreate:
		out := r.CreateOut()
		l.node, l.fh, l.noFlush = out.NodeId, out.Fh, out.OpenFlags&fuse.FOPEN_NOFLUSH != 0
		if out.Attr.Mode != unix.S_IFREG|0o644 || out.Attr.Size != 0 {
			return false, wrong("CREATE", out.Attr, "an empty file")
		}
		r.Begin(fuseclient.OpWrite, l.node, nobody)
		stampData(r.Data()[:page], 0, atomic.AddUint64(&l.s.stamp, 1))
		r.Write(l.fh, 0, page, 0, 0)
	case churnWrite:
		if n := r.WriteOut().Size; n != page {
			return false, wrong("WRITE", n, page)
		}
		r.Begin(fuseclient.OpFlush, l.node, nobody)
		r.Flush(l.fh)
	case churnFlush:
		r.Begin(fuseclient.OpRelease, l.node, nobody)
		r.CloseHandle(l.fh)
	case churnRelease:
		r.Begin(fuseclient.OpUnlink, l.s.churn, nobody)
		r.Unlink(l.name)
	case churnUnlink:
		l.s.forgets.add(l.node, 1)
		return false, nil
	}
	l.state++
	if l.state == churnFlush && l.noFlush {
		l.state++
		r.Begin(fuseclient.OpRelease, l.node, nobody)
		r.CloseHandle(l.fh)
	}
	return true, nil
}

// checkChurn finds the directory empty.
func checkChurn(s *session, _ []lane) error {
	list, err := os.ReadDir(s.tree.path(churnDir))
	if err == nil && len(list) > 0 {
		err = wrong("the directory after UNLINK", len(list), "no entries")
	}
	return err
}

// mixed does what programs do with a file.
type mixed struct {
	s        *session
	state    int
	steps    steps
	off      uint64
	node, fh uint64
}

const (
	mixedLookup  = 0
	mixedGetattr = 1
	mixedOpen    = 2
	mixedRead    = 3 // to 6
	mixedWrite   = 7 // and 8
	mixedRelease = 9
)

func newMixed(s *session, i, _ int) lane { return &mixed{s: s, steps: newSteps(i, dataSize/page)} }

func (l *mixed) start(r *fuseclient.Request) {
	l.state = mixedLookup
	r.Begin(fuseclient.OpLookup, fuseclient.RootID, nobody)
	r.Lookup(coldFile)
}

func (l *mixed) reply(r *fuseclient.Request) (bool, error) {
	if r.Err != 0 {
		return false, refused(fmt.Sprintf("step %d of mixed", l.state), r)
	}
	switch l.state {
	case mixedLookup:
		l.node = r.Entry().NodeId
		if size := r.Entry().Attr.Size; size != dataSize {
			return false, wrong("LOOKUP", size, dataSize)
		}
	case mixedGetattr:
		if size := r.AttrOut().Attr.Size; size != dataSize {
			return false, wrong("GETATTR", size, dataSize)
		}
	case mixedOpen:
		l.fh = r.OpenOut().Fh
	case mixedRelease:
		l.s.forgets.add(l.node, 1)
		return false, nil
	default:
		if l.state >= mixedWrite {
			if n := r.WriteOut().Size; n != page {
				return false, wrong("WRITE", n, page)
			}
		} else if err := checkRead(r, l.off, page); err != nil {
			return false, err
		}
	}
	l.state++
	switch {
	case l.state == mixedGetattr:
		r.Begin(fuseclient.OpGetattr, l.node, nobody)
		r.Getattr()
	case l.state == mixedOpen:
		r.Begin(fuseclient.OpOpen, l.node, nobody)
		r.Open(unix.O_RDWR)
	case l.state == mixedRelease:
		r.Begin(fuseclient.OpRelease, l.node, nobody)
		r.CloseHandle(l.fh)
	case l.state >= mixedWrite:
		// What was there before, so that reads find the pattern.
		l.off = l.steps.next() * page
		r.Begin(fuseclient.OpWrite, l.node, nobody)
		pattern(r.Data()[:page], l.off)
		r.Write(l.fh, l.off, page, 0, 0)
	default:
		l.off = l.steps.next() * page
		r.Begin(fuseclient.OpRead, l.node, nobody)
		r.Read(l.fh, l.off, page, 0)
	}
	return true, nil
}
