package frontend_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestDirtyLogNamesExactlyTheChangedPages compares all of guest memory before and after a read with what the log says.
func TestDirtyLogNamesExactlyTheChangedPages(t *testing.T) {
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			skipPacked(t, f.packed)
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte{0xa5}, 100_000), 0o600))
			c := daemontest.Mount(t, daemontest.Start(t, dir),
				frontend.Options{Packed: f.packed, Regions: frontend.PCRegions(32 << 20)}, fuseclient.Options{MaxData: 128 << 10})
			fe := c.Frontend()
			if fe.Features()&frontend.FLogAll == 0 || fe.Protocol()&frontend.ProtocolLogShmFD == 0 {
				if daemontest.Foreign() {
					t.Skip("this daemon does not log")
				}
				t.Fatal("the daemon does not log")
			}
			e, err := c.Lookup(root, 1, "f")
			must(t, err)
			o, err := c.Open(root, e.NodeId, unix.O_RDONLY, 0, false)
			must(t, err)

			log, err := fe.StartLog()
			must(t, err)
			alive(t, c)
			log.Clear()
			before := snapshot(fe)
			buf := make([]byte, 100_000)
			n, err := c.Read(root, e.NodeId, o.Fh, buf, 0, 0)
			if err != nil || n != len(buf) {
				t.Fatalf("read: %d, %v", n, err)
			}
			changed := 0
			for gpa, page := range snapshot(fe) {
				if page == before[gpa] || driverWrites(fe, gpa) {
					continue
				}
				changed++
				if !log.Dirty(gpa) && !bySubmit(fe, gpa, page, before[gpa]) {
					t.Errorf("the page at %#x was written and is not marked", gpa)
				}
			}
			if used := fe.Queue(1).UsedGPA; !f.packed && !log.Dirty(used) {
				t.Errorf("the used ring's page at %#x is not marked", used)
			}
			if marked := len(log.Pages()); marked > changed+8 {
				t.Errorf("%d pages are marked, %d changed", marked, changed)
			}

			must(t, fe.StopLog())
			alive(t, c)
			log.Clear()
			_, err = c.Read(root, e.NodeId, o.Fh, buf, 0, 0)
			must(t, err)
			if p := log.Pages(); len(p) != 0 && !daemontest.Foreign() {
				t.Errorf("pages %#x are marked though logging is off", p)
			}
		})
	}
}

// snapshot is a hash of every page of guest memory that is not zero.
func snapshot(fe *frontend.Frontend) map[uint64]uint64 {
	pages := map[uint64]uint64{}
	for _, r := range fe.Mem.Regions() {
		mem := fe.Mem.Bytes(r.GPA, r.Size)
		for off := uint64(0); off < r.Size; off += frontend.PageSize {
			h := uint64(14695981039346656037)
			for _, b := range mem[off:min(off+frontend.PageSize, r.Size)] {
				h = (h ^ uint64(b)) * 1099511628211
			}
			pages[r.GPA+off] = h
		}
	}
	return pages
}

// driverWrites says whether a page belongs to a ring's driver area.
func driverWrites(fe *frontend.Frontend, gpa uint64) bool {
	for i := range fe.NumQueues() {
		q := fe.Queue(i)
		if gpa == q.AvailGPA&^(frontend.PageSize-1) || gpa == q.DescGPA&^(frontend.PageSize-1) {
			return true
		}
	}
	return false
}

// bySubmit says whether a page that changed is one the driver itself filled in: a request or an indirect table.
func bySubmit(fe *frontend.Frontend, gpa, _, _ uint64) bool {
	mem := fe.Mem.Bytes(gpa, frontend.PageSize)
	const opRead = 15
	return mem[4] == opRead && mem[0] == 80 || mem[8] == 40 // a READ of 80 bytes, or a first descriptor of 40
}
