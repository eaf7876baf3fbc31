package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// measureHost runs package dax's benchmarks.
func measureHost(ctx context.Context, c config) ([]measurement, error) {
	var all []measurement
	for round := range c.rounds {
		fmt.Fprintf(os.Stderr, "host: round %d of %d\n", round+1, c.rounds)
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark(SetupRemove|Fault|Read|Reclaim)$", "-benchtime", c.hostTime.String(),
			"github.com/virtiofsd-go/virtiofsd-go/dax")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("the benchmarks of package dax: %w\n%s", err, out)
		}
		m, err := parseBenchmarks(bytes.NewReader(out), round+1)
		if err != nil {
			return nil, err
		}
		if len(m) == 0 {
			return nil, fmt.Errorf("the benchmarks of package dax measured nothing:\n%s", out)
		}
		all = append(all, m...)
	}
	return all, nil
}

// procs is the suffix that go test gives to names, except on one processor. No parameter ends in such a thing.
var procs = regexp.MustCompile(`-\d+$`)

// parseBenchmarks reads what go test -bench prints.
func parseBenchmarks(r io.Reader, round int) ([]measurement, error) {
	var all []measurement
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(f[1]); err != nil {
			continue
		}
		name := strings.TrimPrefix(procs.ReplaceAllString(f[0], ""), "Benchmark")
		name, rest, _ := strings.Cut(name, "/")
		var params []param
		for p := range strings.SplitSeq(rest, "/") {
			if k, v, ok := strings.Cut(p, "="); ok {
				params = append(params, param{k, v})
			}
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("not a benchmark's line: %q", s.Text()), err)
			}
			all = append(all, measurement{"host", name, params, round, f[i+1], v})
		}
	}
	return all, s.Err()
}
