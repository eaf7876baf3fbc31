package main

import (
	"slices"
	"testing"
)

const checkPrints = `FSTYP         -- virtiofs
PLATFORM      -- Linux/x86_64 guest
MKFS_OPTIONS  -- scratch
MOUNT_OPTIONS -- scratch /mnt/scratch

generic/001         6s
generic/004       [not run] xfs_io flink  failed (old kernel/wrong fs?)
generic/013   7s ... [failed, exit status 1]- output mismatch (see /run/results/generic/013.out.bad)
    --- tests/generic/013.out	2026-11-21 01:38:50.000000000 +0000
    +++ /run/results/generic/013.out.bad	2026-11-21 05:28:51.083242747 +0000
    @@ -4,6 +4,7 @@
     fsstress.1 : -r
    +    fsstress (count=1000) returned 1
    ...

HINT: you have hit a bug
generic/062   3s ...  42s
generic/097        - output mismatch (see /run/results/generic/097.out.bad)
    --- tests/generic/097.out	2026-11-21 01:38:50.000000000 +0000
    +++ /run/results/generic/097.out.bad	2026-11-21 05:28:51.083242747 +0000
    @@ -1,2 +1 @@
     QA output created by 097
    -user.foo="bar"
generic/451        _check_dmesg: something found in dmesg (see /run/results/generic/451.dmesg)

Ran: generic/001 generic/004 generic/013 generic/062 generic/097 generic/451
Not run: generic/004
Failures: generic/013 generic/097 generic/451
Failed 3 of 6 tests
`

func TestCheckOutputIsReadInAnyPieces(t *testing.T) {
	want := []event{
		{test: "generic/001"},
		{test: "generic/001", result: pass},
		{test: "generic/004"},
		{test: "generic/004", result: notrun, reason: "xfs_io flink  failed (old kernel/wrong fs?)"},
		{test: "generic/013"},
		{test: "generic/013", result: fail, reason: "[failed, exit status 1]- output mismatch: fsstress (count=1000) returned 1"},
		{test: "generic/062"},
		{test: "generic/062", result: pass},
		{test: "generic/097"},
		{test: "generic/097", result: fail, reason: `output mismatch: missing: user.foo="bar"`},
		{test: "generic/451"},
		{test: "generic/451", result: fail, reason: "_check_dmesg: something found in dmesg"},
	}
	for _, size := range []int{1, 2, 7, 100, len(checkPrints)} {
		var got []event
		c := &checkOutput{emit: func(e event) {
			if e.result == fail && e.detail == "" {
				t.Errorf("the failure of %s has no detail", e.test)
			}
			e.detail = ""
			got = append(got, e)
		}}
		for piece := range slices.Chunk([]byte(checkPrints), size) {
			c.Write(piece)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: %q\nwant %q", size, got, want)
		}
	}
}

func TestTestIsAnnouncedWhenItBegins(t *testing.T) {
	var got []event
	c := &checkOutput{emit: func(e event) { got = append(got, e) }}
	c.Write([]byte("generic/001         6s\ngeneric/476   "))
	if len(got) != 3 || got[2].test != "generic/476" || got[2].result != "" {
		t.Errorf("a test that runs was not announced: %v", got)
	}
}
