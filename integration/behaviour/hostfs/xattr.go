package hostfs

import "golang.org/x/sys/unix"

// count makes a call that returns a size.
func (c caller) count(fn func() (int, error)) (n int, err error) {
	err = c.do(func() (err error) {
		n, err = fn()
		return err
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// Getxattr implements behaviour.FS.
func (f *FS) Getxattr(path, name string, dst []byte) (int, error) {
	return f.as.count(func() (int, error) { return unix.Getxattr(f.path(path), name, dst) })
}

// Lgetxattr implements behaviour.FS.
func (f *FS) Lgetxattr(path, name string, dst []byte) (int, error) {
	return f.as.count(func() (int, error) { return unix.Lgetxattr(f.path(path), name, dst) })
}

// Setxattr implements behaviour.FS.
func (f *FS) Setxattr(path, name string, value []byte, flags int) error {
	return f.as.do(func() error { return unix.Setxattr(f.path(path), name, value, flags) })
}

// Lsetxattr implements behaviour.FS.
func (f *FS) Lsetxattr(path, name string, value []byte, flags int) error {
	return f.as.do(func() error { return unix.Lsetxattr(f.path(path), name, value, flags) })
}

// Listxattr implements behaviour.FS.
func (f *FS) Listxattr(path string, dst []byte) (int, error) {
	return f.as.count(func() (int, error) { return unix.Listxattr(f.path(path), dst) })
}

// Llistxattr implements behaviour.FS.
func (f *FS) Llistxattr(path string, dst []byte) (int, error) {
	return f.as.count(func() (int, error) { return unix.Llistxattr(f.path(path), dst) })
}

// Removexattr implements behaviour.FS.
func (f *FS) Removexattr(path, name string) error {
	return f.as.do(func() error { return unix.Removexattr(f.path(path), name) })
}

// Lremovexattr implements behaviour.FS.
func (f *FS) Lremovexattr(path, name string) error {
	return f.as.do(func() error { return unix.Lremovexattr(f.path(path), name) })
}

func (h *file) Fgetxattr(name string, dst []byte) (int, error) {
	return h.as.count(func() (int, error) { return unix.Fgetxattr(h.fd, name, dst) })
}

func (h *file) Fsetxattr(name string, value []byte, flags int) error {
	return h.as.do(func() error { return unix.Fsetxattr(h.fd, name, value, flags) })
}

func (h *file) Flistxattr(dst []byte) (int, error) {
	return h.as.count(func() (int, error) { return unix.Flistxattr(h.fd, dst) })
}

func (h *file) Fremovexattr(name string) error {
	return h.as.do(func() error { return unix.Fremovexattr(h.fd, name) })
}
