package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what became of a file of tests.
type result struct {
	name    string
	took    time.Duration
	planned int            // assertions
	skipped string         // why it does not apply
	passed  map[int]bool   // by number
	failed  map[int]string // by number, with what was expected
	broken  error          // it did not end, or not as it should
	output  string
	host    *result // nil where the host was not asked
}

var (
	plan   = regexp.MustCompile(`^1\.\.(\d+)(?:\s*#\s*(.*))?$`)
	answer = regexp.MustCompile(`^(not )?ok (\d+)(.*)$`)
)

// parse reads the Test Anything Protocol. Assertions that are missing have failed, and so has a file without a plan.
func parse(name string, output []byte, end error) *result {
	r := &result{name: name, planned: -1, passed: map[int]bool{}, failed: map[int]string{}, output: string(output)}
	for line := range strings.Lines(r.output) {
		line = strings.TrimRight(line, "\r\n")
		if m := plan.FindStringSubmatch(line); m != nil {
			r.planned, _ = strconv.Atoi(m[1])
			r.skipped = m[2]
		} else if m := answer.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[2])
			if m[1] == "" || strings.Contains(m[3], "# TODO") {
				r.passed[n] = true
			} else {
				r.failed[n] = strings.TrimLeft(m[3], " -")
			}
		}
	}
	switch {
	case r.planned < 0:
		r.broken = fmt.Errorf("it printed no plan (%v)", end)
	case r.planned == 0 && r.skipped == "":
		r.skipped = "it plans nothing here"
	}
	for n := 1; n <= r.planned; n++ {
		if _, failed := r.failed[n]; !failed && !r.passed[n] {
			r.failed[n] = "it was not run"
		}
	}
	return r
}

// ours are the failed assertions that hold on the host.
func (r *result) ours() []int {
	var numbers []int
	for n := range r.failed {
		if r.host == nil || r.host.broken != nil || r.host.passed[n] {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

func (r *result) outcome() string {
	switch {
	case r.broken != nil:
		return "hung"
	case len(r.ours()) > 0:
		return "fail"
	case len(r.failed) > 0:
		return "fail(host)"
	case r.skipped != "":
		return "notrun"
	default:
		return "pass"
	}
}

// reason is one line for a table.
func (r *result) reason() string {
	switch {
	case r.broken != nil:
		return r.broken.Error()
	case len(r.failed) > 0:
		numbers := r.ours()
		if len(numbers) == 0 {
			return fmt.Sprintf("%d assertions fail on the host's file system too", len(r.failed))
		}
		return fmt.Sprintf("%d: assertion %d: %s", len(numbers), numbers[0], r.failed[numbers[0]])
	default:
		return r.skipped
	}
}

// report writes the tables, prints what is not a pass and the summary, and tells whether there is no failure of ours.
func report(out string, results []*result, took time.Duration) (bool, error) {
	slices.SortFunc(results, func(a, b *result) int { return strings.Compare(a.name, b.name) })
	count := map[string]int{}
	assertions, failures := 0, 0
	table := &strings.Builder{}
	fmt.Fprintln(table, "test\toutcome\tpassed\tplanned\tseconds\treason")
	fmt.Println()
	for _, r := range results {
		outcome := r.outcome()
		count[outcome]++
		assertions += len(r.passed) + len(r.failed)
		failures += len(r.ours())
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%.1f\t%s\n", r.name, outcome, len(r.passed), r.planned, r.took.Seconds(), r.reason())
		if outcome != "pass" {
			fmt.Printf("%-10s %-24s %s\n", outcome, r.name, r.reason())
		}
		if len(r.failed) > 0 || r.broken != nil {
			path := filepath.Join(out, "failed", r.name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return false, err
			}
			if err := os.WriteFile(path, []byte(r.output), 0o644); err != nil {
				return false, err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(out, "results.tsv"), []byte(table.String()), 0o644); err != nil {
		return false, err
	}
	if err := writeJUnit(filepath.Join(out, "junit.xml"), results, took); err != nil {
		return false, err
	}
	fmt.Printf("%d files: %d pass, %d fail, %d fail as on the host, %d not run, %d hung; %d of %d assertions fail; %v\n",
		len(results), count["pass"], count["fail"], count["fail(host)"], count["notrun"], count["hung"], failures, assertions, took.Round(time.Second))
	return count["fail"]+count["hung"] == 0, nil
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     float64     `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    float64       `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// writeJUnit writes what CI systems read.
func writeJUnit(path string, results []*result, took time.Duration) error {
	suite := junitSuite{Name: program, Tests: len(results), Time: took.Seconds()}
	for _, r := range results {
		c := junitCase{Class: program + "." + filepath.Dir(r.name), Name: filepath.Base(r.name), Time: r.took.Seconds()}
		switch r.outcome() {
		case "fail", "hung":
			suite.Failures++
			c.Failure = &junitMessage{r.reason(), r.output}
		case "fail(host)", "notrun":
			suite.Skipped++
			c.Skipped = &junitMessage{Message: r.reason()}
		}
		suite.Cases = append(suite.Cases, c)
	}
	text, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(xml.Header), text...), 0o644)
}
