package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// operations is the table of what a passthrough serves, by opcode. Anything
// else answers ENOSYS, which the guest remembers.
var operations [numOps]operation

func init() {
	op := func(code int, o operation) { operations[code] = o }

	op(opInit, operation{name: "INIT", args: inHeaderLen + 16, reply: sizeOf[fuse.InitOut](), run: (*Thread).init})
	op(opDestroy, operation{name: "DESTROY", args: inHeaderLen, run: (*Thread).destroy})
	op(opInterrupt, operation{name: "INTERRUPT", args: sizeOf[interruptIn](), run: (*Thread).interrupt, noReply: true})

	op(opLookup, operation{name: "LOOKUP", args: inHeaderLen, reply: sizeOf[fuse.EntryOut](), run: (*Thread).lookup})
	op(opForget, operation{name: "FORGET", args: sizeOf[fuse.ForgetIn](), run: (*Thread).forget, noReply: true})
	op(opBatchForget, operation{name: "BATCH_FORGET", args: sizeOf[batchForgetIn](), run: (*Thread).batchForget, noReply: true})

	op(opGetattr, operation{name: "GETATTR", args: sizeOf[fuse.GetAttrIn](), reply: sizeOf[fuse.AttrOut](), run: (*Thread).getattr})
	op(opSetattr, operation{name: "SETATTR", args: sizeOf[fuse.SetAttrIn](), reply: sizeOf[fuse.AttrOut](), run: (*Thread).setattr, changes: true})
	op(opStatx, operation{name: "STATX", args: sizeOf[fuse.StatxIn](), reply: sizeOf[fuse.StatxOut](), run: (*Thread).statx})
	op(opAccess, operation{name: "ACCESS", args: sizeOf[fuse.AccessIn](), run: (*Thread).access})
	op(opStatfs, operation{name: "STATFS", args: inHeaderLen, reply: sizeOf[fuse.StatfsOut](), run: (*Thread).statfs})
	op(opSyncfs, operation{name: "SYNCFS", args: sizeOf[syncfsIn](), run: (*Thread).syncfs, blocks: true})

	op(opReadlink, operation{name: "READLINK", args: inHeaderLen, run: (*Thread).readlink})
	op(opSymlink, operation{name: "SYMLINK", args: inHeaderLen, reply: sizeOf[fuse.EntryOut](), run: (*Thread).symlink, changes: true})
	op(opMknod, operation{name: "MKNOD", args: sizeOf[fuse.MknodIn](), reply: sizeOf[fuse.EntryOut](), run: (*Thread).mknod, changes: true})
	op(opMkdir, operation{name: "MKDIR", args: sizeOf[fuse.MkdirIn](), reply: sizeOf[fuse.EntryOut](), run: (*Thread).mkdir, changes: true})
	op(opUnlink, operation{name: "UNLINK", args: inHeaderLen, run: (*Thread).unlink, changes: true})
	op(opRmdir, operation{name: "RMDIR", args: inHeaderLen, run: (*Thread).rmdir, changes: true})
	op(opRename, operation{name: "RENAME", args: sizeOf[renameIn](), run: (*Thread).rename, changes: true})
	op(opRename2, operation{name: "RENAME2", args: sizeOf[fuse.RenameIn](), run: (*Thread).rename2, changes: true})
	op(opLink, operation{name: "LINK", args: sizeOf[fuse.LinkIn](), reply: sizeOf[fuse.EntryOut](), run: (*Thread).link, changes: true})

	op(opOpen, operation{name: "OPEN", args: sizeOf[fuse.OpenIn](), reply: sizeOf[fuse.OpenOut](), run: (*Thread).open})
	op(opCreate, operation{name: "CREATE", args: sizeOf[fuse.CreateIn](), reply: sizeOf[fuse.EntryOut]() + sizeOf[fuse.OpenOut](), run: (*Thread).create, changes: true})
	op(opTmpfile, operation{name: "TMPFILE", args: sizeOf[fuse.CreateIn](), reply: sizeOf[fuse.EntryOut]() + sizeOf[fuse.OpenOut](), run: (*Thread).tmpfile, changes: true})
	op(opRelease, operation{name: "RELEASE", args: sizeOf[fuse.ReleaseIn](), run: (*Thread).release})
	op(opFlush, operation{name: "FLUSH", args: sizeOf[fuse.FlushIn](), run: (*Thread).flush})
	op(opFsync, operation{name: "FSYNC", args: sizeOf[fuse.FsyncIn](), run: (*Thread).fsync, blocks: true})
	op(opRead, operation{name: "READ", args: sizeOf[fuse.ReadIn](), run: (*Thread).read, inPlace: true})
	op(opWrite, operation{name: "WRITE", args: sizeOf[fuse.WriteIn](), reply: sizeOf[fuse.WriteOut](), run: (*Thread).write, stream: true, changes: true})
	op(opLseek, operation{name: "LSEEK", args: sizeOf[fuse.LseekIn](), reply: sizeOf[fuse.LseekOut](), run: (*Thread).lseek})
	op(opFallocate, operation{name: "FALLOCATE", args: sizeOf[fuse.FallocateIn](), run: (*Thread).fallocate, blocks: true, changes: true})
	op(opCopyFileRange, operation{name: "COPY_FILE_RANGE", args: sizeOf[fuse.CopyFileRangeIn](), reply: sizeOf[fuse.WriteOut](), run: (*Thread).copyFileRange, blocks: true, changes: true})
	op(opCopyFileRange64, operation{name: "COPY_FILE_RANGE_64", args: sizeOf[fuse.CopyFileRangeIn](), reply: sizeOf[copyFileRangeOut](), run: (*Thread).copyFileRange64, blocks: true, changes: true})

	op(opOpendir, operation{name: "OPENDIR", args: sizeOf[fuse.OpenIn](), reply: sizeOf[fuse.OpenOut](), run: (*Thread).opendir})
	op(opReaddir, operation{name: "READDIR", args: sizeOf[fuse.ReadIn](), run: (*Thread).readdir, inPlace: true})
	op(opReaddirplus, operation{name: "READDIRPLUS", args: sizeOf[fuse.ReadIn](), run: (*Thread).readdirplus, inPlace: true})
	op(opReleasedir, operation{name: "RELEASEDIR", args: sizeOf[fuse.ReleaseIn](), run: (*Thread).release})
	op(opFsyncdir, operation{name: "FSYNCDIR", args: sizeOf[fuse.FsyncIn](), run: (*Thread).fsyncdir, blocks: true})

	op(opSetxattr, operation{name: "SETXATTR", args: sizeOf[setxattrCompatIn](), run: (*Thread).setxattr, changes: true})
	op(opGetxattr, operation{name: "GETXATTR", args: sizeOf[fuse.GetXAttrIn](), run: (*Thread).getxattr})
	op(opListxattr, operation{name: "LISTXATTR", args: sizeOf[fuse.GetXAttrIn](), run: (*Thread).listxattr})
	op(opRemovexattr, operation{name: "REMOVEXATTR", args: inHeaderLen, run: (*Thread).removexattr, changes: true})

	op(opGetlk, operation{name: "GETLK", args: sizeOf[fuse.LkIn](), reply: sizeOf[fuse.LkOut](), run: (*Thread).getlk})
	op(opSetlk, operation{name: "SETLK", args: sizeOf[fuse.LkIn](), run: (*Thread).setlk})
	op(opSetlkw, operation{name: "SETLKW", args: sizeOf[fuse.LkIn](), run: (*Thread).setlkw})
	op(opSetupmapping, operation{name: "SETUPMAPPING", args: sizeOf[setupmappingIn](), run: (*Thread).setupmapping})
	op(opRemovemapping, operation{name: "REMOVEMAPPING", args: inHeaderLen + 4, run: (*Thread).removemapping})
	op(opIoctl, operation{name: "IOCTL", args: sizeOf[fuse.IoctlIn](), reply: sizeOf[fuse.IoctlOut](), run: (*Thread).ioctl})
}

func lookupOperation(opcode uint32) *operation {
	if opcode >= numOps || operations[opcode].run == nil {
		return nil
	}
	return &operations[opcode]
}
