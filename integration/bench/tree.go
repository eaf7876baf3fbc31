package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is the shared directory that the workloads run on.
type tree struct {
	dir     string
	entries int      // files in names/
	names   []string // of them
}

const (
	page     = 4096
	dataSize = 64 << 20

	readFile   = "data"    // dataSize bytes of pattern
	writeFile  = "scratch" // dataSize bytes, to be overwritten
	coldFile   = "cold"    // as readFile; its pages are dropped
	xattrName  = "user.bench"
	namesDir   = "names"
	churnDir   = "churn"
	xattrBytes = 64
)

// word is what the pattern has at an offset that is a multiple of 8.
func word(off uint64) uint64 { return off*0x9e3779b97f4a7c15 + 1 }

// newTree fills dir, which is empty.
func newTree(dir string, entries int) (*tree, error) {
	t := &tree{dir: dir, entries: entries}
	buf := make([]byte, dataSize)
	for off := 0; off < len(buf); off += 8 {
		binary.LittleEndian.PutUint64(buf[off:], word(uint64(off)))
	}
	if err := os.WriteFile(t.path(readFile), buf, 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(t.path(coldFile), buf, 0o644); err != nil {
		return nil, err
	}
	clear(buf)
	if err := os.WriteFile(t.path(writeFile), buf, 0o644); err != nil {
		return nil, err
	}
	// Where the file system has no such attributes the row fails, and says so.
	unix.Setxattr(t.path(readFile), xattrName, t.xattr(), 0)
	for _, d := range []string{namesDir, churnDir} {
		if err := os.Mkdir(t.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		// A name's file has its number as size, by which a reply is known.
		t.names = append(t.names, fmt.Sprintf("file-%07d", i))
		f, err := os.Create(t.path(namesDir, t.names[i]))
		if err != nil {
			return nil, err
		}
		err = f.Truncate(int64(i))
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	unix.Sync()
	return t, nil
}

// warm has the data in the page cache, from which the host may have taken it since the last row that used it, and nothing
// left to write from the row before.
func (t *tree) warm() error {
	unix.Sync()
	for _, name := range []string{readFile, writeFile, coldFile} {
		f, err := os.Open(t.path(name))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) path(elem ...string) string {
	return filepath.Join(append([]string{t.dir}, elem...)...)
}

func (t *tree) xattr() []byte { return []byte(strings.Repeat("v", xattrBytes)) }

// pattern fills b with what a file of pattern has at off.
func pattern(b []byte, off uint64) {
	for at := 0; at+8 <= len(b); at += 8 {
		binary.LittleEndian.PutUint64(b[at:], word(off+uint64(at)))
	}
}
