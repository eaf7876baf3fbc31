package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// report collects the outcomes of all rows; the first target is what the others are compared with.
type report struct {
	targets []*target
	rows    []row
	out     []map[*target]*outcome // by row
}

func (p *report) add(r row, out map[*target]*outcome) {
	p.rows = append(p.rows, r)
	p.out = append(p.out, out)
}

// median of f over the rounds.
func (o *outcome) median(f func(result) float64) float64 {
	var v []float64
	for _, r := range o.rounds {
		v = append(v, f(r))
	}
	return median(v)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// ratio is the median over the rounds of f of a divided by f of b in the same round.
func ratio(a, b *outcome, f func(result) float64) float64 {
	var v []float64
	for i := range min(len(a.rounds), len(b.rounds)) {
		if d := f(b.rounds[i]); d > 0 {
			v = append(v, f(a.rounds[i])/d)
		}
	}
	return median(v)
}

func ops(r result) float64  { return r.opsPerSec }
func p99(r result) float64  { return float64(r.p99) }
func cpu(r result) float64  { return float64(r.cpuPerOp) }
func kept(r result) float64 { return r.kept }

const microsecond = float64(time.Microsecond)

// table writes the medians, and for each other daemon how the first compares with it.
func (p *report) table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "workload\tqueues\tdepth\tdaemon\tops/s\tMB/s\tp50 µs\tp99 µs\tmax µs\tCPU µs/op\tsleeps/op\tkept\tops ratio\tp99 ratio\tCPU ratio\t\n")
	for i, r := range p.rows {
		first := p.out[i][p.targets[0]]
		for k, t := range p.targets {
			o := p.out[i][t]
			fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t", r.w.name, r.queues, r.depth, t.name)
			if o.err != nil {
				fmt.Fprintf(tw, "%s\t\t\t\t\t\t\t\t\t\t\t\n", short(o.err))
				continue
			}
			mb := "-"
			if r.w.bytes > 0 {
				mb = fmt.Sprintf("%.0f", o.median(func(r result) float64 { return r.mbPerSec }))
			}
			left := "-"
			if r.w.beside != nil {
				left = fmt.Sprintf("%.0f %%", 100*o.median(kept))
			}
			var most time.Duration
			for _, r := range o.rounds {
				most = max(most, r.max)
			}
			fmt.Fprintf(tw, "%.0f\t%s\t%.1f\t%.1f\t%.0f\t%.2f\t%.2f\t%s\t", o.median(ops), mb,
				o.median(func(r result) float64 { return float64(r.p50) })/microsecond, o.median(p99)/microsecond, float64(most)/microsecond,
				o.median(cpu)/microsecond, o.median(func(r result) float64 { return r.switchesPerOp }), left)
			if k == 0 || first.err != nil {
				fmt.Fprint(tw, "\t\t\t\n")
				continue
			}
			fmt.Fprintf(tw, "%.2f\t%.2f\t%.2f\t\n", ratio(first, o, ops), ratio(first, o, p99), ratio(first, o, cpu))
		}
	}
	return tw.Flush()
}

func short(err error) string {
	s := err.Error()
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return s
}

// summary compares the first daemon with each other over all rows.
func (p *report) summary(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%s against\trows\tops/s, geometric mean\tlowest\tbehind in\tp99 higher at depth 1\tCPU/op, geometric mean\thighest\thigher in\t\n", p.targets[0].name)
	for _, t := range p.targets[1:] {
		var speed, effort comparison
		late := 0
		for i, r := range p.rows {
			a, b := p.out[i][p.targets[0]], p.out[i][t]
			if a.err != nil || b.err != nil || r.w.beside != nil {
				continue
			}
			speed.add(r, ratio(a, b, ops))
			effort.add(r, ratio(a, b, cpu))
			if r.depth == 1 && ratio(a, b, p99) > 1 {
				late++
			}
		}
		if speed.n == 0 {
			continue
		}
		fmt.Fprintf(tw, "%s\t%d\t%.2f\t%.2f (%v)\t%d\t%d\t%.2f\t%.2f (%v)\t%d\t\n", t.name, speed.n, speed.mean(), speed.low, speed.lowRow,
			speed.below, late, effort.mean(), effort.high, effort.highRow, speed.n-effort.below)
	}
	return tw.Flush()
}

// comparison sums up ratios.
type comparison struct {
	n, below        int // below 1
	logs            float64
	low, high       float64
	lowRow, highRow row
}

func (c *comparison) add(r row, ratio float64) {
	if c.n == 0 || ratio < c.low {
		c.low, c.lowRow = ratio, r
	}
	if c.n == 0 || ratio > c.high {
		c.high, c.highRow = ratio, r
	}
	if ratio < 1 {
		c.below++
	}
	c.logs += math.Log(ratio)
	c.n++
}

func (c *comparison) mean() float64 { return math.Exp(c.logs / float64(c.n)) }

// tsv writes every round of every row.
func (p *report) tsv(w io.Writer) error {
	if _, err := fmt.Fprintln(w, "workload\tqueues\tdepth\tround\tdaemon\tops_per_s\tmb_per_s\tp50_ns\tp99_ns\tmax_ns\tcpu_ns_per_op\tsleeps_per_op\trss_bytes\tkept\terror"); err != nil {
		return err
	}
	for i, r := range p.rows {
		for _, t := range p.targets {
			o := p.out[i][t]
			for k, s := range o.rounds {
				if _, err := fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%.1f\t%.3f\t%d\t%d\t%d\t%d\t%.4f\t%d\t%.4f\t\n", r.w.name, r.queues, r.depth, k+1, t.name,
					s.opsPerSec, s.mbPerSec, s.p50, s.p99, s.max, s.cpuPerOp, s.switchesPerOp, s.rss, s.kept); err != nil {
					return err
				}
			}
			if o.err != nil {
				if _, err := fmt.Fprintf(w, "%s\t%d\t%d\t\t%s\t\t\t\t\t\t\t\t\t\t%q\n", r.w.name, r.queues, r.depth, t.name, o.err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
