package behaviour

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// privChange is something that takes the set-id bits from an executable file.
type privChange struct {
	name  string
	needs []Capability
	owner bool // it is done by the owner, who is not root
	do    func(t *T, fs FS, f File) error
}

var privChanges = []privChange{
	{"a write by a user", nil, true, func(t *T, fs FS, f File) error { _, err := f.Write([]byte("x")); return err }},
	{"a pwrite by a user", nil, true, func(t *T, fs FS, f File) error { _, err := f.Pwrite([]byte("x"), 2); return err }},
	{"a truncate by a user", nil, true, func(t *T, fs FS, f File) error { return fs.Truncate("f", 1) }},
	{"a growing truncate by a user", nil, true, func(t *T, fs FS, f File) error { return fs.Truncate("f", 9000) }},
	{"an ftruncate by a user", nil, true, func(t *T, fs FS, f File) error { return f.Ftruncate(1) }},
	{"an open with O_TRUNC by a user", nil, true, func(t *T, fs FS, f File) error {
		return closed(fs.Open("f", unix.O_WRONLY|unix.O_TRUNC, 0))
	}},
	{"a create with O_TRUNC by a user", nil, true, func(t *T, fs FS, f File) error {
		return closed(fs.Open("f", unix.O_WRONLY|unix.O_TRUNC|unix.O_CREAT, 0o666))
	}},
	{"fallocate by a user", []Capability{Fallocate}, true, func(t *T, fs FS, f File) error {
		return f.Fallocate(0, 0, 10000)
	}},
	{"a punched hole by a user", []Capability{PunchHole}, true, func(t *T, fs FS, f File) error {
		return f.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	}},
	{"copy_file_range into it by a user", []Capability{CopyRange}, true, func(t *T, fs FS, f File) error {
		src := t.open(t.FS, "src", unix.O_RDONLY, 0)
		zero := int64(0)
		_, err := src.As(Cred{UID: 1000, GID: 1000}).CopyTo(f, &zero, &zero, 4)
		return err
	}},
	{"chown by root", nil, false, func(t *T, fs FS, f File) error { return fs.Chown("f", 1001, 1001) }},
	{"chown to the same owner by root", nil, false, func(t *T, fs FS, f File) error { return fs.Chown("f", 1000, 1000) }},
	{"chown of the owner alone by root", nil, false, func(t *T, fs FS, f File) error { return fs.Chown("f", 1001, -1) }},
	{"chown of the group alone by root", nil, false, func(t *T, fs FS, f File) error { return fs.Chown("f", -1, 1001) }},
	{"fchown by root", nil, false, func(t *T, fs FS, f File) error { return f.Fchown(1001, 1001) }},
	{"chgrp by the owner", nil, true, func(t *T, fs FS, f File) error { return fs.Chown("f", -1, 1000) }},
}

func killprivCases() (cases []testCase) {
	for _, c := range privChanges {
		for _, m := range []struct{ mode, want uint32 }{
			{0o6777, 0o777}, {0o4755, 0o755}, {0o2775, 0o775}, {0o7777, 0o1777},
			{0o4666, 0o666},
			{0o755, 0o755},
		} {
			cases = append(cases, testCase{
				fmt.Sprintf("%s leaves mode %04o as %04o", c.name, m.mode, m.want),
				append([]Capability{Callers}, c.needs...),
				func(t *T) {
					equal(t, afterChange(t, c, m.mode), m.want, "mode")
				}})
		}
	}
	for _, c := range dataChanges {
		for _, by := range privCallers {
			cases = append(cases, dataChangeCases(c, by)...)
		}
	}
	return append(cases, killprivSingles...)
}

// privCaller changes a file of user 1000 and group 2000.
type privCaller struct {
	name   string
	cred   Cred
	member bool
}

var privCallers = []privCaller{
	{"root", Cred{}, false},
	{"the owner", Cred{UID: 1000, GID: 1000}, false},
	{"the owner in the group", Cred{UID: 1000, GID: 1000, Groups: []uint32{2000}}, true},
	{"one whose group it is", Cred{UID: 1001, GID: 2000}, true},
	{"one with the group among others", Cred{UID: 1001, GID: 1001, Groups: []uint32{3, 2000}}, true},
	{"an outsider", Cred{UID: 1002, GID: 1002, Groups: []uint32{3}}, false},
}

// dataChange is something that takes set-id bits as a change of data does.
type dataChange struct {
	name  string
	needs []Capability
	group Capability // needed for the caller's groups to count
	do    func(t *T, fs FS, f File) error
}

