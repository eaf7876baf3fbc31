package guest_test

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// sourceTree is a made-up checkout with the shape of a kernel tree: many small files in nested directories, some large
// ones, symbolic links, executables, long names.
type sourceTree struct {
	files map[string]string // MD5 of each regular file, by path
	links map[string]string // target of each symbolic link, by path
}

// writeSourceTree writes a tree of about the given number of files as a tar archive. The same seed gives the same tree.
func writeSourceTree(w io.Writer, seed uint64, files int) (*sourceTree, error) {
	random := rand.New(rand.NewPCG(seed, 0))
	tree := &sourceTree{files: map[string]string{}, links: map[string]string{}}
	archive := tar.NewWriter(w)
	directories := []string{"tree"}
	written := time.Unix(1_700_000_000, 123_000_000)
	add := func(h tar.Header, content []byte) error {
		h.Size, h.ModTime, h.Format = int64(len(content)), written, tar.FormatPAX
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	if err := add(tar.Header{Typeflag: tar.TypeDir, Name: "tree/", Mode: 0o755}, nil); err != nil {
		return nil, err
	}
	for i := range files {
		if i%15 == 0 {
			parent := directories[random.IntN(len(directories))]
			if strings.Count(parent, "/") < 8 {
				dir := path.Join(parent, fmt.Sprintf("subsystem-%d", i))
				if err := add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil); err != nil {
					return nil, err
				}
				directories = append(directories, dir)
			}
		}
		dir := directories[random.IntN(len(directories))]
		name := path.Join(dir, fmt.Sprintf("driver_%d.c", i))
		size := random.IntN(24 << 10)
		mode := int64(0o644)
		switch {
		case i%500 == 0:
			size = 1<<20 + random.IntN(3<<20)
		case i%97 == 0:
			size = 0
		case i%53 == 0:
			mode = 0o755
			name = path.Join(dir, fmt.Sprintf("script-%s-%d.sh", strings.Repeat("long", 50), i))
		case i%41 == 0:
			link := path.Join(dir, fmt.Sprintf("link-%d", i))
			target := fmt.Sprintf("../nowhere/%d", random.Uint32())
			if err := add(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: target, Mode: 0o777}, nil); err != nil {
				return nil, err
			}
			tree.links[link] = target
		}
		content := make([]byte, size)
		for j := range content {
			content[j] = byte(random.Uint32()>>24)%96 + 32
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content); err != nil {
			return nil, err
		}
		sum := md5.Sum(content)
		tree.files[name] = hex.EncodeToString(sum[:])
	}
	return tree, archive.Close()
}

// onHost reads back what the host has of a tree.
func onHost(t *testing.T, root string) *sourceTree {
	t.Helper()
	tree := &sourceTree{files: map[string]string{}, links: map[string]string{}}
	err := filepath.WalkDir(filepath.Join(root, "tree"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			tree.links[relative], err = os.Readlink(name)
			return err
		}
		content, err := os.ReadFile(name)
		sum := md5.Sum(content)
		tree.files[relative] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// inGuest reads a tree through the mount, from the daemon and not from the guest's caches.
func inGuest(t *testing.T, vm *guest.VM) *sourceTree {
	t.Helper()
	tree := &sourceTree{files: map[string]string{}, links: map[string]string{}}
	out := run(t, vm, 5*time.Minute, `echo 3 >/proc/sys/vm/drop_caches; cd /mnt && find tree -type f -print0 | xargs -0 -P 2 -n 64 md5sum`)
	for line := range strings.Lines(out) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		tree.files[name] = sum
	}
	out = run(t, vm, time.Minute, `cd /mnt && find tree -type l -printf '%p %l\n'`)
	for line := range strings.Lines(out) {
		name, target, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		tree.links[name] = target
	}
	return tree
}

// same fails the test for the first few differences.
func (want *sourceTree) same(t *testing.T, got *sourceTree, where string) {
	t.Helper()
	var differences []string
	compare := func(want, got map[string]string) {
		for name, value := range want {
			if other, ok := got[name]; !ok {
				differences = append(differences, name+" is missing")
			} else if other != value {
				differences = append(differences, fmt.Sprintf("%s is %s and should be %s", name, other, value))
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				differences = append(differences, name+" should not be there")
			}
		}
	}
	compare(want.files, got.files)
	compare(want.links, got.links)
	if len(differences) > 0 {
		slices.Sort(differences)
		t.Errorf("%s %d of %d files differ:\n%s", where, len(differences), len(want.files)+len(want.links), strings.Join(differences[:min(10, len(differences))], "\n"))
	}
}

// TestSourceTreeUnpackedInGuest unpacks a checkout in the guest and compares every checksum, in the guest and on the
// host; then the same for what the host has changed meanwhile.
func TestSourceTreeUnpackedInGuest(t *testing.T) {
	dir := t.TempDir()
	vm := mounted(t, dir, guest.Share{RequestQueues: ownQueues()})
	var archive bytes.Buffer
	want, err := writeSourceTree(&archive, 1, 3500)
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	if err := vm.Exec(t.Context(), guest.Command{Script: "tar -x", Dir: "/mnt", Stdin: &archive, Stderr: &complaint}); err != nil {
		t.Fatalf("unpack: %v\n%s", err, complaint.String())
	}
	want.same(t, onHost(t, dir), "on the host")
	want.same(t, inGuest(t, vm), "in the guest")
	if out := run(t, vm, time.Minute, `find /mnt/tree -newermt '2023-11-15' -type f | head; find /mnt/tree -name 'script-*' ! -perm 755 | head`); out != "" {
		t.Errorf("files with another time or mode than in the archive:\n%s", out)
	}

	// A metadata-heavy rewrite in the guest: copy with attributes, compare, remove the original.
	run(t, vm, 10*time.Minute, `cd /mnt && cp -a tree copy && diff -r --no-dereference tree copy && rm -rf tree && mv copy tree`)
	want.same(t, onHost(t, dir), "on the host, after copying in the guest,")

	// The host's own changes show up in the guest.
	changed := 0
	for name := range want.files {
		if changed++; changed > 50 {
			break
		}
		content := fmt.Appendf(nil, "changed on the host: %s", name)
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		sum := md5.Sum(content)
		want.files[name] = hex.EncodeToString(sum[:])
	}
	want.same(t, inGuest(t, vm), "in the guest, after changes on the host,")
}
