package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// results counts tests, subtests and checks.
type results struct {
	passed, failed, skipped int
	failures                []string
	skips                   []string // with the reason
}

func (r *results) add(other results) {
	r.passed += other.passed
	r.failed += other.failed
	r.skipped += other.skipped
	r.failures = append(r.failures, other.failures...)
	r.skips = append(r.skips, other.skips...)
}

// print ends with the line that counts.
func (r *results) print(took time.Duration) {
	fmt.Printf("\n=== results after %s\n", took.Round(time.Second))
	slices.Sort(r.skips)
	for i := 0; i < len(r.skips); {
		n := i
		for n < len(r.skips) && r.skips[n] == r.skips[i] {
			n++
		}
		fmt.Printf("skipped: %s\n", r.skips[i])
		i = n
	}
	for _, name := range r.failures {
		fmt.Printf("failed: %s\n", name)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
}

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
}

// count reads the events of a run. A package that fails without a failed test, as one that does not compile or that
// dies, is a failure of its own.
func count(file string) (results, error) {
	f, err := os.Open(file)
	if err != nil {
		return results{}, err
	}
	defer f.Close()
	var r results
	failedIn := map[string]bool{}
	reason := map[string]string{}
	for d := json.NewDecoder(f); ; {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return r, nil
		} else if err != nil {
			return r, fmt.Errorf("%s: %w", file, err)
		}
		name := path.Join(path.Base(e.Package), e.Test)
		switch {
		case e.Action == "output" && e.Test != "":
			// The reason for a skip is the last line that the test logs.
			if text := strings.TrimSpace(e.Output); !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") {
				reason[name] = text
			}
		case e.Action == "pass" && e.Test != "":
			r.passed++
		case e.Action == "skip" && e.Test != "":
			r.skipped++
			r.skips = append(r.skips, name+": "+reason[name])
		case e.Action == "fail" && (e.Test != "" || !failedIn[e.Package]):
			r.failed++
			r.failures = append(r.failures, name)
			failedIn[e.Package] = true
		}
	}
}
