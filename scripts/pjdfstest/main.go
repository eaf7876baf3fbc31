// Pjdfstest runs pjdfstest's tests of system calls in a QEMU guest, on a share of a virtio-fs daemon. It takes a tree
// that has been built and neither downloads nor builds one.
//
//	go run ./scripts/pjdfstest --pjdfstest DIR [--daemon 'CMD with {socket} {dir} {tag}'] [--dax] [--out DIR] [TEST...]
//
// A TEST is a file or directory below DIR/tests, as rename or chmod/00.t. Without --daemon the daemon of this tree is
// built. Files in which an assertion fails are run again on the host, in the file system that the share is of: an
// assertion that fails there too is not the daemon's. The exit status is 1 if one is left.
//
// The tests reach the guest and their output leaves it by the agent's port (see integration/guest), not by the share.
// When a file takes longer than --limit, the stacks of the guest and of the daemon are taken and the rest goes on in a
// fresh guest. Everything is kept in --out: results.tsv, junit.xml, the output of the files that fail, the logs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anmitsu/go-shlex"
	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sys/unix"
)

type settings struct {
	tree    string   // absolute
	daemon  []string // with {socket}, {dir} and {tag}
	dax     bool
	queues  int
	mount   string // options
	jobs    int
	limit   time.Duration
	out     string // absolute
	share   string // made below this directory
	selects []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ok, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pjdfstest:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context) (bool, error) {
	s, err := readSettings(ctx)
	if err != nil {
		return false, err
	}
	files, err := findTests(s.tree, s.selects)
	if err != nil {
		return false, err
	}
	assets, err := guest.FindAssets()
	if err != nil {
		return false, err
	}
	share, err := os.MkdirTemp(s.share, "pjdfstest-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(share)
	begin := time.Now()
	results, err := inGuests(ctx, s, assets, share, files)
	if err != nil {
		return false, err
	}
	if err := onHost(ctx, s, share, results); err != nil {
		return false, err
	}
	return report(s.out, results, time.Since(begin))
}

func readSettings(ctx context.Context) (*settings, error) {
	s := &settings{}
	daemon := ""
	flag.StringVar(&s.tree, "pjdfstest", "", "`directory` of a built pjdfstest: its program and tests are in it")
	flag.StringVar(&daemon, "daemon", "", "`command` of the daemon, with {socket}, {dir} and {tag} in it; by default this tree's")
	flag.BoolVar(&s.dax, "dax", false, "give the share a DAX window, and mount it with dax=always")
	flag.IntVar(&s.queues, "queues", 1, "request `queues` of the device; a command given with --daemon has to know them itself")
	flag.StringVar(&s.mount, "mount", "", "`options` of mount")
	flag.IntVar(&s.jobs, "jobs", 4, "how many files of tests run at the same `time`")
	flag.DurationVar(&s.limit, "limit", 10*time.Minute, "how long a file of tests may take")
	flag.StringVar(&s.out, "out", "build/pjdfstest", "`directory` for what is to be kept; what is in it goes")
	flag.StringVar(&s.share, "share", os.TempDir(), "`directory` below which the share is made: its file system is the one compared with")
	flag.Parse()
	s.selects = flag.Args()
	if s.tree == "" {
		return nil, errors.New("say where pjdfstest is with --pjdfstest DIR")
	}
	var err error
	if s.tree, err = filepath.Abs(s.tree); err != nil {
		return nil, err
	}
	if s.out, err = filepath.Abs(s.out); err != nil {
		return nil, err
	}
	if err := unix.Access(filepath.Join(s.tree, program), unix.X_OK); err != nil {
		return nil, fmt.Errorf("no program %s in %s: build it first: %w", program, s.tree, err)
	}
	for _, name := range []string{"results.tsv", "junit.xml", "guests", "failed"} {
		if err := os.RemoveAll(filepath.Join(s.out, name)); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return nil, err
	}
	if daemon == "" {
		s.daemon, err = buildDaemon(ctx, s)
	} else {
		s.daemon, err = shlex.Split(daemon, true)
	}
	if s.dax {
		s.mount = strings.Trim(s.mount+",dax=always", ",")
	}
	return s, err
}

// buildDaemon builds this tree's and returns its command.
func buildDaemon(ctx context.Context, s *settings) ([]string, error) {
	path := filepath.Join(s.out, "virtiofsd-go")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	command := []string{path, "--socket-path={socket}", "--shared-dir={dir}", fmt.Sprintf("--queues=%d", s.queues), "--xattr", "--posix-acl"}
	if s.dax {
		command = append(command, "--tag={tag}", "--dax-window=256M")
	}
	return command, nil
}

// findTests lists the files of tests, relative to the tests directory.
func findTests(tree string, selects []string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(tree, "tests", "*", "*.t"))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, path := range paths {
		name := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
		if len(selects) == 0 || slices.Contains(selects, name) || slices.Contains(selects, filepath.Dir(name)) {
			files = append(files, name)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no such tests in %s", filepath.Join(tree, "tests"))
	}
	return files, nil
}
