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

// checkStart bounds what check does before its first test; it looks at every argument with a few processes.
const checkStart = 5 * time.Minute

// runner runs the tests, in as many environments as it takes.
type runner struct {
	s        *settings
	expected expectations
	disk     string            // alone in a directory, for guests
	needs    map[string]string // libraries of the programs on the disk
	tsvFile  *os.File
	tsv      *tsvWriter
	started  int // environments
	outcomes []outcome
	notes    []string // trouble that belongs to no test
}

func newRunner(s *settings, e expectations) (_ *runner, err error) {
	r := &runner{s: s, expected: e}
	// Logs of an earlier run would be taken for this one's.
	var old []string
	for _, pattern := range []string{"guest-*", "host-*"} {
		found, err := filepath.Glob(filepath.Join(s.out, pattern))
		if err != nil {
			return nil, err
		}
		old = append(old, found...)
	}
	for _, dir := range append(old, r.kept()) {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.kept(), 0o755); err != nil {
		return nil, err
	}
	if r.tsvFile, err = os.Create(filepath.Join(s.out, tsvName)); err != nil {
		return nil, err
	}
	r.tsv, err = newTSV(r.tsvFile)
	return r, err
}

func (r *runner) close() error {
	var errs []error
	if r.disk != "" {
		errs = append(errs, os.RemoveAll(filepath.Dir(r.disk)))
	}
	return errors.Join(append(errs, r.tsvFile.Close())...)
}

// kept is where the files of failed tests go.
func (r *runner) kept() string { return filepath.Join(r.s.out, "tests") }

func (r *runner) run(ctx context.Context) error {
	if !r.s.host {
		dir, err := os.MkdirTemp("", "xfstests-disk-")
		if err != nil {
			return err
		}
		r.disk = filepath.Join(dir, "disk")
		if err := makeDisk(ctx, r.s.xfstests, r.disk); err != nil {
			return err
		}
	}
	var err error
	if r.needs, err = librariesOf(ctx, r.s.xfstests); err != nil {
		return err
	}
	for len(r.outcomes) < len(r.s.tests) {
		before := len(r.outcomes)
		if err := r.runOne(ctx, r.s.tests[before:]); err != nil {
			return err
		}
		if len(r.outcomes) == before {
			return fmt.Errorf("check ran no test, see %s", r.logs())
		}
	}
	return nil
}

// name is that of the environment and of its logs.
func (r *runner) name() string {
	kind := "guest"
	if r.s.host {
		kind = "host"
	}
	return fmt.Sprintf("%s-%02d", kind, r.started)
}

func (r *runner) logs() string { return filepath.Join(r.s.out, r.name()) }

func (r *runner) start(ctx context.Context) (environment, error) {
	if r.s.host {
		return startHost(ctx, r.s, r.needs, r.logs())
	}
	return startMachine(ctx, r.s, r.disk, r.needs, r.logs())
}

// runOne runs as many of the tests as one environment lasts.
func (r *runner) runOne(ctx context.Context, tests []string) error {
	r.started++
	fmt.Printf("%s, for %d tests\n", r.name(), len(tests))
	e, err := r.start(ctx)
	if err != nil {
		return err
	}
	defer e.kill()
	log, err := os.Create(filepath.Join(r.logs(), "check.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	run, err := r.follow(ctx, e, tests, log)
	if err != nil {
		return err
	}
	if run.trouble == "" {
		for _, test := range run.failed {
			if err := keep(ctx, e, test, r.kept()); err != nil {
				fmt.Printf("the files of %s are lost: %v\n", test, err)
			}
		}
		if err := e.stop(ctx); err != nil {
			r.note("%s did not end well: %v", r.name(), err)
		}
		return nil
	}
	for _, test := range append(run.failed, run.test) {
		if test == "" {
			continue
		}
		if err := keep(ctx, e, test, r.kept()); err != nil {
			break // there is no answer any more
		}
	}
	if run.test == "" {
		r.note("%s, after a test: %s, see %s", r.name(), run.trouble, r.logs())
		return nil
	}
	return r.add(outcome{test: run.test, result: run.result, seconds: run.seconds, reason: run.trouble + ", see " + r.logs()})
}

// checkRun is how a run of check came to its end.
type checkRun struct {
	failed  []string
	trouble string // why it ended before its time, if it did
	test    string // that was running then
	result  result // of that test
	seconds float64
}

// follow runs check and records what it says until it ends or something goes wrong.
func (r *runner) follow(ctx context.Context, e environment, tests []string, log io.Writer) (checkRun, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan event)
	output := &checkOutput{emit: func(e event) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}}
	ended := make(chan error, 1)
	go func() {
		ended <- e.check(ctx, checkScript(r.s.fileSystem(), tests), io.MultiWriter(log, output))
	}()
	limit := time.NewTimer(checkStart)
	defer limit.Stop()
	var run checkRun
	var begin time.Time
	since := func() float64 { return time.Since(begin).Seconds() }
	trouble := func(how result, why string) (checkRun, error) {
		run.trouble, run.result = why, how
		if run.test != "" {
			run.seconds = since()
		}
		if how == hung {
			// Now, as the end of ctx kills what hangs.
			if err := e.stacks(ctx); err != nil {
				fmt.Printf("some stacks are lost: %v\n", err)
			}
		}
		return run, nil
	}
	for {
		select {
		case said := <-events:
			if said.result == "" {
				run.test, begin = said.test, time.Now()
				limit.Reset(r.s.limit)
				continue
			}
			limit.Reset(checkStart)
			run.test = ""
			if said.result == fail {
				run.failed = append(run.failed, said.test)
			}
			if err := r.add(outcome{test: said.test, result: said.result, seconds: since(), reason: said.reason, detail: said.detail}); err != nil {
				return run, err
			}
		case err := <-ended:
			switch {
			case ctx.Err() != nil:
				return run, context.Cause(ctx)
			case err != nil:
				return trouble(fail, err.Error())
			case run.test != "":
				return trouble(fail, "check ended in the middle of the test")
			}
			return run, nil
		case why := <-e.trouble():
			return trouble(fail, why)
		case <-limit.C:
			if run.test == "" {
				return trouble(hung, "check hangs between tests")
			}
			return trouble(hung, fmt.Sprintf("no end after %v", r.s.limit))
		case <-ctx.Done():
			return run, context.Cause(ctx)
		}
	}
}

// add records an outcome, which must be of the test whose turn it is, and shows it.
func (r *runner) add(o outcome) error {
	if n := len(r.outcomes); n == len(r.s.tests) || o.test != r.s.tests[n] {
		return fmt.Errorf("check ran %s out of turn, as test %d", o.test, n+1)
	}
	r.outcomes = append(r.outcomes, o)
	mark := " "
	if !r.expected.met(o) {
		mark = "!"
	}
	fmt.Printf("[%d/%d] %s %s %s %.1fs  %s\n", len(r.outcomes), len(r.s.tests), mark, o.test, o.result, o.seconds, shorten(o.reason))
	return r.tsv.add(o)
}

// note records trouble that belongs to no test.
func (r *runner) note(format string, arguments ...any) {
	text := fmt.Sprintf(format, arguments...)
	fmt.Println(text)
	r.notes = append(r.notes, text)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