var dataChanges = []dataChange{
	{"write", nil, WriteCaller, func(t *T, fs FS, f File) error { _, err := f.Write([]byte("x")); return err }},
	{"ftruncate", nil, SetattrCaller, func(t *T, fs FS, f File) error { return f.Ftruncate(9000) }},
	{"an open with O_TRUNC", nil, SetattrCaller, func(t *T, fs FS, f File) error {
		return closed(fs.Open("f", unix.O_RDWR|unix.O_TRUNC, 0))
	}},
	{"fallocate", []Capability{Fallocate}, "", func(t *T, fs FS, f File) error { return f.Fallocate(0, 0, 65536) }},
	{"a punched hole", []Capability{PunchHole}, "", func(t *T, fs FS, f File) error {
		return f.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 65536)
	}},
	{"a zeroed range", []Capability{ZeroRange}, "", func(t *T, fs FS, f File) error {
		return f.Fallocate(unix.FALLOC_FL_ZERO_RANGE, 0, 65536)
	}},
	{"copy_file_range", []Capability{CopyRange}, "", func(t *T, fs FS, f File) error {
		src := t.open(fs, "src", unix.O_RDONLY, 0)
		zero := int64(0)
		_, err := src.CopyTo(f, &zero, &zero, 4)
		return err
	}},
}

// dataChangeCases are the change by one caller on every mode, with those apart that need to know the caller's groups.
func dataChangeCases(c dataChange, by privCaller) (cases []testCase) {
	for _, g := range []struct {
		name  string
		needs []Capability
		modes []uint32
		kept  uint32 // by members of the group
	}{
		{"does to set-id bits what it should", nil, []uint32{0o4666, 0o6777, 0o2676, 0o777}, 0},
		{"decides on setgid without execution", []Capability{c.group}, []uint32{0o2666, 0o2766}, unix.S_ISGID},
		{"decides on both bits without execution", []Capability{c.group, SetattrCaller}, []uint32{0o6666, 0o6767}, unix.S_ISGID},
	} {
		needs := append([]Capability{Callers}, c.needs...)
		if by.member || c.group != "" && by.cred.UID != 0 {
			needs = append(needs, slices.DeleteFunc(slices.Clone(g.needs), func(c Capability) bool { return c == "" })...)
		}
		cases = append(cases, testCase{fmt.Sprintf("%s by %s %s", c.name, by.name, g.name), needs, func(t *T) {
			for _, mode := range g.modes {
				want := mode
				if by.cred.UID != 0 {
					want &^= unix.S_ISUID | unix.S_ISGID
				}
				if by.member {
					want |= mode & g.kept
				}
				t.file("f", []byte("some data"))
				t.file("src", []byte("more data"))
				t.own("f", 1000, 2000, 0o666)
				fs := t.As(by.cred)
				f := t.open(fs, "f", unix.O_RDWR, 0)
				t.ok(t.Chmod("f", mode), "chmod")
				t.ok(c.do(t, fs, f), "%s on mode %04o", c.name, mode)
				seen, err := t.Mode("f")
				t.ok(err, "statx")
				if seen &= 0o7777; seen != want {
					t.Errorf("mode %04o became %04o for those who ask for nothing else, want %04o", mode, seen, want)
				}
				if got := t.perm("f"); got != want {
					t.Errorf("mode %04o became %04o, want %04o", mode, got, want)
				}
				t.ok(t.Unlink("f"), "unlink")
			}
		}})
	}
	return cases
}

// afterChange makes a file of user 1000 with the mode, makes the change, and returns the mode.
func afterChange(t *T, c privChange, mode uint32) uint32 {
	t.file("f", []byte("some data"))
	t.file("src", []byte("more data"))
	t.own("f", 1000, 1000, 0o666)
	fs := t.FS
	if c.owner {
		fs = t.user(1000)
	}
	f := t.open(fs, "f", unix.O_RDWR, 0)
	t.ok(t.Chmod("f", mode), "chmod")
	t.ok(c.do(t, fs, f), "%s", c.name)
	return t.perm("f")
}

