package vfs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// tree is a mount.
type tree struct {
	c       *fuseclient.Client
	below   func(behaviour.Capability) string
	inodes  [64]sync.Mutex   // locks of nodes that are written, by nodeid
	dirs    [64]sync.RWMutex // i_rwsem of directories, by nodeid
	handles atomic.Uint64    // numbers open files as lock owners
	basesMu sync.Mutex
	bases   map[*base]bool // those of Sub
	noStatx atomic.Bool    // the daemon answered ENOSYS
	noTmp   atomic.Bool
	noLong  atomic.Bool // COPY_FILE_RANGE_64
	noCopy  atomic.Bool
}

// processID owns the POSIX locks of all files.
const processID = 4242

// node is an inode and its attributes as they were when it was found.
type node struct {
	id    uint64
	attr  fuse.Attr
	owned bool // a reference has to be given back
}

func (n *node) isDir() bool  { return n.attr.Mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isLink() bool { return n.attr.Mode&unix.S_IFMT == unix.S_IFLNK }
func (n *node) isReg() bool  { return n.attr.Mode&unix.S_IFMT == unix.S_IFREG }

// view is a behaviour.FS.
type view struct {
	t     *tree
	cred  behaviour.Cred
	umask uint32
	base  *base
}

var _ behaviour.FS = (*view)(nil)

// New makes the root of a mount. The client has been through INIT. below says what the daemon's own file system lacks.
func New(c *fuseclient.Client, below func(behaviour.Capability) string) behaviour.FS {
	root := node{id: fuseclient.RootID, attr: fuse.Attr{Mode: unix.S_IFDIR}}
	return &view{t: &tree{c: c, below: below, bases: map[*base]bool{}}, base: &base{way: []node{root}}}
}

func (v *view) As(c behaviour.Cred) behaviour.FS {
	w := *v
	w.cred = c
	return &w
}

func (v *view) Umask(mask uint32) behaviour.FS {
	w := *v
	w.umask = mask & 0o777
	return &w
}

// Sub keeps references on the whole way down.
func (v *view) Sub(path string) (behaviour.FS, error) {
	w := v.walk()
	if err := w.to(path, true); err != nil {
		w.close()
		return nil, err
	}
	if !w.top().isDir() {
		w.close()
		return nil, unix.ENOTDIR
	}
	sub := *v
	sub.base = v.t.addBase(w.stack)
	return &sub, nil
}

func (v *view) Close() error {
	v.t.removeBase(v.base)
	return nil
}

func (t *tree) forget(n node) {
	if n.owned {
		t.c.Forget(n.id, 1)
	}
}

// caller is who a request is made for. With idmapped mounts only requests that create carry it.
func (v *view) caller() fuseclient.Caller {
	if v.t.c.Flags&fuse.CAP_ALLOW_IDMAP != 0 {
		return fuseclient.Caller{UID: ^uint32(0), GID: ^uint32(0), PID: processID}
	}
	return v.creator()
}

func (v *view) creator() fuseclient.Caller {
	return fuseclient.Caller{UID: v.cred.UID, GID: v.cred.GID, PID: processID}
}

// extensions is what a create-like request in dir carries (get_create_ext).
func (v *view) extensions(dir *node) []byte {
	if gid := dir.attr.Gid; gid != v.cred.GID && v.inGroup(gid) {
		return v.t.c.Extensions(nil, &gid)
	}
	return v.t.c.Extensions(nil, nil)
}

func (v *view) getattr(id uint64) (fuse.Attr, error) {
	a, err := v.t.c.Getattr(v.caller(), id, nil)
	return a.Attr, err
}

func (v *view) refresh(n *node) (err error) {
	n.attr, err = v.getattr(n.id)
	return err
}

// inode is the lock of a node's writers.
func (t *tree) inode(id uint64) *sync.Mutex { return &t.inodes[id%uint64(len(t.inodes))] }

// Lacks says what this kernel does not do, or the daemon.
func (v *view) Lacks(c behaviour.Capability) string {
	flags := v.t.c.Flags
	switch c {
	case behaviour.Mmap:
		return "no page cache here"
	case behaviour.ACL:
		return "ACLs are not obeyed here"
	case behaviour.SpecialOpen:
		return "no pipes and devices here"
	case behaviour.TrustedHidden:
		return "Linux's FUSE lists what the daemon lists"
	case behaviour.CollapseRange, behaviour.InsertRange, behaviour.UnshareRange:
		return "Linux's FUSE refuses this mode"
	case behaviour.SetattrCaller:
		if v.killprivV2() {
			return "Linux's FUSE does not say which groups those have who truncate"
		}
	case behaviour.Flock:
		if flags&fuse.CAP_FLOCK_LOCKS == 0 {
			return "flock is not forwarded, and there is no lock manager here"
		}
	case behaviour.PosixLocks, behaviour.OFDLocks:
		if flags&fuse.CAP_POSIX_LOCKS == 0 {
			return "locks are not forwarded, and there is no lock manager here"
		}
	case behaviour.Btime:
		if s, err := v.Stat("."); err == nil && s.Mask&unix.STATX_BTIME == 0 {
			return "the daemon reports no time of birth"
		}
	case behaviour.Tmpfile:
		f, err := v.Open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		if err == unix.EOPNOTSUPP {
			return "the daemon makes no files without a name"
		}
		if err == nil {
			f.Close()
		}
	case behaviour.XattrUser, behaviour.XattrTrusted, behaviour.XattrSecurity, behaviour.XattrHuge:
		if _, err := v.Listxattr(".", nil); err == unix.EOPNOTSUPP {
			return "the daemon serves no extended attributes"
		}
	case behaviour.FileFlags, behaviour.ProjectID:
		f, err := v.Open(".", unix.O_RDONLY, 0)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		if _, err := f.GetFlags(); err == unix.ENOTTY {
			return "the daemon serves no file flags"
		}
	}
	return v.t.below(c)
}
