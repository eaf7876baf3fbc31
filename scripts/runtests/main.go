// Runtests runs everything that decides whether the tree is good: the formatting and static checks, every package's
// tests under the race detector and again on one processor, every fuzz target for a minute, and the tests in QEMU
// guests. `make test` starts it with the tools it needs; it stops at nothing and ends with a count of all results.
//
//	go run ./scripts/runtests [-only NAME,...] [-fuzztime 60s]
//
// Names are those it prints; results are kept in build/test.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const resultDirectory = "build/test"

func main() {
	only := flag.String("only", "", "run only these `stages`, separated by commas")
	fuzzTime := flag.Duration("fuzztime", time.Minute, "how long each fuzz target runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ok, err := run(ctx, *only, *fuzzTime)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, fuzzTime time.Duration) (bool, error) {
	if err := os.RemoveAll(resultDirectory); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Join(resultDirectory, "guest"), 0o755); err != nil {
		return false, err
	}
	stages, err := allStages(ctx, fuzzTime)
	if err != nil {
		return false, err
	}
	var total results
	begin := time.Now()
	for _, s := range stages {
		if only != "" && !contains(only, s.name) {
			continue
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		fmt.Printf("\n=== %s (%s so far, %s)\n", s.name, time.Since(begin).Round(time.Second), room())
		total.add(s.run(ctx))
	}
	total.print(time.Since(begin))
	return total.failed == 0, nil
}

func contains(list, name string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		if entry == name {
			return true
		}
	}
	return false
}

// room says how much space the tests have for their files, for whoever looks for the cause of a failure.
func room() string {
	var said []string
	for _, dir := range []string{resultDirectory, os.TempDir()} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil {
			said = append(said, fmt.Sprintf("%d MiB free in %s", st.Bavail*uint64(st.Bsize)>>20, dir))
		}
	}
	return strings.Join(said, ", ")
}

// stage is a group of steps, of which some may run at the same time.
type stage struct {
	name   string
	steps  []step
	atOnce int
}

// run runs every step. One that could not be run, or whose results could not be read, is a failure.
func (s stage) run(ctx context.Context) results {
	each := make([]results, len(s.steps))
	group := errgroup.Group{}
	group.SetLimit(max(1, s.atOnce))
	for i, step := range s.steps {
		group.Go(func() error {
			var err error
			if each[i], err = step.run(ctx); err != nil {
				each[i].failed++
				each[i].failures = append(each[i].failures, fmt.Sprintf("%s: %v (%s)", s.name, err, room()))
			}
			return nil
		})
	}
	_ = group.Wait()
	var total results
	for _, r := range each {
		total.add(r)
	}
	return total
}
