package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// guestPackages boot guests: they have a stage of their own, in which nothing else competes for the CPUs.
const guestPackages = "/integration/guest"

func allStages(ctx context.Context, fuzzTime time.Duration) ([]stage, error) {
	packages, err := list(ctx, "go", "list", "./...")
	if err != nil {
		return nil, err
	}
	// gofmt goes into every directory below, the caches in build too.
	directories, err := list(ctx, "go", "list", "-f", "{{.Dir}}", "./...")
	if err != nil {
		return nil, err
	}
	var plain, guests []string
	for _, p := range packages {
		if strings.Contains(p, guestPackages) {
			guests = append(guests, p)
		} else {
			plain = append(plain, p)
		}
	}
	fuzz, err := fuzzSteps(ctx, plain, fuzzTime)
	if err != nil {
		return nil, err
	}
	// -count=1: the cache of results does not know of the daemon, which the tests build.
	race := append([]string{"-race", "-count=1", "-timeout=15m"}, plain...)
	// Without -p go test would take GOMAXPROCS for the number of packages to test at once, too.
	single := append([]string{"-count=1", "-p=2", "-timeout=15m"}, plain...)
	artifacts, err := filepath.Abs(filepath.Join(resultDirectory, "guest"))
	if err != nil {
		return nil, err
	}
	inGuest := append([]string{"-count=1", "-timeout=30m", "-artifacts", "-outputdir=" + artifacts}, guests...)
	return []stage{
		{name: "static", steps: []step{
			check{"gofmt -s", append([]string{"gofmt", "-s", "-l"}, directories...)},
			check{"go vet", []string{"go", "vet", "./..."}},
			check{"staticcheck", []string{"go", "tool", "staticcheck", "./..."}},
			check{"go mod tidy", []string{"go", "mod", "tidy", "-diff"}},
		}},
		{name: "race", steps: []step{goTest{name: "race", format: "pkgname", arguments: race, env: []string{"VIRTIOFSD_TEST_BUILDFLAGS=-race", "BEHAVIOUR_SCALE=10"}}}},
		{name: "one-processor", steps: []step{goTest{name: "one-processor", format: "pkgname", arguments: single, env: []string{"GOMAXPROCS=1", "BEHAVIOUR_SCALE=4"}}}},
		{name: "fuzz", steps: fuzz, atOnce: 2},
		{name: "guest", steps: []step{goTest{name: "guest", format: "testname", arguments: inGuest}}},
	}, nil
}

// fuzzSteps finds the fuzz targets. Each gets one worker, so that two of them share two CPUs fairly.
func fuzzSteps(ctx context.Context, packages []string, fuzzTime time.Duration) ([]step, error) {
	var steps []step
	for _, p := range packages {
		names, err := list(ctx, "go", "test", "-list=^Fuzz", p)
		if err != nil {
			continue // it does not compile, which another stage reports
		}
		for _, name := range names {
			if strings.HasPrefix(name, "Fuzz") {
				steps = append(steps, goTest{
					name:      "fuzz-" + filepath.Base(p) + "-" + name,
					format:    "testname",
					arguments: []string{"-run=^$", "-fuzz=^" + name + "$", "-fuzztime=" + fuzzTime.String(), "-parallel=1", "-timeout=15m", p},
				})
			}
		}
	}
	return steps, nil
}

func list(ctx context.Context, command ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return strings.Fields(string(out)), nil
}

type step interface {
	run(context.Context) (results, error)
}

// check is a command that prints nothing and succeeds if all is well.
type check struct {
	name    string
	command []string
}

func (c check) run(ctx context.Context) (results, error) {
	begin := time.Now()
	out, err := exec.CommandContext(ctx, c.command[0], c.command[1:]...).CombinedOutput()
	took := time.Since(begin).Round(100 * time.Millisecond)
	// Progress of downloads is no finding.
	var findings [][]byte
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte("go: downloading ")) {
			findings = append(findings, line)
		}
	}
	if err != nil || len(findings) > 0 {
		fmt.Printf("FAIL %s (%v)\n%s", c.name, took, bytes.Join(findings, nil))
		return results{failed: 1, failures: []string{c.name}}, nil
	}
	fmt.Printf("PASS %s (%v)\n", c.name, took)
	return results{passed: 1}, nil
}

// goTest is a run of go test, shown by gotestsum and counted from the events that it keeps.
type goTest struct {
	name      string
	format    string // of gotestsum
	arguments []string
	env       []string
}

func (g goTest) run(ctx context.Context) (results, error) {
	events := filepath.Join(resultDirectory, g.name+".json")
	arguments := append([]string{"tool", "gotestsum", "--format=" + g.format, "--hide-summary=skipped", "--jsonfile=" + events, "--"}, g.arguments...)
	cmd := exec.CommandContext(ctx, "go", arguments...)
	cmd.Env = append(os.Environ(), g.env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	var status *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &status) {
		return results{}, err
	}
	r, err := count(events)
	if err != nil {
		return results{}, err
	}
	if status != nil && r.failed == 0 {
		r.failed++
		r.failures = append(r.failures, g.name+" ended with "+status.String())
	}
	return r, nil
}
