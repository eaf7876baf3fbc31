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

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sys/unix"
)

// long says whether workloads run at the size of `make conformance`, which takes most of an hour, or at that of
// `make test`.
func long() bool { return os.Getenv("CONFORMANCE") == "long" }

func size(short, inLong int) int {
	if long() {
		return inLong
	}
	return short
}

// TestConformance uses the share as users of a disk's file system do: fallocate in all its modes, many writers of one
// file, layers of an overlay, a container's files unpacked, a long history. The tests beside it in workload_test.go
// are the rest of `make conformance`.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	vm := mounted(t, dir, guest.Share{RequestQueues: ownQueues()}, "--xattr", "--posix-acl", "--allow-direct-io")
	t.Run("fallocate", func(t *testing.T) { fallocateModes(t, vm, dir) })
	t.Run("fio-one-file", func(t *testing.T) { fioOneFile(t, vm) })
	t.Run("overlay", func(t *testing.T) { run(t, vm, 5*time.Minute, overlayScript) })
	t.Run("unpack", func(t *testing.T) { unpack(t, vm) })
	t.Run("git-history", func(t *testing.T) {
		run(t, vm, 20*time.Minute, fmt.Sprintf(historyScript, size(2000, 30000)))
	})
}

// fallocateModes has xfs_io use every mode, and compares the bytes in the guest and on the host with what they should be.
func fallocateModes(t *testing.T, vm *guest.VM, dir string) {
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
			path := filepath.Join(dir, name)
			supported := hostAllocates(t, dir, c.mode, int64(c.first*block), int64(c.many*block))
			if err := os.WriteFile(path, old, 0o644); err != nil {
				t.Fatal(err)
			}
			// The guest reads it first, so that its cache has what the call has to change.
			run(t, vm, time.Minute, "cat /mnt/"+name+" >/dev/null")
			out, err := vm.Run(t.Context(), fmt.Sprintf("xfs_io -c '%s %d %d' /mnt/%s", c.command, c.first*block, c.many*block, name))
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
				run(t, vm, time.Minute, before)
				got, err := vm.CopyOut(t.Context(), "/mnt/"+name)
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

// fioOneFile has many jobs write their parts of one file, which share pages of no one's and the file's size.
func fioOneFile(t *testing.T, vm *guest.VM) {
	// Not mmap: fio 3.41 does not verify what its own jobs map of one file, on the guest's tmpfs neither.
	for _, engine := range []string{"psync", "psync --direct=1", "io_uring --iodepth=8", "io_uring --iodepth=8 --direct=1"} {
		t.Run(strings.ReplaceAll(strings.ReplaceAll(engine, " ", ""), "--", "-"), func(t *testing.T) {
			run(t, vm, 10*time.Minute, fmt.Sprintf(`fio --name=job --filename=/mnt/one-file --ioengine=%s --rw=randwrite --bs=4k --numjobs=8 --size=%[2]dm --offset_increment=%[2]dm \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --invalidate=1 --group_reporting && rm /mnt/one-file`, engine, size(1, 32)))
		})
	}
}

// overlayScript puts overlays on the share: with the lower layer there, the upper one, and both.
const overlayScript = `set -e
modprobe overlay 2>/dev/null || true
mkdir -p /tmp/lower /tmp/writable
mount -t tmpfs writable /tmp/writable
fill() {
    mkdir -p $1/dir/deep
    echo kept >$1/kept; echo changed >$1/changed; echo removed >$1/removed; echo moved >$1/dir/deep/moved
    seq 20000 >$1/large; ln $1/kept $1/hard; ln -s kept $1/link; chown 1000:1001 $1/changed; chmod 4711 $1/changed
    setfattr -n user.a -v b $1/kept
}
for layers in lower upper both; do
    base=/mnt/overlay-$layers
    mkdir -p $base /tmp/overlay
    lower=$base/lower upper=$base/upper work=$base/work
    [ $layers != lower ] || { upper=/tmp/writable/upper; work=/tmp/writable/work; }
    [ $layers != upper ] || lower=/tmp/lower
    mkdir -p $lower $upper $work
    fill $lower
    before=$(cd $lower && find . -type f | sort | xargs md5sum)
    mount -t overlay -o lowerdir=$lower,upperdir=$upper,workdir=$work overlay /tmp/overlay
    for round in first second; do
        cd /tmp/overlay
        if [ $round = first ]; then
            echo more >>changed
            rm removed
            mkdir removed && echo inside >removed/file
            mv dir/deep/moved dir/moved
            rm -r dir/deep && mkdir dir/deep
            echo end >>large
            setfattr -n user.c -v d kept
        fi
        test "$(cat kept)" = kept
        test "$(cat changed)" = "$(printf 'changed\nmore')"
        test "$(stat -c '%u %g' changed)" = '1000 1001'
        test "$(cat removed/file)" = inside
        test "$(cat dir/moved)" = moved
        test -z "$(ls -A dir/deep)"
        test "$(wc -l <large)" = 20001
        test "$(getfattr --only-values -n user.a kept)$(getfattr --only-values -n user.c kept)" = bd
        cd /
        umount /tmp/overlay
        echo 3 >/proc/sys/vm/drop_caches
        mount -t overlay -o lowerdir=$lower,upperdir=$upper,workdir=$work overlay /tmp/overlay
    done
    umount /tmp/overlay
    test "$before" = "$(cd $lower && find . -type f | sort | xargs md5sum)"
    rm -rf $base
done
`

// unpack brings a tree that has what a container's files have to the share by tar and by rsync, and back.
func unpack(t *testing.T, vm *guest.VM) {
	run(t, vm, 2*time.Minute, makeTree)
	const tarOptions = "--numeric-owner --acls --xattrs --xattrs-include='*' -S"
	for _, c := range []struct{ name, copy string }{
		{"tar", "mkdir -p $2 && tar " + tarOptions + " -C $1 -c . | tar " + tarOptions + " -C $2 -xp"},
		{"rsync", "mkdir -p $2 && rsync -aHAXS --numeric-ids $1/ $2/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, vm, 10*time.Minute, fmt.Sprintf(`set -e -o pipefail
copy() { %s; }
copy /tmp/container /mnt/%[2]s
echo 3 >/proc/sys/vm/drop_caches
copy /mnt/%[2]s /tmp/%[2]s
for tree in /tmp/container /mnt/%[2]s /tmp/%[2]s; do /tmp/describe $tree >$(echo $tree | tr / _).txt; done
diff _tmp_container.txt _mnt_%[2]s.txt
diff _tmp_container.txt _tmp_%[2]s.txt
diff -r --no-dereference /tmp/container/files /mnt/%[2]s/files
rm -rf /mnt/%[2]s /tmp/%[2]s`, c.copy, c.name))
		})
	}
}

// makeTree makes the tree, and a program that prints all that there is to know of one.
const makeTree = `set -e
cat >/tmp/describe <<'END'
#!/bin/bash
set -e -o pipefail
cd $1
find . -type d -printf '%P %y %m %U %G %T@\n' | sort
find . ! -type d -printf '%P %y %m %U %G %s %n %T@ %l\n' | sort
find . -type b -o -type c | sort | xargs stat -c '%n %t %T'
find . -type f -print0 | sort -z | xargs -0 md5sum
find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p
find . -print0 | sort -z | xargs -0 getfattr -h -d -m -
# Names of one file.
find . -type f -links +1 -printf '%i %P\n' | sort -k 2 | awk '!($1 in n) { n[$1] = ++count } { print n[$1], $2 }'
xfs_io -r -c 'seek -a 0' sparse
END
chmod 755 /tmp/describe
mkdir -p /tmp/container/files
cd /tmp/container
for i in $(seq 300); do head -c $((i * 37)) /dev/urandom >files/$i; chown $((i % 7 + 1000)):$((i % 11 + 2000)) files/$i; chmod $(printf %o $((i * 7 % 512))) files/$i; done
for i in $(seq 20); do ln files/$i files/hard-$i; ln -s ../files/$i files/soft-$i; chown -h $i:$i files/soft-$i; done
mkdir -m 1777 sticky; mkdir -m 2750 group; chown 5:6 group
cp /bin/true setuid; chown 3:4 setuid; chmod 6755 setuid
cp /bin/true capable; setcap cap_net_raw+ep capable
mknod null c 1 3; mknod loop b 7 0; mknod whiteout c 0 0; mkfifo fifo; chown 7:8 null fifo
echo x >acl; setfacl -m u:1234:rw,g:4321:r,m::rw acl
mkdir acl-default; setfacl -d -m u:1234:rwx,g:4321:rx acl-default
echo x >attributes; setfattr -n user.one -v 1 attributes; setfattr -n trusted.two -v 2 attributes
setfattr -n user.large -v "$(head -c 2000 /dev/zero | tr '\0' x)" attributes
truncate -s 64M sparse
for offset in 0 5 17 40; do head -c 1M /dev/urandom | dd of=sparse bs=1M seek=$offset conv=notrunc status=none; done
printf 'x' >$'files/\xff\xfe not UTF-8'; printf 'x' >"files/$(printf '%0255d' 0)"
touch -d '1999-12-31 23:59:59.123456789' files/1 files/2 group
touch -h -d '2001-01-01 00:00:00.5' files/soft-1
`

// historyScript makes a history of many commits at once and has git look at all of it, loose and packed.
const historyScript = `set -e
commits=%d
rm -rf /mnt/history && git init -q -b main /mnt/history
cd /mnt/history
awk -v commits=$commits 'BEGIN {
    for (i = 1; i <= commits; i++) {
        printf "commit refs/heads/main\nmark :%%d\ncommitter guest <guest@example.invalid> %%d +0000\ndata <<END\ncommit %%d\nEND\n\n", i, 1700000000 + i, i
        printf "M 100644 inline dir%%d/file%%d\ndata <<END\n", i %% 50, i %% 1000
        for (j = 0; j < 20; j++) print i * j, "line", j
        print "END\n"
    }
}' >/tmp/history
git -c fastimport.unpackLimit=0 fast-import --quiet </tmp/history
test "$(git rev-list --count main)" = $commits
git fsck --full --strict
git checkout -q -f main
test -z "$(git status --porcelain)"
# The last hundred commits loose, each with its own file.
git rev-list --objects HEAD~100..HEAD | cut -d ' ' -f 1 | git pack-objects -q --stdout >/tmp/last.pack
git init -q -b main /mnt/loose
git -C /mnt/loose unpack-objects -q </tmp/last.pack
test "$(find /mnt/loose/.git/objects -type f | wc -l)" -gt 200
git gc -q
git fsck --full --strict
rm -rf /mnt/history /mnt/loose
`
