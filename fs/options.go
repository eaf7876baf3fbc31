package fs

import (
	"log/slog"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

// CachePolicy says how long the guest may trust what it was told. The values
// and their meaning are those of the --cache option.
type CachePolicy uint8

const (
	// CacheAuto lets names and attributes live for a second and drops cached
	// data when a file's mtime or size has changed at open.
	CacheAuto CachePolicy = iota
	// CacheAlways lets everything live for a day: for a directory that only
	// this guest changes.
	CacheAlways
	// CacheNever caches nothing, data included.
	CacheNever
	// CacheMetadata lets names and attributes live for a day and caches no data.
	CacheMetadata
)

// FileHandles says whether inodes may be kept as file handles (no descriptor
// held) instead of O_PATH descriptors.
type FileHandles uint8

const (
	// FileHandlesPrefer uses file handles where the file system has them.
	FileHandlesPrefer FileHandles = iota
	// FileHandlesNever keeps one O_PATH descriptor per inode.
	FileHandlesNever
	// FileHandlesMandatory refuses inodes on file systems without handles.
	FileHandlesMandatory
)

// Auto is an option that may be forced on, off, or left to what the guest offers.
type Auto uint8

const (
	// Off never negotiates the feature.
	Off Auto = iota
	// On fails FUSE_INIT when the guest lacks the feature.
	On
	// IfOffered uses the feature when the guest has it.
	IfOffered
)

// Options configures a file system. The zero value serves SharedDir with the
// defaults of the command line, except where a field says otherwise.
type Options struct {
	// SharedDir is the host directory that becomes the root.
	SharedDir string

	Cache         CachePolicy
	Xattr         bool // without it the xattr operations answer ENOSYS
	PosixACL      Auto // implies Xattr
	SecurityLabel Auto
	Writeback     bool // let the guest cache writes (FUSE_WRITEBACK_CACHE)
	AllowDirectIO bool // pass O_DIRECT on to the host
	AllowMmap     bool // shared mappings of files opened with FOPEN_DIRECT_IO
	ReaddirPlus   bool // the command line's default is true
	ReadOnly      bool // every change answers EROFS

	// AnnounceSubmounts makes directories that are on another mount than
	// their parent automount points in the guest. The command line's default
	// is true.
	AnnounceSubmounts bool

	InodeFileHandles FileHandles
	KillprivV2       Auto
	PreserveNoatime  bool // fail where the host refuses O_NOATIME, instead of doing without
	PosixLock        bool // forward fcntl locks as OFD locks
	Flock            bool // forward flock locks

	// FDLimit bounds the descriptors held on behalf of the guest (inodes and
	// open files). 0 means no bound.
	FDLimit int

	// DAX is the owner of the DAX window, nil for none. It is the caller's to
	// close, after the file system.
	DAX *dax.Manager
	// WindowOffset turns a guest address into an offset in the window, if it is
	// in it. It is needed with DAX.
	WindowOffset func(gpa uint64) (uint64, bool)

	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}
