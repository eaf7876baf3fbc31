package behaviour

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// aclEntry is one entry of an access control list as linux/posix_acl_xattr.h has it.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	aclNoID    = ^uint32(0)
)

func aclBytes(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// aclFor lets one user and one group have what perm says.
func aclFor(uid, gid uint32, perm uint16) []byte {
	return aclBytes(aclEntry{aclUserObj, 6, aclNoID}, aclEntry{aclUser, perm, uid}, aclEntry{aclGroupObj, 4, aclNoID},
		aclEntry{aclGroup, perm, gid}, aclEntry{aclMask, 7, aclNoID}, aclEntry{aclOther, 0, aclNoID})
}

var aclCases = []testCase{
	{"a list comes back as it was set", []Capability{ACL}, func(t *T) {
		t.file("f", nil)
		want := aclFor(1000, 2000, 6)
		t.ok(t.Setxattr("f", aclAccess, want, 0), "setxattr")
		t.sameBytes(t.value("f", aclAccess), want, "list")
		equal(t, t.perm("f"), 0o670, "mode, whose group bits are the mask")
	}},
	{"a list lets a named user in", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Chmod("f", 0o600), "chmod")
		_, err := t.user(1000).Open("f", unix.O_RDWR, 0)
		t.fails(err, "open before", unix.EACCES)
		t.ok(t.Setxattr("f", aclAccess, aclFor(1000, 2000, 6), 0), "setxattr")
		t.open(t.user(1000), "f", unix.O_RDWR, 0)
		_, err = t.user(1001).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "open by another", unix.EACCES)
	}},
	{"a list lets a named group in", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", aclAccess, aclFor(1000, 2000, 6), 0), "setxattr")
		t.open(t.user(1001, 2000), "f", unix.O_RDWR, 0)
		t.open(t.As(Cred{UID: 1001, GID: 2000}), "f", unix.O_RDWR, 0)
		_, err := t.user(1001, 2001).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "open by another group", unix.EACCES)
	}},
	{"a list shuts a named user out", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		acl := aclBytes(aclEntry{aclUserObj, 6, aclNoID}, aclEntry{aclUser, 0, 1000}, aclEntry{aclGroupObj, 6, aclNoID},
			aclEntry{aclMask, 6, aclNoID}, aclEntry{aclOther, 6, aclNoID})
		t.ok(t.Setxattr("f", aclAccess, acl, 0), "setxattr")
		_, err := t.user(1000).Open("f", unix.O_RDONLY, 0)
		t.fails(err, "open by the user", unix.EACCES)
		t.open(t.user(1001), "f", unix.O_RDWR, 0)
	}},
	{"chmod sets the mask, which limits named users", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", aclAccess, aclFor(1000, 2000, 6), 0), "setxattr")
		t.ok(t.Chmod("f", 0o640), "chmod")
		_, err := t.user(1000).Open("f", unix.O_RDWR, 0)
		t.fails(err, "open to write", unix.EACCES)
		t.open(t.user(1000), "f", unix.O_RDONLY, 0)
		want := aclFor(1000, 2000, 6)
		binary.LittleEndian.PutUint16(want[4+4*8+2:], 4)
		t.sameBytes(t.value("f", aclAccess), want, "list after chmod")
	}},
	{"a list of the three classes is the mode and leaves no list", []Capability{ACL}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", aclAccess, aclFor(1000, 2000, 6), 0), "setxattr")
		t.ok(t.Setxattr("f", aclAccess, aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclGroupObj, 5, aclNoID},
			aclEntry{aclOther, 1, aclNoID}), 0), "setxattr of a minimal list")
		equal(t, t.perm("f"), 0o751, "mode")
		_, err := t.Getxattr("f", aclAccess, nil)
		t.fails(err, "getxattr", unix.ENODATA)
	}},
	{"a removed list is gone", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", aclAccess, aclFor(1000, 2000, 6), 0), "setxattr")
		t.ok(t.Removexattr("f", aclAccess), "removexattr")
		_, err := t.Getxattr("f", aclAccess, nil)
		t.fails(err, "getxattr", unix.ENODATA)
		_, err = t.user(1000, 3).Open("f", unix.O_WRONLY, 0)
		if t.perm("f")&0o002 == 0 {
			t.fails(err, "open", unix.EACCES)
		}
	}},
	{"a default list is inherited by files and directories", []Capability{ACL}, func(t *T) {
		t.dir("d")
		def := aclFor(1000, 2000, 7)
		t.ok(t.Setxattr("d", aclDefault, def, 0), "setxattr")
		t.ok(t.Mkdir("d/sub", 0o777), "mkdir")
		t.sameBytes(t.value("d/sub", aclDefault), def, "default list of the new directory")
		t.file("d/f", nil)
		list := t.value("d/f", aclAccess)
		if len(list) != len(def) {
			t.Fatalf("list of the new file has %d bytes, want %d", len(list), len(def))
		}
		_, err := t.Getxattr("d/f", aclDefault, nil)
		t.fails(err, "default list of a file", unix.ENODATA, unix.EOPNOTSUPP)
	}},
	{"a default list stands in for the mask of the caller", []Capability{ACL}, func(t *T) {
		t.dir("d")
		def := aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclGroupObj, 7, aclNoID}, aclEntry{aclOther, 7, aclNoID})
		t.ok(t.Setxattr("d", aclDefault, def, 0), "setxattr")
		t.open(t.Umask(0o077), "d/f", unix.O_CREAT|unix.O_WRONLY, 0o666)
		equal(t, t.perm("d/f"), 0o666, "mode of the file")
		t.ok(t.Umask(0o077).Mkdir("d/s", 0o755), "mkdir")
		equal(t, t.perm("d/s"), 0o755, "mode of the directory")
		t.open(t.Umask(0o077), "g", unix.O_CREAT|unix.O_WRONLY, 0o666)
		equal(t, t.perm("g"), 0o600, "mode of a file elsewhere")
	}},
	{"the inherited list is cut by the mode of the create", []Capability{ACL, Callers}, func(t *T) {
		t.dir("d")
		t.ok(t.Setxattr("d", aclDefault, aclFor(1000, 2000, 7), 0), "setxattr")
		t.open(t.FS, "d/f", unix.O_CREAT|unix.O_WRONLY, 0o640)
		equal(t, t.perm("d/f"), 0o640, "mode")
		t.open(t.user(1000), "d/f", unix.O_RDONLY, 0)
		_, err := t.user(1000).Open("d/f", unix.O_WRONLY, 0)
		t.fails(err, "open to write", unix.EACCES)
	}},
	{"a default list of a file is an error", []Capability{ACL}, func(t *T) {
		t.file("f", nil)
		t.fails(t.Setxattr("f", aclDefault, aclFor(1000, 2000, 7), 0), "setxattr", unix.EACCES, unix.EOPNOTSUPP)
	}},
	{"a broken list is EINVAL", []Capability{ACL}, func(t *T) {
		t.file("f", nil)
		for name, b := range map[string][]byte{
			"odd size":         aclFor(1, 1, 7)[:30],
			"no other":         aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclGroupObj, 7, aclNoID}),
			"user and no mask": aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclUser, 7, 5}, aclEntry{aclGroupObj, 7, aclNoID}, aclEntry{aclOther, 7, aclNoID}),
			"strange tag":      aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{0x40, 7, aclNoID}, aclEntry{aclGroupObj, 7, aclNoID}, aclEntry{aclOther, 7, aclNoID}),
			"strange right":    aclBytes(aclEntry{aclUserObj, 8, aclNoID}, aclEntry{aclGroupObj, 7, aclNoID}, aclEntry{aclOther, 7, aclNoID}),
		} {
			t.fails(t.Setxattr("f", aclAccess, b, 0), name, unix.EINVAL)
		}
		b := aclFor(1, 1, 7)
		b[0] = 9
		t.fails(t.Setxattr("f", aclAccess, b, 0), "strange version", unix.EOPNOTSUPP, unix.EINVAL)
	}},
	{"a list is set by the owner only", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 1000, 0o666)
		t.fails(t.user(1001).Setxattr("f", aclAccess, aclFor(1001, 1001, 7), 0), "setxattr by another", unix.EPERM)
		t.ok(t.user(1000).Setxattr("f", aclAccess, aclFor(1001, 1001, 7), 0), "setxattr by the owner")
		t.fails(t.user(1001).Removexattr("f", aclAccess), "removexattr by another", unix.EPERM)
		t.ok(t.user(1000).Removexattr("f", aclAccess), "removexattr by the owner")
	}},
	{"a list set by an owner outside the group drops setgid", []Capability{ACL, Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o2775)
		t.ok(t.user(1000).Setxattr("f", aclAccess, aclFor(1001, 1001, 7), 0), "setxattr")
		equal(t, t.perm("f")&0o2000, 0, "setgid bit")
	}},
	{"lists are in the list of attributes", []Capability{ACL}, func(t *T) {
		t.dir("d")
		t.ok(t.Setxattr("d", aclAccess, aclFor(1, 2, 7), 0), "setxattr")
		t.ok(t.Setxattr("d", aclDefault, aclFor(1, 2, 7), 0), "setxattr")
		got := attrs(t, func(p []byte) (int, error) { return t.Listxattr("d", p) }, "system.")
		if !slices.Equal(got, []string{aclAccess, aclDefault}) {
			t.Fatalf("listed %q", got)
		}
	}},
	{"a list of a link is EOPNOTSUPP", []Capability{ACL}, func(t *T) {
		t.symlink("x", "l")
		t.fails(t.Lsetxattr("l", aclAccess, aclFor(1, 2, 7), 0), "lsetxattr", unix.EOPNOTSUPP)
	}},
	{"a directory's list governs search in it", []Capability{ACL, Callers}, func(t *T) {
		t.dir("d")
		t.file("d/f", nil)
		acl := aclBytes(aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclUser, 1, 1000}, aclEntry{aclGroupObj, 0, aclNoID},
			aclEntry{aclMask, 7, aclNoID}, aclEntry{aclOther, 0, aclNoID})
		t.ok(t.Setxattr("d", aclAccess, acl, 0), "setxattr")
		_, err := t.user(1000).Lstat("d/f")
		t.ok(err, "lstat by the named user")
		_, err = t.user(1000).Open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.fails(err, "open by the named user", unix.EACCES)
		_, err = t.user(1001).Lstat("d/f")
		t.fails(err, "lstat by another", unix.EACCES)
	}},
}
