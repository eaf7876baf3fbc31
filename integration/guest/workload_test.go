package guest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Programs from the guest's root disk that try file systems.

// ownQueues is the number of request queues to test with: two, unless the daemon is another that may have only one.
func ownQueues() int {
	if foreign() {
		return 1
	}
	return 2
}

const fioVerifies = "--verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --invalidate=1 --randrepeat=1 --group_reporting"

// fio writes with every I/O engine that reaches the daemon differently and reads all of it back.
func (s *suite) fio(t *testing.T) {
	for _, job := range []struct {
		name, options string
		mebibytes     int
	}{
		{"psync", "--ioengine=psync --rw=randrw --bs=4k --numjobs=2", 6},
		{"psync-large", "--ioengine=psync --rw=write --bs=1m", 32},
		{"psync-direct", "--ioengine=psync --direct=1 --rw=randwrite --bs=4k-64k", 12},
		{"psync-unaligned", "--ioengine=psync --rw=randwrite --bs=1000 --bs_unaligned", 1},
		{"libaio-direct", "--ioengine=libaio --iodepth=32 --direct=1 --rw=randwrite --bs=16k", 12},
		{"io_uring", "--ioengine=io_uring --iodepth=16 --rw=randwrite --bs=8k", 8},
		{"io_uring-direct", "--ioengine=io_uring --iodepth=16 --direct=1 --rw=randwrite --bs=8k", 8},
		{"mmap", "--ioengine=mmap --rw=randwrite --bs=4k", 6},
		{"append-fsync", "--ioengine=psync --rw=write --bs=4k --fsync=16 --file_append=1", 2},
	} {
		t.Run(job.name, func(t *testing.T) {
			if job.name == "mmap" && s.noMaps {
				t.Skip("no file is mapped shared in this mode")
			}
			run(t, s.vm, 5*time.Minute, fmt.Sprintf(
				"mkdir -p /mnt/%[1]s && fio --name=%[1]s --directory=/mnt/%[1]s "+fioVerifies+" --size=%[3]dm %[2]s && rm -r /mnt/%[1]s",
				job.name, job.options, job.mebibytes*s.size(1, 1, 4)))
		})
	}
}

// fioOneFile has many jobs write their parts of one file, which share pages of no one's and the file's size.
func (s *suite) fioOneFile(t *testing.T) {
	// Not mmap: fio 3.41 does not verify what its own jobs map of one file, on the guest's tmpfs neither.
	for _, engine := range []string{"psync", "psync --direct=1", "io_uring --iodepth=8", "io_uring --iodepth=8 --direct=1"} {
		t.Run(strings.ReplaceAll(strings.ReplaceAll(engine, " ", ""), "--", "-"), func(t *testing.T) {
			run(t, s.vm, 10*time.Minute, fmt.Sprintf(
				"fio --name=job --filename=/mnt/one-file "+fioVerifies+" --ioengine=%s --rw=randwrite --bs=4k --numjobs=8 --size=%[2]dk --offset_increment=%[2]dk && rm /mnt/one-file",
				engine, s.size(512, 256, 2<<10)))
		})
	}
}

// stressNG runs stress-ng's file-system stressors one after the other, each verifying what it does.
func (s *suite) stressNG(t *testing.T) {
	// Those that exercise another file system than the one they are told to work on, or none.
	elsewhere := []string{"binderfs", "cgroup", "chroot", "configfs", "dev-shm", "eventfd", "ioprio", "loop", "procfs", "ramfs", "rofs", "sysfs", "tmpfs", "verity", "zerofill"}
	known := strings.Fields(run(t, s.vm, time.Minute, "stress-ng --class filesystem? | sed 's/.*: *//'"))
	if len(known) < 20 {
		t.Fatalf("stress-ng knows only %d file-system stressors: %v", len(known), known)
	}
	// chattr and inode-flags make a file immutable that has dirty mapped pages. The guest's kernel may write those
	// back, the daemon may not, and the next syncfs(2) says so, once: it is taken here, not by the next stressor.
	const settle = "sync -f /mnt 2>/dev/null"
	limit := 2 * time.Minute
	if s.noNames {
		// In the end link and symlink remove thousands of names that they have not made, each with LOOKUPs of its path.
		limit = 5 * time.Minute
	}
	for _, name := range known {
		if slices.Contains(elsewhere, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			run(t, s.vm, limit, fmt.Sprintf(
				"mkdir -p /mnt/%[1]s && stress-ng --%[1]s 2 --timeout %[2]ds --temp-path /mnt/%[1]s --verify --oomable --no-rand-seed 2>&1; status=$?; rm -rf /mnt/%[1]s; "+settle+"; exit $status",
				name, s.size(1, 1, 3)))
		})
	}
}

// dbench replays a file server's load.
func (s *suite) dbench(t *testing.T) {
	out := run(t, s.vm, 10*time.Minute, fmt.Sprintf("mkdir /mnt/dbench && dbench -D /mnt/dbench -t %d 4 && rm -rf /mnt/dbench", s.size(8, 8, 60)))
	if !strings.Contains(out, "Throughput") {
		t.Errorf("dbench did not finish:\n%s", out)
	}
}

// fsMark makes files as fast as it can with each way of syncing.
func (s *suite) fsMark(t *testing.T) {
	for _, sync := range []string{"0", "1", "3"} {
		t.Run("sync"+sync, func(t *testing.T) {
			run(t, s.vm, 10*time.Minute, fmt.Sprintf("mkdir /mnt/mark && fs_mark -d /mnt/mark -D 8 -N 32 -n %d -t 2 -s 5000 -v -S %s && rm -rf /mnt/mark", s.size(200, 200, 2000), sync))
		})
	}
}
