package fs

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const inodeShards = 64

// inodeTable holds the inodes that the guest knows, by nodeid and by identity
// on the host.
type inodeTable struct {
	byID   idTable[inode]
	shards [inodeShards]inodeShard
	// freeing says that memory is being given back.
	freeing atomic.Bool
}

type inodeShard struct {
	mu sync.Mutex
	m  map[inodeKey]*inode
}

func (it *inodeTable) shard(k inodeKey) *inodeShard {
	h := k.ino*0x9e3779b97f4a7c15 ^ k.dev*0xbf58476d1ce4e5b9
	return &it.shards[h>>58]
}

// get returns the inode that the guest names id, or nil.
func (it *inodeTable) get(id uint64) *inode { return it.byID.get(id) }

// claimPinned adds a lookup to the inode with this key, if it has a descriptor,
// which proves that the number was not reused. btime is a second witness for
// file systems whose descriptors do not keep the number.
func (it *inodeTable) claimPinned(k inodeKey, btime unix.StatxTimestamp) *inode {
	s := it.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.m[k]
	if n == nil || stateFD(n.state.Load()) < 0 || !sameTime(n.btime, btime) {
		return nil
	}
	n.lookups++
	return n
}

// find returns the inode with this key and birth time, or nil.
func (it *inodeTable) find(k inodeKey, btime unix.StatxTimestamp) *inode {
	s := it.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.m[k]; n != nil && sameTime(n.btime, btime) {
		return n
	}
	return nil
}

// claimOrAdd adds a lookup to the inode with the identity of st. The O_PATH
// descriptor fd, taken out of the budget, becomes the inode's if it is new or
// had none, and is closed otherwise. isNew says that the guest did not have it.
func (it *inodeTable) claimOrAdd(f *FS, st *unix.Statx_t, fd int) (n *inode, isNew bool, e unix.Errno) {
	k := keyOf(st)
	s := it.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.m[k]; old != nil {
		if it.same(f, old, st, fd) {
			old.lookups++
			old.pin(fd)
			return old, false, 0
		}
		// The host has given the inode number to another file. The guest's
		// nodeid for the old one stays until it is forgotten.
		delete(s.m, k)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	m := f.mounts.get(f, k, fd, isDir)
	if f.opts.InodeFileHandles == FileHandlesMandatory && !m.handles.Load() {
		f.mounts.drop(m)
		unix.Close(fd)
		f.budget.release()
		return nil, false, unix.EOPNOTSUPP
	}
	_, n = it.byID.add(func(id uint64, n *inode) {
		n.id, n.key, n.typ, n.mnt, n.fs = id, k, uint32(st.Mode)&unix.S_IFMT, m, f
		n.btime = st.Btime
		n.lookups = 1
		n.state.Store(uint64(uint32(fd)))
	})
	if s.m == nil {
		s.m = make(map[inodeKey]*inode)
	}
	s.m[k] = n
	return n, true, 0
}

// same reports whether old still is the inode that fd was opened on. An inode
// with a descriptor is, for the host cannot have reused its number; one that
// has only its handle is if the handles agree.
func (it *inodeTable) same(f *FS, old *inode, st *unix.Statx_t, fd int) bool {
	if old.typ != uint32(st.Mode)&unix.S_IFMT || !sameTime(old.btime, st.Btime) {
		return false
	}
	if stateFD(old.state.Load()) >= 0 {
		return true
	}
	h, e := f.handleOf(fd, old.mnt)
	have := old.handle.Load()
	return e == 0 && h != nil && have != nil && h.equal(have)
}

// claim adds a lookup to an inode that the caller holds, if it is still known.
func (it *inodeTable) claim(n *inode) bool {
	s := it.shard(n.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.lookups == 0 {
		return false
	}
	n.lookups++
	return true
}

// forget takes count lookups off the inode id, and the inode out of the table
// when none is left. A guest that forgets more than it looked up is cut short.
func (it *inodeTable) forget(id, count uint64) bool {
	n := it.byID.get(id)
	if n == nil || id == rootID {
		return n != nil
	}
	s := it.shard(n.key)
	s.mu.Lock()
	if n.lookups == 0 {
		s.mu.Unlock()
		return false
	}
	ok := count <= n.lookups
	n.lookups -= min(count, n.lookups)
	gone := n.lookups == 0
	if gone {
		if s.m[n.key] == n {
			delete(s.m, n.key)
			if len(s.m) == 0 {
				s.m = nil
			}
		}
		it.byID.remove(id)
	}
	s.mu.Unlock()
	if gone {
		n.kill()
		if it.byID.shrunk.Load() && it.freeing.CompareAndSwap(false, true) {
			go it.freeMemory()
		}
	}
	return ok
}

// freeMemory gives the host back what a guest has forgotten, when it has done
// forgetting: the last inodes are spread over all memory. There is nothing else
// to make the collector run in a daemon that has become idle.
func (it *inodeTable) freeMemory() {
	const waits = 30
	for range waits {
		before := it.byID.len()
		time.Sleep(time.Second)
		if it.byID.len() == before {
			break
		}
	}
	it.byID.shrunk.Store(false)
	debug.FreeOSMemory()
	it.freeing.Store(false)
}

// disown takes an inode that is gone on the host out of the identities, so that
// the next lookup of its number makes a new one.
func (it *inodeTable) disown(n *inode) {
	s := it.shard(n.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[n.key] == n {
		delete(s.m, n.key)
	}
}

// clear forgets every inode but the root.
func (it *inodeTable) clear() {
	var all []*inode
	it.byID.each(0, func(id uint64, n *inode) bool {
		if id != rootID {
			all = append(all, n)
		}
		return true
	})
	for _, n := range all {
		it.forget(n.id, ^uint64(0))
	}
}

func keyOf(st *unix.Statx_t) inodeKey {
	return inodeKey{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, mnt: st.Mnt_id}
}

func sameTime(a, b unix.StatxTimestamp) bool { return a.Sec == b.Sec && a.Nsec == b.Nsec }
