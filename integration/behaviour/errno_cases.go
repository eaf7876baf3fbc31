package behaviour

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pathOp is a call on one path. "src" is a file of its own for calls on two.
type pathOp struct {
	name    string
	follows bool // a symbolic link in the last place
	makes   bool // the last name, which must not be there unless overs
	overs   bool // an existing name is no error
	call    func(fs FS, path string) error
}

var pathOps = []pathOp{
	{"open", true, false, false, func(fs FS, p string) error { return closed(fs.Open(p, unix.O_RDONLY, 0)) }},
	{"open to write", true, false, false, func(fs FS, p string) error { return closed(fs.Open(p, unix.O_WRONLY, 0)) }},
	{"create", true, true, true, func(fs FS, p string) error {
		return closed(fs.Open(p, unix.O_CREAT|unix.O_WRONLY, 0o666))
	}},
	{"create exclusively", false, true, false, func(fs FS, p string) error {
		return closed(fs.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o666))
	}},
	{"stat", true, false, false, func(fs FS, p string) error { _, err := fs.Stat(p); return err }},
	{"lstat", false, false, false, func(fs FS, p string) error { _, err := fs.Lstat(p); return err }},
	{"statfs", true, false, false, func(fs FS, p string) error { _, err := fs.Statfs(p); return err }},
	{"access", true, false, false, func(fs FS, p string) error { return fs.Access(p, unix.F_OK) }},
	{"chmod", true, false, false, func(fs FS, p string) error { return fs.Chmod(p, 0o600) }},
	{"chown", true, false, false, func(fs FS, p string) error { return fs.Chown(p, -1, -1) }},
	{"lchown", false, false, false, func(fs FS, p string) error { return fs.Lchown(p, -1, -1) }},
	{"utimens", true, false, false, func(fs FS, p string) error { return fs.Utimens(p, nil, 0) }},
	{"lutimens", false, false, false, func(fs FS, p string) error { return fs.Utimens(p, nil, unix.AT_SYMLINK_NOFOLLOW) }},
	{"truncate", true, false, false, func(fs FS, p string) error { return fs.Truncate(p, 0) }},
	{"readlink", false, false, false, func(fs FS, p string) error { _, err := fs.Readlink(p); return err }},
	{"mkdir", false, true, false, func(fs FS, p string) error { return fs.Mkdir(p, 0o777) }},
	{"mknod", false, true, false, func(fs FS, p string) error { return fs.Mknod(p, unix.S_IFIFO|0o666, 0) }},
	{"symlink", false, true, false, func(fs FS, p string) error { return fs.Symlink("src", p) }},
	{"link from", false, false, false, func(fs FS, p string) error { return fs.Link(p, "new") }},
	{"link to", false, true, false, func(fs FS, p string) error { return fs.Link("src", p) }},
	{"unlink", false, false, false, func(fs FS, p string) error { return fs.Unlink(p) }},
	{"rmdir", false, false, false, func(fs FS, p string) error { return fs.Rmdir(p) }},
	{"rename from", false, false, false, func(fs FS, p string) error { return fs.Rename(p, "new", 0) }},
	{"rename to", false, true, true, func(fs FS, p string) error { return fs.Rename("src", p, 0) }},
	{"getxattr", true, false, false, func(fs FS, p string) error { _, err := fs.Getxattr(p, "user.a", nil); return err }},
	{"lgetxattr", false, false, false, func(fs FS, p string) error { _, err := fs.Lgetxattr(p, "user.a", nil); return err }},
	{"setxattr", true, false, false, func(fs FS, p string) error { return fs.Setxattr(p, "user.a", nil, 0) }},
	{"lsetxattr", false, false, false, func(fs FS, p string) error { return fs.Lsetxattr(p, "user.a", nil, 0) }},
	{"listxattr", true, false, false, func(fs FS, p string) error { _, err := fs.Listxattr(p, nil); return err }},
	{"llistxattr", false, false, false, func(fs FS, p string) error { _, err := fs.Llistxattr(p, nil); return err }},
	{"removexattr", true, false, false, func(fs FS, p string) error { return fs.Removexattr(p, "user.a") }},
	{"lremovexattr", false, false, false, func(fs FS, p string) error { return fs.Lremovexattr(p, "user.a") }},
}

func closed(f File, err error) error {
	if err != nil {
		return err
	}
	return f.Close()
}

// badPath is a path that cannot be, and what every call of a kind says of it.
type badPath struct {
	name  string
	path  string
	want  unix.Errno
	user  bool // the caller is not root
	holds func(op pathOp) bool
}

func always(pathOp) bool { return true }

func called(names ...string) func(pathOp) bool {
	return func(op pathOp) bool { return slices.Contains(names, op.name) }
}

