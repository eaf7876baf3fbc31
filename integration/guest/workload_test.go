package guest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// Workloads that nobody here wrote, from the guest's root disk. Their sizes suit software emulation.

// ownQueues is the number of request queues to test with: two, unless the daemon is another that may have only one.
func ownQueues() int {
	if foreign() {
		return 1
	}
	return 2
}

// TestFioVerifies writes with every I/O engine that reaches the daemon differently and reads all of it back.
func TestFioVerifies(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()}, "--allow-direct-io")
	jobs := []struct{ name, options string }{
		{"psync", "--ioengine=psync --rw=randrw --bs=4k --size=24m --numjobs=2"},
		{"psync-large", "--ioengine=psync --rw=write --bs=1m --size=128m"},
		{"psync-direct", "--ioengine=psync --direct=1 --rw=randwrite --bs=4k-64k --size=32m"},
		{"psync-unaligned", "--ioengine=psync --rw=randwrite --bs=1000 --bs_unaligned --size=2m"},
		{"libaio-direct", "--ioengine=libaio --iodepth=32 --direct=1 --rw=randwrite --bs=16k --size=32m"},
		{"io_uring", "--ioengine=io_uring --iodepth=16 --rw=randwrite --bs=8k --size=32m"},
		{"mmap", "--ioengine=mmap --rw=randwrite --bs=4k --size=16m"},
		{"append-fsync", "--ioengine=psync --rw=write --bs=4k --size=4m --fsync=16 --file_append=1"},
	}
	for _, job := range jobs {
		t.Run(job.name, func(t *testing.T) {
			run(t, vm, 5*time.Minute, fmt.Sprintf(
				"mkdir -p /mnt/%[1]s && fio --name=%[1]s --directory=/mnt/%[1]s --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --invalidate=1 --randrepeat=1 --group_reporting %[2]s && rm -r /mnt/%[1]s",
				job.name, job.options))
		})
	}
}

// TestStressNG runs stress-ng's file-system stressors one after the other, each verifying what it does.
func TestStressNG(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()}, "--xattr", "--allow-direct-io")
	// Those that exercise another file system than the one they are told to work on, or none.
	elsewhere := []string{"binderfs", "cgroup", "chroot", "configfs", "dev-shm", "eventfd", "ioprio", "loop", "procfs", "ramfs", "rofs", "sysfs", "tmpfs", "verity", "zerofill"}
	known := strings.Fields(run(t, vm, time.Minute, "stress-ng --class filesystem? | sed 's/.*: *//'"))
	if len(known) < 20 {
		t.Fatalf("stress-ng knows only %d file-system stressors: %v", len(known), known)
	}
	// chattr and inode-flags make a file immutable that has dirty mapped pages. The guest's kernel may write those
	// back, the daemon may not, and the next syncfs(2) says so, once: it is taken here, not by the next stressor.
	const settle = "sync -f /mnt 2>/dev/null"
	for _, name := range known {
		if slices.Contains(elsewhere, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			run(t, vm, 2*time.Minute, fmt.Sprintf(
				"mkdir -p /mnt/%[1]s && stress-ng --%[1]s 2 --timeout 3s --temp-path /mnt/%[1]s --verify --oomable --no-rand-seed 2>&1; status=$?; rm -rf /mnt/%[1]s; %[2]s; exit $status", name, settle))
		})
	}
}

// TestGitCloneAndFsck makes a history on the share, clones it in both ways, packs it and checks every object.
func TestGitCloneAndFsck(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()})
	run(t, vm, 10*time.Minute, `set -e
git config --global user.name guest
git config --global user.email guest@example.invalid
git config --global init.defaultBranch main
git init -q /mnt/origin
cd /mnt/origin
for i in $(seq 20); do
    mkdir -p dir$((i % 5))/deep
    for j in $(seq 15); do seq $((i * j)) $((i * j + 200)) >dir$((i % 5))/deep/file$j; done
    ln -sf deep/file$i dir$((i % 5))/link
    git add -A
    git commit -q -m "commit $i"
done
git branch topic HEAD~5
git fsck --full --strict
git clone -q --no-hardlinks /mnt/origin /mnt/local
git clone -q file:///mnt/origin /mnt/packed
cd /mnt/packed
git checkout -q origin/topic
git gc -q
git fsck --full --strict
git -C /mnt/local fsck --full --strict
git checkout -q main
test "$(git rev-parse HEAD)" = "$(git -C /mnt/origin rev-parse HEAD)"
test -z "$(git status --porcelain)"
diff -r --no-dereference --exclude=.git /mnt/origin /mnt/packed
git worktree add -q /mnt/tree topic
git -C /mnt/tree grep -q 200
git worktree remove /mnt/tree
`)
}

// TestSqliteSurvivesKill kills a writer again and again and asks sqlite whether its database is whole, in both journal
// modes; they lock, sync, truncate and map differently.
func TestSqliteSurvivesKill(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()})
	for _, mode := range []string{"delete", "truncate", "wal"} {
		t.Run(mode, func(t *testing.T) {
			run(t, vm, 5*time.Minute, fmt.Sprintf(`set -e
cd /mnt
db=db-%s
sqlite3 $db 'pragma journal_mode=%[1]s; create table t(id integer primary key, x blob, y int); create index i on t(y);' >/dev/null
for i in $(seq 5); do
    (while :; do echo 'begin; insert into t(x, y) values (randomblob(3000), random()); update t set x = randomblob(100) where id %% 7 = 0; commit;'; done) | sqlite3 $db &
    sleep 1
    kill -9 $! && wait $! || true
    test "$(sqlite3 $db 'pragma integrity_check')" = ok
done
test "$(sqlite3 $db 'select count(*) > 0 from t')" = 1
`, mode))
		})
	}
}

// TestDbenchAndFsMark replays a file server's load, and makes files as fast as it can with each way of syncing.
func TestDbenchAndFsMark(t *testing.T) {
	vm := mounted(t, t.TempDir(), guest.Share{RequestQueues: ownQueues()}, "--xattr")
	t.Run("dbench", func(t *testing.T) {
		out := run(t, vm, 3*time.Minute, "mkdir /mnt/dbench && dbench -D /mnt/dbench -t 15 4 && rm -rf /mnt/dbench")
		if !strings.Contains(out, "Throughput") {
			t.Errorf("dbench did not finish:\n%s", out)
		}
	})
	for _, sync := range []string{"0", "1", "3"} {
		t.Run("fs_mark-sync"+sync, func(t *testing.T) {
			run(t, vm, 3*time.Minute, "mkdir /mnt/mark && fs_mark -d /mnt/mark -D 8 -N 32 -n 400 -t 2 -s 5000 -v -S "+sync+" && rm -rf /mnt/mark")
		})
	}
}