var killprivSingles = []testCase{
	{"a write by root leaves the set-id bits", []Capability{Callers}, func(t *T) {
		f := t.rw("f")
		t.own("f", 1000, 1000, 0o6755)
		t.write(f, []byte("x"))
		equal(t, t.perm("f"), 0o6755, "mode")
	}},
	{"a truncate by root leaves the set-id bits", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("x"))
		t.own("f", 1000, 1000, 0o6755)
		t.ok(t.Truncate("f", 0), "truncate")
		equal(t, t.perm("f"), 0o6755, "mode")
	}},
	{"a write of nothing leaves the set-id bits", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 1000, 0o6777)
		f := t.open(t.user(1000), "f", unix.O_WRONLY, 0)
		_, err := f.Write(nil)
		t.ok(err, "write")
		equal(t, t.perm("f"), 0o6777, "mode")
	}},
	{"chown by the owner, outside the group, takes setgid without execution", []Capability{Callers, SetattrCaller}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o2666)
		t.ok(t.user(1000).Chown("f", -1, 1000), "chown")
		equal(t, t.perm("f"), 0o666, "mode")
	}},
	{"chown by root leaves setgid without execution", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o2666)
		t.ok(t.Chown("f", 1001, 2001), "chown")
		equal(t, t.perm("f"), 0o2666, "mode")
	}},
	{"chown that names no id takes no set-id bits from the file of another", []Capability{Callers}, func(t *T) {
		t.file("f", nil)
		t.own("f", 1000, 2000, 0o6755)
		// Linux refuses it; FUSE's guest does not.
		if err := t.user(1001).Chown("f", -1, -1); err != nil {
			t.fails(err, "chown", unix.EPERM)
		}
		equal(t, t.perm("f"), 0o6755, "mode")
		f := t.open(t.FS, "f", unix.O_RDWR, 0)
		t.write(f, []byte("x"))
		t.ok(f.Ftruncate(1), "ftruncate")
		equal(t, t.perm("f"), 0o6755, "mode after changes by root")
		t.dir("d")
		t.own("d", 1000, 2000, 0o6777)
		t.ok(t.user(1001).Chown("d", -1, -1), "chown")
		equal(t, t.perm("d"), 0o6777, "mode of a directory")
	}},
	{"chown of a directory leaves the set-id bits", []Capability{Callers}, func(t *T) {
		t.dir("d")
		t.ok(t.Chmod("d", 0o6755), "chmod")
		t.ok(t.Chown("d", 1000, 1000), "chown")
		equal(t, t.perm("d"), 0o6755, "mode")
	}},
	{"reading and changing times leave the set-id bits", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("x"))
		t.own("f", 1000, 1000, 0o6777)
		f := t.open(t.user(1000), "f", unix.O_RDWR, 0)
		t.pread(f, 1, 0)
		t.ok(f.Futimens(nil), "futimens")
		t.ok(f.Fsync(), "fsync")
		t.ok(t.user(1000).Rename("f", "g", 0), "rename")
		t.ok(t.user(1000).Link("g", "f"), "link")
		equal(t, t.perm("f"), 0o6777, "mode")
	}},
	{"the bits stay away for all names and handles", []Capability{Callers}, func(t *T) {
		t.file("f", []byte("x"))
		t.ok(t.Link("f", "g"), "link")
		t.own("f", 1000, 1000, 0o6777)
		other := t.open(t.FS, "g", unix.O_RDONLY, 0)
		f := t.open(t.user(1000), "f", unix.O_WRONLY, 0)
		t.write(f, []byte("y"))
		equal(t, t.perm("g"), 0o777, "mode of the other name")
		equal(t, t.fstat(other).Mode&0o7777, 0o777, "mode by the other handle")
	}},
	{"a write takes a capability from a file", []Capability{XattrSecurity}, func(t *T) {
		f := t.rw("f")
		// struct vfs_cap_data, revision 2: effective, CAP_NET_RAW permitted
		value := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		t.ok(f.Fsetxattr("security.capability", value, 0), "fsetxattr")
		_, err := f.Fgetxattr("security.capability", nil)
		t.ok(err, "fgetxattr before")
		t.write(f, []byte("x"))
		_, err = f.Fgetxattr("security.capability", nil)
		t.fails(err, "fgetxattr after", unix.ENODATA)
	}},
	{"chown takes a capability from a file", []Capability{XattrSecurity, Callers}, func(t *T) {
		t.file("f", nil)
		value := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		t.ok(t.Setxattr("f", "security.capability", value, 0), "setxattr")
		t.ok(t.Chown("f", 5, 5), "chown")
		_, err := t.Getxattr("f", "security.capability", nil)
		t.fails(err, "getxattr", unix.ENODATA)
	}},
	{"truncate takes a capability from a file", []Capability{XattrSecurity}, func(t *T) {
		t.file("f", []byte("x"))
		value := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		t.ok(t.Setxattr("f", "security.capability", value, 0), "setxattr")
		t.ok(t.Truncate("f", 0), "truncate")
		_, err := t.Getxattr("f", "security.capability", nil)
		t.fails(err, "getxattr", unix.ENODATA)
	}},
}
