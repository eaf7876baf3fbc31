package main

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }

// Every workload runs against the daemon twice over, and all its answers are right.
func TestEveryWorkloadRuns(t *testing.T) {
	command := strings.Join(daemontest.Command(t), " ") + " --queues={queues} --xattr --posix-lock --log-level=warn"
	out := filepath.Join(t.TempDir(), "out")
	var stdout, stderr bytes.Buffer
	err := run([]string{"--daemon", "one=" + command, "--vs", "two=" + command, "--depth", "1,8", "--queues", "1,2", "--rounds", "1", "--slice", "5ms",
		"--entries", "500", "--idle", "10ms", "--out", out}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	b, err := os.ReadFile(out + ".tsv")
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma = '\t'
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := 1
	for _, w := range workloads {
		depths := 2
		if w.depth > 0 {
			depths = 1
		}
		want += 2 * 2 * depths // daemons, numbers of queues
	}
	if len(lines) != want {
		t.Errorf("%d lines of results, not %d", len(lines), want)
	}
	last := len(lines[0]) - 1
	for _, l := range lines[1:] {
		if l[last] != "" {
			t.Errorf("%v: %s", l[:5], l[last])
		}
		kept, err := strconv.ParseFloat(l[last-1], 64)
		if beside := strings.Contains(l[0], "+"); err != nil || beside != (kept > 0) {
			t.Errorf("%v: %q of the rate is left beside something else", l[:5], l[last-1])
		}
	}
	b, err = os.ReadFile(out + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal("the plot:", err)
		}
	}
}

func TestRatioIsTakenWithinRounds(t *testing.T) {
	a := &outcome{rounds: []result{{opsPerSec: 100}, {opsPerSec: 10}, {opsPerSec: 30}}}
	b := &outcome{rounds: []result{{opsPerSec: 50}, {opsPerSec: 5}, {opsPerSec: 10}}}
	if got := ratio(a, b, ops); got != 2 {
		t.Errorf("the median of 2, 2 and 3 is %v", got)
	}
	if got := ratio(a, &outcome{}, ops); !math.IsNaN(got) {
		t.Errorf("the ratio of no rounds is %v", got)
	}
}

func TestWrongAnswersAreErrors(t *testing.T) {
	l := &getattr{ino: 1}
	if err := wrong("GETATTR", 2, l.ino); !strings.Contains(err.Error(), "wrong answer") {
		t.Error(err)
	}
	_, err := parseTarget("name=daemon without a place for the socket")
	if err == nil {
		t.Error("a command without {socket} is taken")
	}
}

func TestStepsVisitEverything(t *testing.T) {
	for _, n := range []int{1, 2, 7, 64, 1000, 16384} {
		seen := make([]bool, n)
		s := newSteps(3, n)
		for range n {
			seen[s.next()] = true
		}
		for i, ok := range seen {
			if !ok {
				t.Fatalf("%d of %d is never drawn", i, n)
			}
		}
	}
}
