package dax

import (
	"os"
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
