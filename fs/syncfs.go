package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// syncfs serves FUSE_SYNCFS, which the guest sends for the root of each of its
// superblocks. A mount of the host has one of its own if the guest was told of it;
// the others go with every SYNCFS. Neither the request nor the guest's kernel has
// a handle to count what was told by, so an error is told once, whoever asks.
func (t *Thread) syncfs() (int, unix.Errno) {
	n, e := t.node()
	if e != 0 {
		return 0, e
	}
	mounts := &t.fs.mounts
	e = errnoOf(t.fs.opts.DAX.SyncAll(t.op, mounts.lose))
	announced := t.session.has(fuse.CAP_SUBMOUNTS)
	synced := make(map[uint64]bool)
	for _, m := range mounts.hold(n.mnt, announced) {
		if !synced[m.dev] {
			err := t.syncMount(m)
			synced[m.dev] = err == 0
			if e == 0 {
				e = err
			}
		}
		mounts.drop(m)
	}
	if lost := mounts.takeLost(n.mnt, announced); e == 0 {
		e = lost
	}
	return 0, e
}

// syncMount syncs the file system of m. By the mount's own descriptor it hears of
// the errors since that was opened, whoever else on the host has heard of them.
func (t *Thread) syncMount(m *mount) unix.Errno {
	if m.fd >= 0 {
		return errnoOf(unix.Syncfs(m.fd))
	}
	// syncfs(2) does not take an O_PATH descriptor, and not every inode can be
	// opened.
	e := unix.Errno(0)
	t.fs.inodes.byID.each(0, func(_ uint64, n *inode) bool {
		if n.mnt != m || n.typ != unix.S_IFDIR && n.typ != unix.S_IFREG {
			return true
		}
		fd, err := n.openFile(t, unix.O_RDONLY|unix.O_NONBLOCK)
		if e = err; err != 0 {
			return true
		}
		defer unix.Close(fd)
		e = errnoOf(unix.Syncfs(fd))
		return false
	})
	return e
}

// covers says whether a SYNCFS for own, the mount of a superblock's root, is for m
// too. announced says that the guest is told of mounts.
func (m *mount) covers(own *mount, announced bool) bool {
	return m == own || !announced || !m.dir
}

// hold returns the mounts that a SYNCFS for own is for, own first. Each must be dropped.
func (mt *mountTable) hold(own *mount, announced bool) []*mount {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	var all []*mount
	for _, m := range mt.m {
		if !m.covers(own, announced) {
			continue
		}
		m.refs++
		all = append(all, m)
		if m == own {
			last := len(all) - 1
			all[0], all[last] = all[last], all[0]
		}
	}
	return all
}

// lose keeps an error of writeback to a file on the mount id.
func (mt *mountTable) lose(id uint64, e unix.Errno) {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if mt.lost == nil {
		mt.lost = make(map[uint64]unix.Errno)
	}
	mt.lost[id] = e
}

// takeLost returns what was lost on a mount that a SYNCFS for own is for, or on one
// that is gone, once.
func (mt *mountTable) takeLost(own *mount, announced bool) (e unix.Errno) {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	for id, lost := range mt.lost {
		if m := mt.m[id]; m == nil || m.covers(own, announced) {
			e = lost
			delete(mt.lost, id)
		}
	}
	return e
}

// forgive forgets what was lost, for the next guest is not to hear of it.
func (mt *mountTable) forgive() {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	mt.lost = nil
}
