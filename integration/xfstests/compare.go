package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// compareRuns shows where two runs differ. It is good if no test does worse in the second than in the first.
func compareRuns(out io.Writer, first, second string) (good bool, err error) {
	a, err := readRun(first)
	if err != nil {
		return false, err
	}
	b, err := readRun(second)
	if err != nil {
		return false, err
	}
	differences := compare(a, b)
	good = true
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(differences) > 0 {
		fmt.Fprintln(w, "test\tA\tB\tA's reason\tB's reason")
	}
	for _, d := range differences {
		mark := ""
		if d.worse() {
			good, mark = false, "! "
		}
		fmt.Fprintf(w, "%s\t%s\t%s%s\t%s\t%s\n", d.test, orNone(d.a.result), mark, orNone(d.b.result), shorten(d.a.reason), shorten(d.b.reason))
	}
	if err := w.Flush(); err != nil {
		return false, err
	}
	fmt.Fprintf(out, "%d tests in A, %d in B; %d differ\n", len(a), len(b), len(differences))
	return good, nil
}

// readRun reads the results in a run's directory, or a file of them.
func readRun(path string) (map[string]outcome, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, tsvName)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	outcomes, err := readTSV(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return worst(outcomes), nil
}

// severity orders results; what a test did worst counts where it ran more than once.
var severity = []result{pass, notrun, fail, hung}

func worst(outcomes []outcome) map[string]outcome {
	byTest := map[string]outcome{}
	for _, o := range outcomes {
		seen, ok := byTest[o.test]
		if !ok || slices.Index(severity, o.result) > slices.Index(severity, seen.result) {
			byTest[o.test] = o
		}
	}
	return byTest
}

type difference struct {
	test string
	a, b outcome // without a result where the test was not part of the run
}

// worse leaves out tests that only one run has.
func (d difference) worse() bool {
	return d.a.result != "" && d.b.result != "" && slices.Index(severity, d.b.result) > slices.Index(severity, d.a.result)
}

func compare(a, b map[string]outcome) []difference {
	var names []string
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var found []difference
	for _, name := range names {
		if d := (difference{name, a[name], b[name]}); d.a.result != d.b.result {
			found = append(found, d)
		}
	}
	return found
}

func orNone(r result) string {
	if r == "" {
		return "-"
	}
	return string(r)
}
