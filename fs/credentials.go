package fs

import (
	"golang.org/x/sys/unix"
)

const capFsetid = 4 // CAP_FSETID

// identity is whom the host shall take the thread for while it creates a file.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary groups that the guest named
	umask    uint32
	// keep is the capabilities that the thread keeps as another user than its
	// own, as bits of the first word.
	keep uint32
}

// credentials changes what one locked OS thread may do, and back. The changes
// are made by raw system calls: they touch the calling thread only.
type credentials struct {
	privileged bool // may take other users' identities
	uid, gid   uint32
	caps       [2]unix.CapUserData // of the thread as it started
	lowered    bool                // dropFsetid has to be undone
	joined     bool                // joinGroup has to be undone
}

func newCredentials() credentials {
	c := credentials{uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid())}
	if getCaps(&c.caps) {
		const setuidSetgid = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
		c.privileged = c.caps[0].Effective&setuidSetgid == setuidSetgid
	}
	if c.privileged {
		// Those of whoever started the daemon are not the guest's. A user
		// namespace may forbid it.
		_ = sysSetgroups(nil)
	}
	return c
}

// getCaps reads the capabilities of the calling thread.
func getCaps(caps *[2]unix.CapUserData) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&hdr, &caps[0]) == nil
}

// setCaps sets the capabilities of the calling thread only.
func setCaps(caps *[2]unix.CapUserData) unix.Errno {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return errnoOf(unix.Capset(&hdr, &caps[0]))
}

const keepID = ^uintptr(0)

// withIdentity runs call while the host takes the thread for t.id. However call
// ends, the thread is itself again after it. One that can't return to its own
// identity serves nothing more.
func (t *Thread) withIdentity(call func() unix.Errno) unix.Errno {
	defer func() {
		if !t.cred.restore(&t.id) {
			t.unfit = true
			t.fs.stats.Bugs.Add(1)
			t.fs.log.Error("a thread could not return to its own credentials and serves nothing more; restart the daemon")
		}
	}()
	if e := t.cred.assume(&t.id); e != 0 {
		return e
	}
	return call()
}

// assume gives the thread the identity id. restore must follow, also after an
// error, before the thread does anything else: withIdentity sees to it.
func (c *credentials) assume(id *identity) unix.Errno {
	if id.umask != 0 {
		unix.RawSyscall(unix.SYS_UMASK, uintptr(id.umask), 0, 0)
	}
	if !c.privileged {
		return 0
	}
	if len(id.groups) > 0 {
		if e := sysSetgroups(id.groups); e != 0 {
			return e
		}
	}
	if id.gid != c.gid {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keepID, uintptr(id.gid), keepID); e != 0 {
			return e
		}
	}
	if id.uid != c.uid {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keepID, uintptr(id.uid), keepID); e != 0 {
			return e
		}
		if id.keep != 0 {
			// The permitted set outlives a change of the effective uid alone.
			caps := c.caps
			caps[0].Effective &= id.keep
			caps[1].Effective = 0
			return setCaps(&caps)
		}
	}
	return 0
}

// restore undoes assume. It reports failure, after which the thread must not
// serve any further request.
func (c *credentials) restore(id *identity) bool {
	ok := true
	if id.umask != 0 {
		unix.RawSyscall(unix.SYS_UMASK, 0, 0, 0)
	}
	if !c.privileged {
		return true
	}
	if id.uid != c.uid {
		_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keepID, uintptr(c.uid), keepID)
		ok = ok && e == 0
		ok = setCaps(&c.caps) == 0 && ok
	}
	if id.gid != c.gid {
		_, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keepID, uintptr(c.gid), keepID)
		ok = ok && e == 0
	}
	if len(id.groups) > 0 {
		ok = sysSetgroups(nil) == 0 && ok
	}
	return ok
}

// dropFsetid takes CAP_FSETID from the thread, so that the host clears the
// set-user-ID and set-group-ID bits as it does for an ordinary writer.
func (c *credentials) dropFsetid() {
	caps := c.caps
	caps[0].Effective &^= 1 << capFsetid
	c.lowered = true
	setCaps(&caps)
}

// joinGroup makes gid the group that the thread has to the file system.
func (c *credentials) joinGroup(gid uint32) {
	c.joined = c.joined || gid != c.gid
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
}

// restoreCaps undoes dropFsetid and joinGroup.
func (c *credentials) restoreCaps() bool {
	if c.joined {
		unix.RawSyscall(unix.SYS_SETFSGID, uintptr(c.gid), 0, 0)
		c.joined = false
	}
	if c.lowered {
		c.lowered = setCaps(&c.caps) != 0
	}
	return !c.lowered
}
