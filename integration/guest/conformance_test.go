package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// long says whether this is `make conformance`, which works in every mode and in larger sizes than `make test`.
func long() bool { return os.Getenv("CONFORMANCE") == "long" }

// mode is a way to serve and to mount a share.
type mode struct {
	name        string
	options     []string // of the daemon, beside those of every mode
	packed, dax bool
	noMaps      bool // the guest's kernel refuses to map a file shared
	noHoles     bool // the guest takes all of a file for data
	noNames     bool // the guest keeps no names: it looks up each again, and its file handles end with the inode's use
}

var modes = []mode{
	{name: "default"},
	{name: "packed", packed: true},
	{name: "writeback", options: []string{"--cache=always", "--writeback"}, noHoles: true},
	{name: "cache-never", options: []string{"--cache=never"}, noMaps: true, noNames: true},
	{name: "dax", options: []string{"--dax-window=64M"}, dax: true},
}

// suite is a guest that has a share in one of the modes.
type suite struct {
	mode
	vm  *guest.VM
	dir string // of the host
}

// size is how much to do: little in `make test`, much in `make conformance`, and there less in the modes after the first.
func (s *suite) size(short, other, most int) int {
	switch {
	case !long():
		return short
	case s.name != modes[0].name:
		return other
	}
	return most
}

// parts are what is done in each mode. Where a part says what Linux or a program gets wrong itself, that was seen on the
// guest's tmpfs too.
var parts = []struct {
	name string
	run  func(*suite, *testing.T)
}{
	{"fallocate", (*suite).fallocate},
	{"fio", (*suite).fio},
	{"fio-one-file", (*suite).fioOneFile},
	{"overlay", (*suite).overlay},
	{"unpack", (*suite).unpack},
	{"git", (*suite).git},
	{"sqlite", (*suite).sqlite},
	{"dbench", (*suite).dbench},
	{"fs_mark", (*suite).fsMark},
	{"stress-ng", (*suite).stressNG},
}

// TestConformance uses the share as users of a disk's file system do, with programs that nobody here wrote. `make
// conformance` does it in each mode. Another daemon than this tree's is tested in the first only.
func TestConformance(t *testing.T) {
	for _, m := range modes {
		if !long() && m.name != modes[0].name {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			s := start(t, m)
			for _, part := range parts {
				t.Run(part.name, func(t *testing.T) { part.run(s, t) })
			}
		})
	}
}

// start boots a guest with a share at /mnt.
func start(t *testing.T, m mode) *suite {
	t.Helper()
	if foreign() && m.name != modes[0].name {
		t.Skip("the daemon under test may not have this mode")
	}
	s := &suite{mode: m, dir: t.TempDir()}
	options := append([]string{"--xattr", "--posix-acl", "--allow-direct-io"}, m.options...)
	share := guest.Share{Tag: tag, RequestQueues: ownQueues(), DAX: m.dax}
	if !foreign() {
		options = append(options, "--tag="+tag, fmt.Sprintf("--queues=%d", share.RequestQueues))
	}
	findAssets(t)
	_, share.Socket = startDaemon(t, s.dir, options...)
	s.vm = startVM(t, guest.Config{Packed: m.packed, Shares: []guest.Share{share}})
	run(t, s.vm, time.Minute, s.mount())
	return s
}

func (m mode) mount() string {
	if m.dax {
		return "mount -t virtiofs -o dax=always " + tag + " /mnt && grep -q 'virtiofs .*dax=always' /proc/mounts"
	}
	return "mount -t virtiofs " + tag + " /mnt"
}

// fallocate has xfs_io use every mode, and compares the bytes in the guest and on the host with what they should be.
func (s *suite) fallocate(t *testing.T) {
	const block = 64 << 10
	random := rand.NewChaCha8([32]byte{1})
	old := make([]byte, 16*block)
	random.Read(old)
	zeroes := func(n int) []byte { return make([]byte, n*block) }
	for _, c := range []struct {
		command     string // of xfs_io, followed by
		first, many int    // in blocks
		mode        uint32
		want        []byte
	}{
		{"falloc", 8, 16, 0, slices.Concat(old, zeroes(8))},
		{"falloc -k", 8, 16, unix.FALLOC_FL_KEEP_SIZE, old},
		{"fpunch", 3, 2, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, slices.Concat(old[:3*block], zeroes(2), old[5*block:])},
		{"fzero", 14, 4, unix.FALLOC_FL_ZERO_RANGE, slices.Concat(old[:14*block], zeroes(4))},
		{"fzero -k", 14, 4, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, slices.Concat(old[:14*block], zeroes(2))},
		{"fcollapse", 4, 3, unix.FALLOC_FL_COLLAPSE_RANGE, slices.Concat(old[:4*block], old[7*block:])},
		{"finsert", 5, 2, unix.FALLOC_FL_INSERT_RANGE, slices.Concat(old[:5*block], zeroes(2), old[5*block:])},
		{"funshare", 2, 2, unix.FALLOC_FL_UNSHARE_RANGE, old},
	} {
		t.Run(strings.ReplaceAll(c.command, " ", ""), func(t *testing.T) {
			// A name of its own: for a while the guest may take another file by that name for the one that it knows.
			name := strings.ReplaceAll("allocated-"+c.command, " ", "")
			path := filepath.Join(s.dir, name)
			supported := hostAllocates(t, s.dir, c.mode, int64(c.first*block), int64(c.many*block))
			if err := os.WriteFile(path, old, 0o644); err != nil {
				t.Fatal(err)
			}
			// The guest reads it first, so that its cache has what the call has to change.
			run(t, s.vm, time.Minute, "cat /mnt/"+name+" >/dev/null")
			out, err := s.vm.Run(t.Context(), fmt.Sprintf("xfs_io -c '%s %d %d' /mnt/%s", c.command, c.first*block, c.many*block, name))
			carried := c.mode&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0
			switch {
			case !carried: // Linux refuses the other modes before FUSE is asked, and the file stays as it is
				if err == nil || !strings.Contains(out, "Operation not supported") {
					t.Errorf("a mode that FUSE does not carry: %v, %q", err, out)
				}
				c.want = old
			case !supported:
				t.Skip("the host's file system has no such mode")
			case err != nil || out != "":
				t.Errorf("%v, %q", err, out)
			}
			for _, before := range []string{"true", "echo 3 >/proc/sys/vm/drop_caches"} {
				run(t, s.vm, time.Minute, before)
				got, err := s.vm.CopyOut(t.Context(), "/mnt/"+name)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, c.want) {
					t.Errorf("after %s the guest reads %d bytes that are not the %d that they should be", before, len(got), len(c.want))
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("the host reads %d bytes that are not the %d that they should be, %v", len(got), len(c.want), err)
			}
		})
	}
}

// hostAllocates tells whether the host's file system has a mode.
func hostAllocates(t *testing.T, dir string, mode uint32, offset, length int64) bool {
	t.Helper()
	f, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(offset + 2*length); err != nil {
		t.Fatal(err)
	}
	err = unix.Fallocate(int(f.Fd()), mode, offset, length)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	return err == nil
}
