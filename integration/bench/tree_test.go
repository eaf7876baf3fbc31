package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRowsBeginWithTheDataInThePageCache(t *testing.T) {
	tr, err := newTree(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{readFile, writeFile, coldFile} {
		f, err := os.Open(tr.path(name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cached := func() uint64 {
			var s unix.Cachestat_t
			if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &s, 0); err != nil {
				t.Skipf("the kernel does not tell what is in its page cache: %v", err)
			}
			return s.Cache
		}
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		if before := cached(); before == dataSize/page {
			t.Skip("the files don't leave the page cache: the directory for temporary files is not on a disk")
		}
		if err := tr.warm(); err != nil {
			t.Fatal(err)
		}
		if after := cached(); after != dataSize/page {
			t.Errorf("%s: %d pages of %d are in the page cache", name, after, dataSize/page)
		}
	}
}
