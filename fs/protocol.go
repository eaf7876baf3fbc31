package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// Opcodes of include/uapi/linux/fuse.h, protocol 7.45.
const (
	opLookup          = 1
	opForget          = 2
	opGetattr         = 3
	opSetattr         = 4
	opReadlink        = 5
	opSymlink         = 6
	opMknod           = 8
	opMkdir           = 9
	opUnlink          = 10
	opRmdir           = 11
	opRename          = 12
	opLink            = 13
	opOpen            = 14
	opRead            = 15
	opWrite           = 16
	opStatfs          = 17
	opRelease         = 18
	opFsync           = 20
	opSetxattr        = 21
	opGetxattr        = 22
	opListxattr       = 23
	opRemovexattr     = 24
	opFlush           = 25
	opInit            = 26
	opOpendir         = 27
	opReaddir         = 28
	opReleasedir      = 29
	opFsyncdir        = 30
	opGetlk           = 31
	opSetlk           = 32
	opSetlkw          = 33
	opAccess          = 34
	opCreate          = 35
	opInterrupt       = 36
	opBmap            = 37
	opDestroy         = 38
	opIoctl           = 39
	opPoll            = 40
	opNotifyReply     = 41
	opBatchForget     = 42
	opFallocate       = 43
	opReaddirplus     = 44
	opRename2         = 45
	opLseek           = 46
	opCopyFileRange   = 47
	opSetupmapping    = 48
	opRemovemapping   = 49
	opSyncfs          = 50
	opTmpfile         = 51
	opStatx           = 52
	opCopyFileRange64 = 53

	numOps = 54
)

const (
	protoMajor    = 7
	protoMinor    = 45
	protoMinorMin = 27

	inHeaderLen  = 40
	outHeaderLen = 16

	rootID = 1

	// maxWrite is the payload of the largest READ and WRITE.
	maxWrite = 1 << 20
	// mapAlignment is log2 of the window's ranges, FUSE_DAX_SHIFT in the guest.
	mapAlignment = 21
	// maxPages is maxWrite in pages, the unit of FUSE_MAX_PAGES.
	maxPages = maxWrite / 4096
)

// Flags and values that go-fuse does not export.
const (
	writeCache       = 1 << 0 // FUSE_WRITE_CACHE
	writeKillSuidgid = 1 << 2 // FUSE_WRITE_KILL_SUIDGID

	fsyncFdatasync = 1 << 0 // FUSE_FSYNC_FDATASYNC

	extGroups = 32 // FUSE_EXT_GROUPS
	maxSecctx = 31 // FUSE_MAX_NR_SECCTX
	nameMax   = 255
	// guestNameMax is the longest name that a path in a guest can hold: PATH_MAX less its NUL.
	guestNameMax = 4095
	invalidUID   = 0xffffffff
)

// The request bodies below are those that go-fuse keeps to itself or splits
// otherwise; each begins with the header, as go-fuse's do.
type (
	// batchForgetIn is struct fuse_batch_forget_in; forgetOnes follow it.
	batchForgetIn struct {
		fuse.InHeader
		Count uint32
		Dummy uint32
	}
	forgetOne struct {
		NodeID  uint64
		Nlookup uint64
	}
	// renameIn is struct fuse_rename_in, the body of FUSE_RENAME.
	renameIn struct {
		fuse.InHeader
		Newdir uint64
	}
	// setxattrCompatIn is fuse_setxattr_in without FUSE_SETXATTR_EXT.
	setxattrCompatIn struct {
		fuse.InHeader
		Size  uint32
		Flags uint32
	}
	interruptIn struct {
		fuse.InHeader
		Unique uint64
	}
	syncfsIn struct {
		fuse.InHeader
		Padding uint64
	}
	copyFileRangeOut struct {
		BytesCopied uint64
	}
	// setupmappingIn is struct fuse_setupmapping_in.
	setupmappingIn struct {
		fuse.InHeader
		Fh      uint64
		Foffset uint64
		Len     uint64
		Flags   uint64
		Moffset uint64
	}
	// direntHeader is struct fuse_dirent without the name.
	direntHeader struct {
		Ino     uint64
		Off     uint64
		NameLen uint32
		Typ     uint32
	}
)
