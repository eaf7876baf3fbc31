package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Where things are for check: in the guest, or below the root that it has on the host.
const (
	testsDir   = "/run/xfstests"
	resultsDir = "/run/results"
	optionFile = "/run/local.config"
)

// shares are what the two directories, their daemons and logs are called.
var shares = []string{"test", "scratch"}

// tag is the device's name. Tests take it for one that occurs in their output for nothing else.
func tag(share string) string { return "virtiofs-" + share }

// mountPoint is where a share is mounted.
func mountPoint(share string) string { return "/mnt/" + share }

// keptBytes is how much of a file is kept: some tests write hundreds of megabytes.
const keptBytes = 1_000_000

// environment is a kernel with the two shares, on empty directories, where check can run.
type environment interface {
	// check runs the script and returns when it has ended, however; the error is that the environment has.
	check(ctx context.Context, script string, output io.Writer) error
	// trouble holds why the tests can't go on, as soon as that is so.
	trouble() <-chan string
	// stacks keeps what everybody does, and ends the daemons.
	stacks(ctx context.Context) error
	// copyOut returns the end of a file of check's, or nothing if there is none.
	copyOut(ctx context.Context, path string) ([]byte, error)
	// stop ends it in order; the error is what went wrong that belongs to no test.
	stop(ctx context.Context) error
	// kill ends everything at once. It may be called more than once.
	kill()
}

// optionScript writes check's options. fs is the type of file system, in the words of check.
func optionScript(fs, mountOptions string) string {
	return fmt.Sprintf(`set -e
# su includes these, and the root disk's maker leaves them out.
for stack in auth account password session; do
    [ -e /etc/pam.d/common-$stack ] || echo "$stack required pam_permit.so" >/etc/pam.d/common-$stack
done
mkdir -p %[1]s %[5]s %[7]s
cat >%[2]s <<END
export FSTYP=%[3]s TEST_DEV=%[4]s TEST_DIR=%[5]s SCRATCH_DEV=%[6]s SCRATCH_MNT=%[7]s
export RESULT_BASE=%[1]s MOUNT_OPTIONS="%[8]s" TEST_FS_MOUNT_OPTS="%[8]s"
END
`, resultsDir, optionFile, fs, tag(shares[0]), mountPoint(shares[0]), tag(shares[1]), mountPoint(shares[1]), mountOptions)
}

// checkScript runs check on the tests in the order given.
func checkScript(fs string, tests []string) string {
	return fmt.Sprintf("cd %s && HOST_OPTIONS=%s exec ./check -%s --exact-order %s 2>&1", testsDir, optionFile, fs, strings.Join(tests, " "))
}

// keep copies what check kept about a test.
func keep(ctx context.Context, e environment, test, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for _, suffix := range []string{"full", "out.bad", "dmesg"} {
		content, err := e.copyOut(ctx, resultsDir+"/"+test+"."+suffix)
		if err == nil && len(content) > 0 {
			path := filepath.Join(dir, strings.ReplaceAll(test, "/", "-")+"."+suffix)
			err = os.WriteFile(path, content, 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
