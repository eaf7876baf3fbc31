package main

import (
	"strings"
	"testing"
)

func TestExpectations(t *testing.T) {
	e, err := parseExpectations(strings.NewReader("# comment\n\ngeneric/169 fail  xfs_io says more\ngeneric/476 hung,pass slow\n"))
	if err != nil {
		t.Fatal(err)
	}
	if x := e["generic/169"]; x.reason != "xfs_io says more" {
		t.Errorf("read %+v", x)
	}
	tests := []struct {
		test   string
		result result
		met    bool
	}{
		{"generic/001", pass, true},
		{"generic/001", notrun, true},
		{"generic/001", fail, false},
		{"generic/001", hung, false},
		{"generic/169", fail, true},
		{"generic/169", notrun, true},
		{"generic/169", pass, false},
		{"generic/169", hung, false},
		{"generic/476", hung, true},
		{"generic/476", pass, true},
		{"generic/476", fail, false},
	}
	for _, test := range tests {
		if got := e.met(outcome{test: test.test, result: test.result}); got != test.met {
			t.Errorf("%s %s is met: %v", test.test, test.result, got)
		}
	}
	for _, bad := range []string{"generic/001 fail", "generic/001 broken because", "generic/001 fail a\ngeneric/001 fail b"} {
		if _, err := parseExpectations(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestCheckedInExpectationsParse(t *testing.T) {
	files, err := lists.ReadDir("expected")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if _, err := readExpectations(strings.TrimSuffix(f.Name(), ".txt")); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
	if _, err := readExpectations("nothing"); err == nil {
		t.Error("a mode without a list was taken")
	}
}
