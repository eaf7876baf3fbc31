package frontend_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestASizeThatTheGuestLearnsIsShown has somebody else append to a mapped file again and again. As soon as the guest knows
// of the new end the window has what is before it.
//
// To see it fail: in package fs, let showSize do nothing.
func TestASizeThatTheGuestLearnsIsShown(t *testing.T) {
	for _, backing := range backings {
		for _, how := range []string{"GETATTR", "LOOKUP"} {
			t.Run(backing+"/"+how, func(t *testing.T) {
				dir := t.TempDir()
				content := pattern(100, 1)
				must(t, os.WriteFile(filepath.Join(dir, "f"), content, 0o600))
				_, c := window(t, dir, backing, 64, frontend.Options{})
				e, err := c.Lookup(root, 1, "f")
				must(t, err)
				must(t, c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead|fuseclient.MapWrite, 0))
				file, err := os.OpenFile(filepath.Join(dir, "f"), os.O_WRONLY|os.O_APPEND, 0)
				must(t, err)
				defer file.Close()
				for i := range 100 {
					got := make([]byte, len(content))
					must(t, c.Frontend().Window.Load(got, 0)) // the last page is there, with zeroes behind the end
					more := pattern(70, byte(i))
					_, err := file.Write(more)
					must(t, err)
					content = append(content, more...)
					size := uint64(0)
					if how == "GETATTR" {
						a, err := c.Getattr(root, e.NodeId, nil)
						must(t, err)
						if size = a.Size; size != uint64(len(content)) {
							t.Fatalf("GETATTR tells %d bytes of %d", size, len(content))
						}
					} else {
						again, err := c.Lookup(root, 1, "f")
						must(t, err)
						size = again.Attr.Size
					}
					got = make([]byte, size)
					must(t, c.Frontend().Window.Load(got, 0))
					if !bytes.Equal(got, content[:size]) {
						t.Fatalf("after %d appends the guest was told of %d bytes, and the window has other ones", i+1, size)
					}
				}
			})
		}
	}
}

// TestSizeWhileAFileIsMappedAndUnmapped looks a file up while its first mapping is made and its last one ends.
func TestSizeWhileAFileIsMappedAndUnmapped(t *testing.T) {
	const size = 12345
	for _, backing := range backings {
		t.Run(backing, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "f"), pattern(size, 1), 0o600))
			_, c := window(t, dir, backing, 64, frontend.Options{})
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			done := make(chan error, 1)
			go func() {
				var err error
				for i := 0; i < 300 && err == nil; i++ {
					if err = c.Setupmapping(e.NodeId, 0, rangeSize, fuseclient.MapRead, 0); err == nil {
						err = c.Removemapping(e.NodeId, []fuseclient.Removal{{Moffset: 0, Len: rangeSize}})
					}
				}
				done <- err
			}()
			for {
				select {
				case err := <-done:
					must(t, err)
					return
				default:
				}
				again, err := c.Lookup(root, 1, "f")
				must(t, err)
				if again.Attr.Size != size {
					t.Fatalf("LOOKUP tells %d bytes of %d", again.Attr.Size, size)
				}
			}
		})
	}
}
