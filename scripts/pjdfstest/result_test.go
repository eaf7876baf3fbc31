package main

import (
	"errors"
	"testing"
)

func TestOutcomes(t *testing.T) {
	parsed := func(output string) *result { return parse("group/00.t", []byte(output), nil) }
	against := func(r, host *result) *result { r.host = host; return r }
	for _, c := range []struct {
		name   string
		result *result
		want   string
	}{
		{"all pass", parsed("1..2\nok 1\nok 2\n"), "pass"},
		{"one fails", parsed("1..2\nok 1\nnot ok 2 - tried 'rename a b', expected 0, got EIO\n"), "fail"},
		{"one is missing", parsed("1..3\nok 1\nok 2\n"), "fail"},
		{"a failure that is to be", parsed("1..1\nnot ok 1 # TODO not yet\n"), "pass"},
		{"does not apply", parsed("1..0 # SKIP no such flag\n"), "notrun"},
		{"plans nothing", parsed("1..0\n"), "notrun"},
		{"no plan", parsed("sh: no such file\n"), "hung"},
		{"did not end", &result{broken: errors.New("it did not end")}, "hung"},
		{"fails on the host too", against(parsed("1..1\nnot ok 1\n"), parsed("1..1\nnot ok 1\n")), "fail(host)"},
		{"another fails on the host", against(parsed("1..2\nok 1\nnot ok 2\n"), parsed("1..2\nnot ok 1\nok 2\n")), "fail"},
	} {
		if got := c.result.outcome(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
