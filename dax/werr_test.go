package dax

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An error of writeback that nobody has asked for when the file leaves the window still reaches one FSYNC.
func TestForgottenFileHandsItsErrorOn(t *testing.T) {
	for _, want := range []unix.Errno{0, unix.ENOSPC} {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		file := newRealFile(7, fd, false)
		file.werr.Store(uint32(want))
		s := &server{files: map[uint64]*realFile{7: file}, exports: map[uint64]*export{7: {file}}}
		if err := s.call(&message{op: opForget, file: 7, fd: -1}); want == 0 && err != nil || want != 0 && err != want {
			t.Errorf("forgetting a file whose error is %d: %v", want, err)
		}
	}
	x := &inodeState{}
	x.lost.Store(uint32(unix.ENOSPC))
	ino := &Inode{}
	ino.x.Store(x)
	m := &Manager{}
	for _, want := range []error{unix.ENOSPC, nil} {
		if err := m.Sync(nil, ino); err != want {
			t.Errorf("Sync of an inode that is mapped no more: %v, want %v", err, want)
		}
	}
}

// A WRITE that is under way on a descriptor while another replaces it has its error told, and the no-write gate holds it back.
func TestReplacedDescriptorHandsItsErrorOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, onePage), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	s := newServer(mountConfig{window: RangeSize, segment: RangeSize})
	call := func(m message) error { return s.call(&m) }
	if err := call(message{op: opBind, file: 7, fd: open(unix.O_RDONLY)}); err != nil {
		t.Fatal(err)
	}
	pieces := s.resolve(span{0, onePage}, nil, false) // as a WRITE does
	old := pieces[0].file
	if err := call(message{op: opBind, file: 7, fd: open(unix.O_RDWR), flags: flagWritable}); err != nil {
		t.Fatal(err)
	}
	if old.writeBack(make([]byte, onePage), 0); s.files[7] == old {
		t.Error("the descriptor has not been replaced")
	}
	for _, want := range []error{unix.EBADF, nil} {
		if err := call(message{op: opError, file: 7, fd: -1}); err != want {
			t.Errorf("the error of the file is %v, want %v", err, want)
		}
	}
	freeze := message{op: opFreeze, fd: -1}
	if err := s.call(&freeze); err != nil {
		t.Fatal(err)
	}
	if err := call(message{op: opNoWrite, id: freeze.id, file: 7, fd: -1}); err != nil {
		t.Fatal(err)
	}
	if old.size.TryRLock() {
		t.Error("the gate does not hold back a WRITE to the descriptor that was replaced")
		old.size.RUnlock()
	}
	if err := call(message{op: opThaw, id: freeze.id, fd: -1}); err != nil {
		t.Error(err)
	}
	old.put()
	s.files[7].put()
}

func TestLostWritesAreToldByMount(t *testing.T) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatal(err)
	}
	s := newServer(mountConfig{window: RangeSize, segment: RangeSize})
	s.lost = make(map[uint64]unix.Errno)
	for i := range uint64(maxLost) {
		s.lost[1<<40+i] = unix.EIO
	}
	s.lose(newRealFile(7, fd, false), unix.ENOSPC)
	s.lose(newRealFile(8, fd, false), unix.EDQUOT)
	told := make(map[uint64]unix.Errno)
	for _, want := range []int{maxLost, 1, 0} {
		m := message{op: opLost, fd: -1}
		if err := s.call(&m); err != nil || len(m.values) != 2*want {
			t.Fatalf("%d values, %v; want those of %d mounts", len(m.values), err, want)
		}
		for v := m.values; len(v) > 0; v = v[2:] {
			told[v[0]] = unix.Errno(v[1])
		}
	}
	if len(told) != maxLost+1 || told[st.Mnt_id] != unix.ENOSPC {
		t.Errorf("of %d mounts; of the file's, %v and not the first error", len(told), told[st.Mnt_id])
	}
	unix.Close(fd)
}
