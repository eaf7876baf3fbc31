package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

const printed = `goos: linux
BenchmarkSetupRemove/mapped=16/threads=2-2         	    1762	    165705 ns/op	      6035 pairs/s	     284 B/op
BenchmarkSetupRemove/mapped=16/threads=4         	    1762	    100000 ns/op	      7000 pairs/s	     284 B/op
BenchmarkFault/first=true/threads=1-2            	       1	   4194304 B/fault	   3323333 ns/fault
BenchmarkReclaim
BenchmarkReclaim/ranges=400/dirty=true/threads=4-2 	       1	2092.42 MB/s	       997.7 ranges/s
PASS
`

func testMeasurements(t *testing.T) []measurement {
	t.Helper()
	var all []measurement
	for round := range 3 {
		m, err := parseBenchmarks(strings.NewReader(printed), round+1)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m...)
	}
	for _, ratio := range []string{"0.5", "8", "2"} {
		all = append(all, measurement{"guest", "WorkingSet", []param{{"engine", "mmap"}, {"access", "read"}, {"ratio", ratio}}, 1, "MB/s", 100})
	}
	return all
}

func TestBenchmarksAreRead(t *testing.T) {
	all, err := parseBenchmarks(strings.NewReader(printed), 7)
	if err != nil || len(all) != 10 {
		t.Fatalf("%d measurements, %v", len(all), err)
	}
	m := all[1]
	if m.where != "host" || m.name != "SetupRemove" || m.describe() != "mapped=16 threads=2" || m.round != 7 || m.unit != "pairs/s" || m.value != 6035 {
		t.Errorf("%+v", m)
	}
	if got := all[4].param("threads"); got != "4" {
		t.Errorf("on one processor threads=%s", got)
	}
	if _, err := parseBenchmarks(strings.NewReader("BenchmarkX-2 1 many ns/op\n"), 1); err == nil {
		t.Error("a line that is none was taken")
	}
}

func TestMedianIsOverTheRounds(t *testing.T) {
	g := []measurement{{value: 5}, {value: 1}, {value: 3}}
	if m := median(g); m != 3 {
		t.Errorf("median of three: %v", m)
	}
	if m := median(g[:2]); m != 3 {
		t.Errorf("median of two: %v", m)
	}
	for _, g := range grouped(testMeasurements(t)) {
		if g[0].where == "host" && len(g) != 3 {
			t.Errorf("%v in %d rounds", g[0], len(g))
		}
	}
}

func TestLinesAreInOrderOfTheAxis(t *testing.T) {
	names, points := panels[4].lines(testMeasurements(t))
	if len(names) != 1 || names[0] != "access=read" || len(points[names[0]]) != 3 || points[names[0]][1].X != 2 || points[names[0]][2].X != 8 {
		t.Errorf("%v %v", names, points)
	}
}

func TestOutputIsComplete(t *testing.T) {
	all := testMeasurements(t)
	var b bytes.Buffer
	if err := tsv(&b, all); err != nil || strings.Count(b.String(), "\n") != len(all)+1 {
		t.Errorf("%d lines for %d measurements, %v", strings.Count(b.String(), "\n"), len(all), err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Count(line, "\t") != 5 {
			t.Errorf("%q", line)
		}
	}
	b.Reset()
	if err := svg(&b, all); err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{"set-up and remove", "a fault of the guest", "ranges/s", "in a guest, mmap"} {
		if !strings.Contains(b.String(), title) {
			t.Errorf("no panel with %q", title)
		}
	}
	d := xml.NewDecoder(&b)
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := svg(io.Discard, nil); err != nil {
		t.Errorf("nothing measured: %v", err)
	}
}
