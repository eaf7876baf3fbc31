package main

import (
	"bufio"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"
)

//go:embed expected/*.txt
var lists embed.FS

// expectation is what a test may do other than pass.
type expectation struct {
	results []result
	reason  string
}

// expectations are by test. One that is not listed has to pass, or not to apply.
type expectations map[string]expectation

func readExpectations(mode string) (expectations, error) {
	f, err := lists.Open("expected/" + mode + ".txt")
	if err != nil {
		return nil, fmt.Errorf("no expectations for mode %q: %w", mode, err)
	}
	defer f.Close()
	return parseExpectations(f)
}

// parseExpectations reads lines of a test, its results separated by commas, and the reason. # begins a comment line.
func parseExpectations(list io.Reader) (expectations, error) {
	e := expectations{}
	lines := bufio.NewScanner(list)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return nil, fmt.Errorf("line %d: a test, its results and the reason are needed: %q", number, line)
		}
		if _, ok := e[fields[0]]; ok {
			return nil, fmt.Errorf("line %d: %s is listed twice", number, fields[0])
		}
		x := expectation{reason: strings.Join(fields[2:], " ")}
		for name := range strings.SplitSeq(fields[1], ",") {
			r := result(name)
			if !slices.Contains([]result{pass, fail, notrun, hung}, r) {
				return nil, fmt.Errorf("line %d: %q is no result", number, name)
			}
			x.results = append(x.results, r)
		}
		e[fields[0]] = x
	}
	return e, lines.Err()
}

// met tells whether a test did what is expected. One that does not apply breaks no expectation.
func (e expectations) met(o outcome) bool {
	if x, ok := e[o.test]; ok && o.result != notrun {
		return slices.Contains(x.results, o.result)
	}
	return o.result == pass || o.result == notrun
}

func unexpected(outcomes []outcome, e expectations) []outcome {
	var found []outcome
	for _, o := range outcomes {
		if !e.met(o) {
			found = append(found, o)
		}
	}
	return found
}
