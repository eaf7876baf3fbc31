package main

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	someOutcomes = []outcome{
		{test: "generic/001", result: pass, seconds: 6},
		{test: "generic/004", result: notrun, seconds: 1.5, reason: "xfs_io flink failed"},
		{test: "generic/013", result: fail, seconds: 7.25, reason: "output \"mismatch\"", detail: "a\x1b <b>"},
		{test: "generic/062", result: fail, seconds: 4, reason: "output mismatch"},
		{test: "generic/476", result: hung, seconds: 600, reason: "no end after 10m0s"},
		{test: "generic/751", result: pass, seconds: 2},
	}
	someExpectations = expectations{
		"generic/062": {[]result{fail}, "a tool's warning"},
		"generic/751": {[]result{fail}, "it can't work"},
	}
)

func TestTable(t *testing.T) {
	var got strings.Builder
	if err := writeTable(&got, someOutcomes, someExpectations); err != nil {
		t.Fatal(err)
	}
	want := `test         result  seconds  reason
generic/001  pass    6.0      
generic/004  notrun  1.5      xfs_io flink failed
generic/013  fail    7.2      ! output "mismatch"
generic/062  fail    4.0      expected: a tool's warning
generic/476  hung    600.0    ! no end after 10m0s
generic/751  pass    2.0      ! expected to fail: it can't work
`
	if got.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", got.String(), want)
	}
	const line = "6 tests: 2 pass, 2 fail, 1 notrun, 1 hung; 3 unexpected; 1m0s"
	if got := summary(someOutcomes, someExpectations, time.Minute); got != line {
		t.Errorf("summary is %q, want %q", got, line)
	}
}

func TestTSVComesBack(t *testing.T) {
	var file bytes.Buffer
	w, err := newTSV(&file)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range someOutcomes {
		if err := w.add(o); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readTSV(&file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(someOutcomes) || got[2].test != "generic/013" || got[2].result != fail || got[2].reason != someOutcomes[2].reason {
		t.Errorf("read back %v", got)
	}
}

func TestJUnit(t *testing.T) {
	var file bytes.Buffer
	if err := writeJUnit(&file, someOutcomes, someExpectations, time.Minute); err != nil {
		t.Fatal(err)
	}
	var got junitSuite
	if err := xml.Unmarshal(file.Bytes(), &got); err != nil {
		t.Fatalf("%v\n%s", err, file.String())
	}
	if got.Tests != 6 || got.Failures != 2 || got.Errors != 1 || got.Skipped != 2 {
		t.Errorf("%d tests, %d failures, %d errors, %d skipped", got.Tests, got.Failures, got.Errors, got.Skipped)
	}
	if c := got.Cases[2]; c.Class != "xfstests.generic" || c.Name != "013" || c.Failure == nil || c.Failure.Text != "a <b>" {
		t.Errorf("the case of generic/013 is %+v", c)
	}
	if c := got.Cases[3]; c.Skipped == nil || c.Skipped.Message != "expected: a tool's warning" {
		t.Errorf("the case of generic/062 is %+v", c)
	}
	if c := got.Cases[4]; c.Error == nil {
		t.Errorf("the case of generic/476 is %+v", c)
	}
}

func TestCompare(t *testing.T) {
	tests := []struct {
		name, a, b string
		good       bool
		lines      []string
	}{
		{"same", "generic/001\tpass\t1.0\t\n", "generic/001\tpass\t9.0\t\n", true, []string{"1 tests in A, 1 in B; 0 differ"}},
		{"worse", "generic/001\tpass\t1.0\t\n", "generic/001\tfail\t1.0\tEIO\n", false, []string{"generic/001  pass  ! fail", "1 differ"}},
		{"better", "generic/001\thung\t1.0\t\n", "generic/001\tpass\t1.0\t\n", true, []string{"generic/001  hung  pass"}},
		{"elsewhere", "generic/001\tpass\t1.0\t\n", "generic/002\tfail\t1.0\t\n", true, []string{"generic/001  pass  -", "generic/002  -     fail"}},
		{"worst counts", "generic/001\tpass\t1.0\t\n", "generic/001\tfail\t1.0\t\ngeneric/001\tpass\t1.0\t\n", false, []string{"! fail"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var dirs []string
			for _, rows := range []string{test.a, test.b} {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, tsvName), []byte(strings.Join(columns, "\t")+"\n"+rows), 0o644); err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, dir)
			}
			var out strings.Builder
			good, err := compareRuns(&out, dirs[0], dirs[1])
			if err != nil || good != test.good {
				t.Errorf("good is %v, %v", good, err)
			}
			for _, line := range test.lines {
				if !strings.Contains(out.String(), line) {
					t.Errorf("no %q in\n%s", line, out.String())
				}
			}
		})
	}
}
