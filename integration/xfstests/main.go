package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/anmitsu/go-shlex"
	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
)

const (
	statusUnexpected = 1
	statusBroken     = 2
)

// settings are what the command line says.
type settings struct {
	xfstests string
	tests    []string // in the order in which they run
	daemon   []string // with {socket}, {dir} and {tag}
	host     bool     // on this machine's kernel
	disk     int      // MiB for the served directories there
	dax      bool
	packed   bool
	queues   int
	memory   int // MiB
	limit    time.Duration
	mode     string
	work     string // where the served directories are made
	out      string
}

// fileSystem is what check calls the file system under test.
func (s *settings) fileSystem() string {
	if s.host {
		return "fuse"
	}
	return "virtiofs"
}

func main() {
	if filepath.Base(os.Args[0]) == mountHelper {
		os.Exit(askForMount(os.Args[1:]))
	}
	fusebridge.Child()
	hostChild()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	good, err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "xfstests:", err)
		os.Exit(statusBroken)
	case !good:
		os.Exit(statusUnexpected)
	}
}

func run(ctx context.Context, arguments []string) (good bool, err error) {
	s := &settings{}
	flags := flag.NewFlagSet("xfstests", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "usage: scripts/xfstests --xfstests DIR [options] [TESTS...]\n       scripts/xfstests --xfstests DIR --host-kernel [options] [TESTS...]\n       scripts/xfstests --compare A B\n\n"+
			"TESTS are names like generic/001. Without any and without -g the group quick is run.\n\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&s.xfstests, "xfstests", "", "an installed xfstests: the `directory` that has check in it")
	groups := flags.String("g", "", "run the tests of these `groups`, separated by commas")
	exclude := flags.String("x", "", "leave out these `tests`, separated by commas")
	repeat := flags.Int("repeat", 1, "run all tests so many `times`")
	flags.BoolVar(&s.host, "host-kernel", false, "run on this machine's kernel, through /dev/fuse to the daemon, instead of in guests; as root")
	flags.IntVar(&s.disk, "disk", 8192, "`MiB` of the file system for the served directories, with --host-kernel")
	flags.BoolVar(&s.dax, "dax", false, "devices with a DAX window, and mount -o dax=always")
	flags.BoolVar(&s.packed, "packed", false, "packed virtqueues")
	flags.IntVar(&s.queues, "queues", 1, "request queues of each device")
	flags.IntVar(&s.memory, "memory", 2048, "`MiB` of memory of the guest")
	flags.DurationVar(&s.limit, "limit", 10*time.Minute, "how long one test may take")
	daemon := flags.String("daemon", "", "another daemon: its `command`, with {socket}, {dir} and {tag} in it")
	more := flags.String("daemon-args", "--xattr --posix-acl=always", "`options` for the daemon of this tree")
	flags.StringVar(&s.mode, "mode", "", "the `name` of the list in integration/xfstests/expected to judge by; by default dax, host or default")
	flags.StringVar(&s.work, "work", os.TempDir(), "the `directory` in which those to serve are made")
	flags.StringVar(&s.out, "out", filepath.Join("build", "xfstests"), "the `directory` for results and logs")
	comparing := flags.Bool("compare", false, "compare the results of two runs, given as their directories")
	if err := flags.Parse(arguments); err != nil {
		return false, err
	}
	if *comparing {
		if flags.NArg() != 2 {
			return false, errors.New("--compare takes two directories with results")
		}
		return compareRuns(os.Stdout, fromCaller(flags.Arg(0)), fromCaller(flags.Arg(1)))
	}
	for _, path := range []*string{&s.xfstests, &s.work, &s.out} {
		*path = fromCaller(*path)
	}
	if s.xfstests == "" {
		return false, errors.New("say where xfstests is installed with --xfstests DIR")
	}
	if s.host && s.dax {
		return false, errors.New("there is no DAX window with --host-kernel: leave out one of them")
	}
	if s.tests, err = selectTests(s.xfstests, *groups, flags.Args(), *exclude, *repeat); err != nil {
		return false, err
	}
	if s.daemon, err = daemonCommand(s, *daemon, *more); err != nil {
		return false, err
	}
	if s.mode == "" {
		switch {
		case s.dax:
			s.mode = "dax"
		case s.host:
			s.mode = "host"
		default:
			s.mode = "default"
		}
	}
	expected, err := readExpectations(s.mode)
	if err != nil {
		return false, err
	}
	return runAndReport(ctx, s, expected)
}

// fromCaller resolves a path where the user is: scripts/xfstests works in the top directory, as go does in a module.
func fromCaller(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(os.Getenv("CALLED_FROM"), path)
}

// daemonCommand is the command to start a daemon with; the one of this tree is named by the environment.
func daemonCommand(s *settings, foreign, more string) ([]string, error) {
	if foreign != "" {
		return shlex.Split(foreign, true)
	}
	command := []string{cmp.Or(os.Getenv("DAEMON"), "build/virtiofsd-go"), "--socket-path", "{socket}", "--shared-dir", "{dir}", "--queues", strconv.Itoa(s.queues)}
	if s.dax {
		command = append(command, "--tag", "{tag}", "--dax-window", "256M")
	}
	options, err := shlex.Split(more, true)
	if err != nil {
		return nil, fmt.Errorf("--daemon-args: %w", err)
	}
	return append(command, options...), nil
}

// runAndReport runs the tests and writes every form of the results, those of an interrupted run too.
func runAndReport(ctx context.Context, s *settings, expected expectations) (good bool, err error) {
	begin := time.Now()
	r, err := newRunner(s, expected)
	if err != nil {
		return false, err
	}
	err = r.run(ctx)
	if closeErr := r.close(); err == nil {
		err = closeErr
	}
	if writeErr := writeReports(s.out, r.outcomes, expected, time.Since(begin)); err == nil {
		err = writeErr
	}
	fmt.Println()
	if tableErr := writeTable(os.Stdout, r.outcomes, expected); err == nil {
		err = tableErr
	}
	fmt.Println(summary(r.outcomes, expected, time.Since(begin)))
	for _, note := range r.notes {
		fmt.Println("!", note)
	}
	return err == nil && len(r.notes) == 0 && len(unexpected(r.outcomes, expected)) == 0, err
}
