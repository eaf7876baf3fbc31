package behaviour

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// value is an extended attribute of the path, which is not followed.
func (t *T) value(path, name string) []byte {
	t.Helper()
	p := make([]byte, 70000)
	n, err := t.Lgetxattr(path, name, p)
	t.ok(err, "lgetxattr %s", name)
	return p[:n]
}

// attrs are the sorted names with the prefix.
func attrs(t *T, list func([]byte) (int, error), prefix string) []string {
	t.Helper()
	p := make([]byte, 65536)
	n, err := list(p)
	t.ok(err, "listxattr")
	names := []string{}
	for name := range strings.SplitSeq(string(p[:n]), "\x00") {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (t *T) wantAttrs(path string, want ...string) {
	t.Helper()
	got := attrs(t, func(p []byte) (int, error) { return t.Listxattr(path, p) }, "user.")
	if !slices.Equal(got, want) {
		t.Fatalf("attributes of %s: got %q, want %q", path, got, want)
	}
}

var xattrCases = []testCase{
	{"values of many sizes come back", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		for _, n := range []int{0, 1, 2, 7, 8, 100, 255, 256, 1000, 2000, 3000} {
			want := pattern(n, byte(n))
			t.ok(t.Setxattr("f", "user.a", want, 0), "setxattr of %d bytes", n)
			t.sameBytes(t.value("f", "user.a"), want, "value")
		}
	}},
	{"a value of 64 KiB comes back and a larger one is E2BIG", []Capability{XattrHuge}, func(t *T) {
		t.file("f", nil)
		want := pattern(65536, 3)
		t.ok(t.Setxattr("f", "user.a", want, 0), "setxattr")
		t.sameBytes(t.value("f", "user.a"), want, "value")
		t.fails(t.Setxattr("f", "user.a", make([]byte, 65537), 0), "setxattr", unix.E2BIG)
	}},
	{"a value over 64 KiB is E2BIG", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.fails(t.Setxattr("f", "user.a", make([]byte, 65537), 0), "setxattr", unix.E2BIG)
		t.fails(t.rw("f").Fsetxattr("user.a", make([]byte, 1<<20), 0), "fsetxattr", unix.E2BIG)
		t.wantAttrs("f")
	}},
	{"any byte can be in a value", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		want := make([]byte, 256)
		for i := range want {
			want[i] = byte(i)
		}
		t.ok(t.Setxattr("f", "user.a", want, 0), "setxattr")
		t.sameBytes(t.value("f", "user.a"), want, "value")
	}},
	{"an empty buffer asks for the size, a short one is ERANGE", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "user.a", []byte("12345"), 0), "setxattr")
		n, err := t.Getxattr("f", "user.a", nil)
		t.ok(err, "getxattr for the size")
		equal(t, n, 5, "size")
		_, err = t.Getxattr("f", "user.a", make([]byte, 4))
		t.fails(err, "getxattr into 4 bytes", unix.ERANGE)
		n, err = t.Getxattr("f", "user.a", make([]byte, 5))
		t.ok(err, "getxattr into 5 bytes")
		equal(t, n, 5, "size")
	}},
	{"an empty buffer asks for the size of the list, a short one is ERANGE", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "user.a", nil, 0), "setxattr")
		t.ok(t.Setxattr("f", "user.bb", nil, 0), "setxattr")
		n, err := t.Listxattr("f", nil)
		t.ok(err, "listxattr for the size")
		if n < len("user.a\x00user.bb\x00") {
			t.Fatalf("size of the list is %d", n)
		}
		_, err = t.Listxattr("f", make([]byte, 3))
		t.fails(err, "listxattr into 3 bytes", unix.ERANGE)
	}},
	{"an empty value is there", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "user.a", nil, 0), "setxattr")
		n, err := t.Getxattr("f", "user.a", make([]byte, 10))
		t.ok(err, "getxattr")
		equal(t, n, 0, "size")
		t.wantAttrs("f", "user.a")
	}},
	{"a missing attribute is ENODATA", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		_, err := t.Getxattr("f", "user.none", nil)
		t.fails(err, "getxattr", unix.ENODATA)
		_, err = t.Getxattr("f", "user.none", make([]byte, 10))
		t.fails(err, "getxattr", unix.ENODATA)
		t.fails(t.Removexattr("f", "user.none"), "removexattr", unix.ENODATA)
	}},
	{"CREATE of an existing one is EEXIST, REPLACE of a missing one ENODATA", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.fails(t.Setxattr("f", "user.a", []byte("1"), unix.XATTR_REPLACE), "replace", unix.ENODATA)
		t.ok(t.Setxattr("f", "user.a", []byte("2"), unix.XATTR_CREATE), "create")
		t.fails(t.Setxattr("f", "user.a", []byte("3"), unix.XATTR_CREATE), "create", unix.EEXIST)
		t.sameBytes(t.value("f", "user.a"), []byte("2"), "value")
		t.ok(t.Setxattr("f", "user.a", []byte("44"), unix.XATTR_REPLACE), "replace")
		t.sameBytes(t.value("f", "user.a"), []byte("44"), "value")
		t.fails(t.Setxattr("f", "user.a", nil, 4), "strange flag", unix.EINVAL)
	}},
	{"a value replaced by a shorter or longer one leaves nothing", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		for _, n := range []int{1000, 1, 2000, 10, 0, 500} {
			t.ok(t.Setxattr("f", "user.a", pattern(n, byte(n)), 0), "setxattr")
			t.sameBytes(t.value("f", "user.a"), pattern(n, byte(n)), "value")
		}
	}},
	{"many attributes are listed and removed", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		var want []string
		for i := range 30 {
			name := fmt.Sprintf("user.name%02d", i)
			t.ok(t.Setxattr("f", name, []byte(name), 0), "setxattr")
			want = append(want, name)
		}
		t.wantAttrs("f", want...)
		for i, name := range want {
			t.sameBytes(t.value("f", name), []byte(name), "value")
			if i%2 == 0 {
				t.ok(t.Removexattr("f", name), "removexattr")
			}
		}
		equal(t, len(attrs(t, func(p []byte) (int, error) { return t.Listxattr("f", p) }, "user.")), 15, "attributes left")
	}},
	{"a name of 255 bytes is kept and one of 256 is ERANGE", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		long := "user." + strings.Repeat("n", 250)
		t.ok(t.Setxattr("f", long, []byte("v"), 0), "setxattr")
		t.sameBytes(t.value("f", long), []byte("v"), "value")
		t.wantAttrs("f", long)
		t.fails(t.Setxattr("f", long+"n", []byte("v"), 0), "setxattr", unix.ERANGE)
		_, err := t.Getxattr("f", long+"n", nil)
		t.fails(err, "getxattr", unix.ERANGE)
		t.fails(t.Removexattr("f", long+"n"), "removexattr", unix.ERANGE)
	}},
	{"an empty name is ERANGE", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.fails(t.Setxattr("f", "", []byte("v"), 0), "setxattr", unix.ERANGE)
		_, err := t.Getxattr("f", "", nil)
		t.fails(err, "getxattr", unix.ERANGE)
	}},
	{"a name without a namespace is EOPNOTSUPP, with nothing behind it EINVAL", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		for _, name := range []string{"a", "none.a", "usera", "USER.a"} {
			t.fails(t.Setxattr("f", name, []byte("v"), 0), "setxattr of "+name, unix.EOPNOTSUPP)
		}
		t.fails(t.Setxattr("f", "user.", []byte("v"), 0), "setxattr", unix.EINVAL)
	}},
	{"odd names are names", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		names := []string{"user. ", "user.\xff", "user.a/b", "user.user.x", "user.é"}
		for _, n := range names {
			t.ok(t.Setxattr("f", n, []byte(n), 0), "setxattr of %q", n)
		}
		for _, n := range names {
			t.sameBytes(t.value("f", n), []byte(n), "value")
		}
	}},
	{"a handle and a path see the same attributes", []Capability{XattrUser}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Fsetxattr("user.a", []byte("1"), 0), "fsetxattr")
		t.sameBytes(t.value("f", "user.a"), []byte("1"), "value by path")
		t.ok(t.Setxattr("f", "user.a", []byte("22"), 0), "setxattr")
		p := make([]byte, 10)
		n, err := f.Fgetxattr("user.a", p)
		t.ok(err, "fgetxattr")
		equal(t, string(p[:n]), "22", "value by handle")
		t.ok(t.Removexattr("f", "user.a"), "removexattr")
		_, err = f.Fgetxattr("user.a", nil)
		t.fails(err, "fgetxattr", unix.ENODATA)
	}},
	{"a reading handle sets attributes where the mode allows it", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		f := t.open(t.FS, "f", unix.O_RDONLY, 0)
		t.ok(f.Fsetxattr("user.a", []byte("1"), 0), "fsetxattr")
		t.ok(f.Fremovexattr("user.a"), "fremovexattr")
	}},
	{"directories have attributes", []Capability{XattrUser}, func(t *T) {
		t.dir("d")
		t.ok(t.Setxattr("d", "user.a", []byte("v"), 0), "setxattr")
		t.file("d/f", nil)
		t.sameBytes(t.value("d", "user.a"), []byte("v"), "value")
		t.wantAttrs("d/f")
		d := t.opendir("d")
		t.ok(d.Fsetxattr("user.b", []byte("w"), 0), "fsetxattr")
		t.wantAttrs("d", "user.a", "user.b")
	}},
	{"user attributes of links and special files are EPERM", []Capability{XattrUser}, func(t *T) {
		t.symlink("x", "l")
		t.ok(t.Mknod("p", unix.S_IFIFO|0o666, 0), "mkfifo")
		t.ok(t.Mknod("s", unix.S_IFSOCK|0o666, 0), "mknod")
		for _, n := range []string{"l", "p", "s"} {
			t.fails(t.Lsetxattr(n, "user.a", []byte("v"), 0), "lsetxattr of "+n, unix.EPERM)
			_, err := t.Lgetxattr(n, "user.a", nil)
			t.fails(err, "lgetxattr of "+n, unix.ENODATA, unix.EPERM)
		}
	}},
	{"attributes through a link are those of the target", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.symlink("f", "l")
		t.ok(t.Setxattr("l", "user.a", []byte("v"), 0), "setxattr")
		t.sameBytes(t.value("f", "user.a"), []byte("v"), "value")
		t.wantAttrs("l", "user.a")
		n, err := t.Llistxattr("l", make([]byte, 100))
		t.ok(err, "llistxattr of the link")
		equal(t, n, 0, "size of the list")
	}},
	{"trusted attributes are root's", []Capability{XattrTrusted, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Chmod("f", 0o777), "chmod")
		t.ok(t.Setxattr("f", "trusted.a", []byte("v"), 0), "setxattr")
		t.sameBytes(t.value("f", "trusted.a"), []byte("v"), "value")
		fs := t.user(1000)
		t.fails(fs.Setxattr("f", "trusted.a", []byte("w"), 0), "setxattr by a user", unix.EPERM)
		_, err := fs.Getxattr("f", "trusted.a", nil)
		t.fails(err, "getxattr by a user", unix.ENODATA)
		t.fails(fs.Removexattr("f", "trusted.a"), "removexattr by a user", unix.EPERM)
		t.ok(t.Removexattr("f", "trusted.a"), "removexattr")
	}},
	{"trusted attributes are listed to root only", []Capability{XattrTrusted, TrustedHidden, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "trusted.a", []byte("v"), 0), "setxattr")
		equal(t, len(attrs(t, func(p []byte) (int, error) { return t.Listxattr("f", p) }, "trusted.")), 1, "names to root")
		user := t.user(1000)
		equal(t, len(attrs(t, func(p []byte) (int, error) { return user.Listxattr("f", p) }, "trusted.")), 0, "names to a user")
	}},
	{"links have trusted attributes", []Capability{XattrTrusted}, func(t *T) {
		t.symlink("x", "l")
		t.ok(t.Lsetxattr("l", "trusted.a", []byte("v"), 0), "lsetxattr")
		t.sameBytes(t.value("l", "trusted.a"), []byte("v"), "value")
		t.ok(t.Lremovexattr("l", "trusted.a"), "lremovexattr")
		_, err := t.Lgetxattr("l", "trusted.a", nil)
		t.fails(err, "lgetxattr", unix.ENODATA)
	}},
	{"fifos and sockets have trusted attributes", []Capability{XattrTrusted}, func(t *T) {
		t.ok(t.Mknod("p", unix.S_IFIFO|0o666, 0), "mkfifo")
		t.ok(t.Mknod("s", unix.S_IFSOCK|0o666, 0), "mknod")
		for _, n := range []string{"p", "s"} {
			t.ok(t.Lsetxattr(n, "trusted.a", []byte("v"), 0), "lsetxattr of %s", n)
			t.sameBytes(t.value(n, "trusted.a"), []byte("v"), "value")
		}
	}},
	{"security attributes are kept", []Capability{XattrSecurity}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "security.test", []byte("label"), 0), "setxattr")
		t.sameBytes(t.value("f", "security.test"), []byte("label"), "value")
		t.ok(t.Removexattr("f", "security.test"), "removexattr")
	}},
	{"user attributes follow the mode of the file", []Capability{XattrUser, Callers}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "user.a", []byte("v"), 0), "setxattr")
		fs := t.user(1000)
		t.ok(t.Chmod("f", 0o644), "chmod")
		_, err := fs.Getxattr("f", "user.a", nil)
		t.ok(err, "getxattr by a reader")
		t.fails(fs.Setxattr("f", "user.a", nil, 0), "setxattr by a reader", unix.EACCES)
		t.ok(t.Chmod("f", 0o602), "chmod")
		_, err = fs.Getxattr("f", "user.a", nil)
		t.fails(err, "getxattr by a writer", unix.EACCES)
		t.ok(fs.Setxattr("f", "user.a", nil, 0), "setxattr by a writer")
	}},
	{"user attributes of a sticky directory are its owner's", []Capability{XattrUser, Callers}, func(t *T) {
		t.dir("d")
		t.own("d", 1001, 1001, 0o1777)
		t.fails(t.user(1000).Setxattr("d", "user.a", nil, 0), "setxattr by another", unix.EPERM)
		t.ok(t.user(1001).Setxattr("d", "user.a", nil, 0), "setxattr by the owner")
	}},
	{"attributes go with rename and link and not with a new file", []Capability{XattrUser}, func(t *T) {
		t.file("a", nil)
		t.ok(t.Setxattr("a", "user.x", []byte("v"), 0), "setxattr")
		t.ok(t.Rename("a", "b", 0), "rename")
		t.ok(t.Link("b", "c"), "link")
		t.sameBytes(t.value("c", "user.x"), []byte("v"), "value")
		t.file("a", nil)
		t.wantAttrs("a")
		t.ok(t.Rename("a", "b", 0), "rename over")
		t.wantAttrs("b")
	}},
	{"attributes outlive writes, truncate and chmod", []Capability{XattrUser}, func(t *T) {
		f := t.rw("f")
		t.ok(f.Fsetxattr("user.a", []byte("v"), 0), "fsetxattr")
		t.write(f, pattern(10000, 1))
		t.ok(f.Ftruncate(0), "ftruncate")
		t.ok(f.Fchmod(0o600), "fchmod")
		t.sameBytes(t.value("f", "user.a"), []byte("v"), "value")
	}},
	{"a value beyond what the tree can hold is ENOSPC or E2BIG and the old one stays", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		t.ok(t.Setxattr("f", "user.a", []byte("old"), 0), "setxattr")
		if t.Lacks(XattrHuge) != "" {
			t.fails(t.Setxattr("f", "user.a", make([]byte, 65536), 0), "setxattr", unix.ENOSPC, unix.E2BIG)
			t.sameBytes(t.value("f", "user.a"), []byte("old"), "value")
		}
	}},
	{"concurrent writers leave one whole value", []Capability{XattrUser}, func(t *T) {
		t.file("f", nil)
		const writers = 4
		errs := make(chan error, writers)
		for w := range byte(writers) {
			go func() {
				var err error
				for range 50 {
					if err = t.FS.Setxattr("f", "user.a", bytes.Repeat([]byte{'a' + w}, 500), 0); err != nil {
						break
					}
				}
				errs <- err
			}()
		}
		for range writers {
			t.ok(<-errs, "setxattr")
		}
		v := t.value("f", "user.a")
		t.sameBytes(v, bytes.Repeat(v[:1], 500), "value")
	}},
}
