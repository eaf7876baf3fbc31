package behaviour

// Capability is something that a tree may lack for a reason other than a fault: the host's file system has no
// such feature, or the implementation of FS is no kernel. A case names what it needs and is skipped, with the
// reason, where that is missing; Options.Require turns such skips into failures.
//
// What the file system below offers is found out by hostfs.New, on the host. A view of that tree over
// virtio-fs has the same answers, less what the protocol cannot carry.
type Capability string

const (
	// Callers: As works for any id, and root may chown.
	Callers Capability = "callers"
	// WriteCaller: a write knows the caller's groups, by which a set-group-ID bit without group execution stays or goes.
	// FUSE's WRITE does not, nor does Linux look before it writes to a file that the daemon wants no cache for.
	WriteCaller Capability = "write-caller"
	// SetattrCaller: so do truncation and chown. Linux's FUSE client says no groups, and no ids either once
	// FUSE_ALLOW_IDMAP is agreed on.
	SetattrCaller Capability = "setattr-caller"
	// DeviceNodes: mknod makes character and block devices.
	DeviceNodes Capability = "device-nodes"
	// SpecialOpen: opening a fifo or a device gives that fifo or device, as in a kernel.
	SpecialOpen Capability = "special-open"
	// Tmpfile: O_TMPFILE, and Linkfd of such a file.
	Tmpfile Capability = "tmpfile"
	// LinkOpen: Linkfd of a file that has a name.
	LinkOpen Capability = "link-open"
	// DirectIO: O_DIRECT opens are accepted.
	DirectIO Capability = "direct-io"
	// LongLinks: symbolic links to targets of 4095 bytes; 1023 are always expected.
	LongLinks Capability = "long-links"
	// HugeFiles: sparse files of 16 TiB less a page; 8 GiB ones are always expected.
	HugeFiles Capability = "huge-files"

	// Fallocate: mode 0 and KEEP_SIZE. The others name their modes.
	Fallocate     Capability = "fallocate"
	PunchHole     Capability = "punch-hole"
	ZeroRange     Capability = "zero-range"
	CollapseRange Capability = "collapse-range"
	InsertRange   Capability = "insert-range"
	UnshareRange  Capability = "unshare-range"
	// SeekHole: SEEK_DATA and SEEK_HOLE know real holes.
	SeekHole Capability = "seek-hole"
	// SeekUnsynced: they take data written and not yet synced for data. Linux's FUSE client with a writeback cache does so
	// only if it does not ask the daemon, and then knows no holes.
	SeekUnsynced Capability = "seek-unsynced"
	// CopyRange: copy_file_range within the tree.
	CopyRange Capability = "copy-range"

	// RenameNoreplace, RenameExchange, RenameWhiteout: the flags of renameat2.
	RenameNoreplace Capability = "rename-noreplace"
	RenameExchange  Capability = "rename-exchange"
	RenameWhiteout  Capability = "rename-whiteout"

	// XattrUser, XattrTrusted, XattrSecurity: these namespaces of extended attributes.
	XattrUser     Capability = "xattr-user"
	XattrTrusted  Capability = "xattr-trusted"
	XattrSecurity Capability = "xattr-security"
	// TrustedHidden: others than root do not see the names of trusted attributes in a list. Linux's FUSE client shows
	// what the daemon lists, which is not told who asks.
	TrustedHidden Capability = "trusted-hidden"
	// XattrHuge: values of 64 KiB.
	XattrHuge Capability = "xattr-huge"
	// ACL: system.posix_acl_access and _default, obeyed and inherited.
	ACL Capability = "acl"

	// Flock, PosixLocks, OFDLocks: locks that conflict between open files.
	Flock      Capability = "flock"
	PosixLocks Capability = "posix-locks"
	OFDLocks   Capability = "ofd-locks"

	// FileFlags: FS_IOC_GETFLAGS and SETFLAGS, with APPEND and IMMUTABLE obeyed.
	FileFlags Capability = "file-flags"
	// ProjectID: FS_IOC_FSGETXATTR and FSSETXATTR.
	ProjectID Capability = "project-id"

	// Mmap: File.Mmap with MAP_SHARED and MAP_PRIVATE, coherent with read and write.
	Mmap Capability = "mmap"

	// SharedPages: who has written a part of a page reads it there while others write and read close by. Linux's FUSE client
	// drops pages when it finds the file changed, and reads them again, or ahead, although a write to them is still under way.
	SharedPages Capability = "shared-pages"

	// Btime: statx reports the time of birth.
	Btime Capability = "btime"
	// Atime: reading moves the access time at least by the rules of relatime.
	Atime Capability = "atime"
	// WriteTimes: every write moves the times of modification and change at once. With DAX in a guest they move when
	// the host notices, which may be never for pages that are mapped already.
	WriteTimes Capability = "write-times"
	// WideTimes: times before 1970 and after 2038.
	WideTimes Capability = "wide-times"
	// FineTimes: nanoseconds are kept.
	FineTimes Capability = "fine-times"
	// DirNlink: a directory's link count is 2 plus its subdirectories.
	DirNlink Capability = "dir-nlink"
	// BlockCount: st_blocks tells holes from data.
	BlockCount Capability = "block-count"
)

// Capabilities is all of them.
var Capabilities = []Capability{
	Callers, WriteCaller, SetattrCaller, DeviceNodes, SpecialOpen, Tmpfile, LinkOpen, DirectIO, LongLinks, HugeFiles,
	Fallocate, PunchHole, ZeroRange, CollapseRange, InsertRange, UnshareRange, SeekHole, SeekUnsynced, CopyRange,
	RenameNoreplace, RenameExchange, RenameWhiteout,
	XattrUser, XattrTrusted, XattrSecurity, TrustedHidden, XattrHuge, ACL,
	Flock, PosixLocks, OFDLocks, FileFlags, ProjectID, Mmap, SharedPages,
	Btime, Atime, WriteTimes, WideTimes, FineTimes, DirNlink, BlockCount,
}

// Inode flags of linux/fs.h.
const (
	ImmutableFlag = 0x10 // FS_IMMUTABLE_FL
	AppendFlag    = 0x20 // FS_APPEND_FL
	NodumpFlag    = 0x40 // FS_NODUMP_FL
)