var badPaths = []badPath{
	{"an empty path", "", unix.ENOENT, false, always},
	{"below a missing directory", "none/x", unix.ENOENT, false, always},
	{"below a dangling link", "dangling/x", unix.ENOENT, false, always},
	{"below a file", "file/x", unix.ENOTDIR, false, always},
	{"below a link to a file", "tofile/x", unix.ENOTDIR, false, always},
	{"below a fifo", "fifo/x", unix.ENOTDIR, false, always},
	{"a name of 256 bytes", strings.Repeat("n", 256), unix.ENAMETOOLONG, false, always},
	{"below a name of 256 bytes", strings.Repeat("n", 256) + "/x", unix.ENAMETOOLONG, false, always},
	{"a path of 4096 bytes", strings.Repeat("./", 2047) + "xx", unix.ENAMETOOLONG, false, always},
	{"below a loop of links", "loop/x", unix.ELOOP, false, always},
	{"below a directory that cannot be searched", "closed/x", unix.EACCES, true, always},
	{"a loop of links", "loop", unix.ELOOP, false, func(op pathOp) bool { return op.follows }},
	{"a missing name", "none", unix.ENOENT, false, func(op pathOp) bool { return !op.makes }},
	{"a dangling link", "dangling", unix.ENOENT, false, func(op pathOp) bool { return op.follows && !op.makes }},
	{"an existing file", "file", unix.EEXIST, false, func(op pathOp) bool { return op.makes && !op.overs }},
	{"an existing directory", "dir", unix.EEXIST, false, func(op pathOp) bool { return op.makes && !op.overs }},
	{"an existing dangling link", "dangling", unix.EEXIST, false, func(op pathOp) bool { return op.makes && !op.overs }},
	{"a dot", ".", unix.EEXIST, false, called("mkdir", "mknod", "symlink", "link to")},
	{"a file and a slash", "file/", unix.ENOTDIR, false, func(op pathOp) bool { return !op.makes || op.name == "rename to" }},
	{"an existing file and a slash", "file/", unix.EEXIST, false, called("mkdir", "mknod", "symlink", "link to")},
	{"an existing file and a slash", "file/", unix.EISDIR, false, called("create", "create exclusively")},
	{"a missing name and a slash", "none/", unix.ENOENT, false, called("mknod", "symlink", "link to", "unlink", "rmdir",
		"stat", "lstat", "open")},
	{"a missing name and a slash", "none/", unix.ENOTDIR, false, called("rename to")},
	{"a directory", "dir", unix.EISDIR, false, called("open to write", "create", "truncate", "unlink", "rename to")},
	{"a directory", "dir", unix.EPERM, false, called("link from")},
	{"a directory", "dir", unix.EINVAL, false, called("readlink")},
	{"a file", "file", unix.EINVAL, false, called("readlink")},
	{"a file", "file", unix.ENOTDIR, false, called("rmdir")},
	{"a link to a directory", "todir", unix.ENOTDIR, false, called("rmdir")},
	{"a full directory", "full", unix.ENOTEMPTY, false, called("rmdir")},
	{"a dot", ".", unix.EINVAL, false, called("rmdir")},
	{"a dot", ".", unix.EISDIR, false, called("unlink")},
	{"two dots", "dir/..", unix.ENOTEMPTY, false, called("rmdir")},
	{"a dot", ".", unix.EBUSY, false, called("rename from", "rename to")},
	{"two dots", "dir/..", unix.EBUSY, false, called("rename from", "rename to")},
	{"in a read-only directory of another", "readonly/x", unix.EACCES, true, func(op pathOp) bool { return op.makes }},
	{"a file in a read-only directory of another", "readonly/file", unix.EACCES, true, called("unlink", "rename from")},
	{"a directory in a read-only directory of another", "readonly/dir", unix.EACCES, true, called("rmdir", "rename from")},
	{"a file of another", "readonly/file", unix.EPERM, true, called("chmod")},
}

func errnoCases() (cases []testCase) {
	for _, bad := range badPaths {
		for _, op := range pathOps {
			if !bad.holds(op) {
				continue
			}
			var needs []Capability
			if bad.user {
				needs = []Capability{Callers}
			}
			name := op.name + " of " + bad.name + " is " + unix.ErrnoName(bad.want)
			cases = append(cases, testCase{name, needs, func(t *T) {
				fs := badPathTree(t, bad.user)
				t.fails(op.call(fs, bad.path), op.name, bad.want)
				if op.makes {
					t.wantNames("dir")
				}
			}})
		}
	}
	return cases
}

// badPathTree makes what the bad paths speak of.
func badPathTree(t *T, user bool) FS {
	for _, f := range []string{"src", "file"} {
		t.file(f, []byte("x"))
	}
	t.dir("dir")
	t.dir("full")
	t.dir("full/sub")
	t.symlink("file", "tofile")
	t.symlink("dir", "todir")
	t.symlink("nowhere", "dangling")
	t.symlink("loop", "loop")
	t.ok(t.Mknod("fifo", unix.S_IFIFO|0o666, 0), "mknod")
	t.dir("readonly")
	t.file("readonly/file", nil)
	t.dir("readonly/dir")
	t.ok(t.Chmod("readonly", 0o755), "chmod")
	t.dir("closed")
	t.file("closed/x", nil)
	t.ok(t.Chmod("closed", 0o700), "chmod")
	if !user {
		return t.FS
	}
	t.ok(t.Chown("src", 1000, 1000), "chown")
	return t.user(1000)
}
