package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// row is a workload at a depth, with a number of request queues.
type row struct {
	w      *workload
	depth  int
	queues int
}

func (r row) String() string {
	return fmt.Sprintf("%s, depth %d, queues %d", r.w.name, r.depth, r.queues)
}

// result is what one daemon did in one round of a row.
type result struct {
	opsPerSec     float64
	mbPerSec      float64
	p50, p99, max time.Duration
	cpuPerOp      time.Duration // of the daemon
	switchesPerOp float64
	rss           uint64
	kept          float64 // of the rate without the disturbance, for workloads that have one
}

// outcome is what one daemon did in a row: one result for each round, or what went wrong.
type outcome struct {
	rounds []result
	err    error
}

// runRow runs a row on all targets in turn, over and over.
func runRow(r row, targets []*target, rounds int, slice time.Duration) map[*target]*outcome {
	out := map[*target]*outcome{}
	for _, t := range targets {
		out[t] = &outcome{}
	}
	for range rounds {
		for _, t := range targets {
			o := out[t]
			if o.err != nil || t.sess == nil {
				continue
			}
			res, err := runOnce(r, t, slice)
			if err != nil {
				o.err = err
				continue
			}
			o.rounds = append(o.rounds, res)
		}
	}
	return out
}

// finisher is a lane that holds something at the end.
type finisher interface{ finish() error }

func runOnce(r row, t *target, slice time.Duration) (res result, err error) {
	// Nothing is collected while a driver's thread sleeps without the scheduler's knowledge.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	// A daemon with fewer queues has the same number of requests in flight on those.
	lanes := make([]lane, r.depth*r.queues)
	for i := range lanes {
		lanes[i] = r.w.lane(t.sess, i, len(lanes))
	}
	if r.w.beside == nil {
		smp, err := measure(t, lanes, nil, slice)
		if err == nil {
			err = finish(r, t, lanes)
		}
		return newResult(r, smp), err
	}
	return runBeside(r, t, lanes, slice)
}

// besideSlices is how many slices a row takes in which there is something beside the workload: it takes the scheduler of the
// host some time to find a processor for everybody.
const besideSlices = 8

// slices is how many slices the row takes.
func (r row) slices() int {
	if r.w.beside != nil {
		return besideSlices
	}
	return 1
}

// runBeside measures the workload alone, beside the disturbance for twice as long, and alone again.
func runBeside(r row, t *target, lanes []lane, slice time.Duration) (res result, err error) {
	before, err := measure(t, lanes, nil, slice*besideSlices/4)
	if err != nil {
		return res, err
	}
	slow, err := r.w.beside(t.sess)
	if err != nil {
		return res, err
	}
	beside, err := measure(t, lanes, []lane{slow}, slice*besideSlices/2)
	if err == nil {
		err = finish(r, t, append(lanes, slow))
	}
	if err != nil {
		return res, err
	}
	after, err := measure(t, lanes, nil, slice*besideSlices/4)
	if err != nil {
		return res, err
	}
	res = newResult(r, beside)
	res.kept = res.opsPerSec / ((newResult(r, before).opsPerSec + newResult(r, after).opsPerSec) / 2)
	return res, nil
}

func finish(r row, t *target, lanes []lane) error {
	for _, l := range lanes {
		if f, ok := l.(finisher); ok {
			if err := f.finish(); err != nil {
				return err
			}
		}
	}
	if err := t.sess.forgets.flush(true); err != nil {
		return err
	}
	if r.w.after != nil {
		return r.w.after(t.sess, lanes)
	}
	return nil
}

func newResult(r row, s sample) result {
	if s.ops == 0 {
		return result{}
	}
	ops := float64(s.ops) / s.elapsed.Seconds()
	return result{
		opsPerSec:     ops,
		mbPerSec:      ops * float64(r.w.bytes) / 1e6,
		p50:           time.Duration(s.hist.ValueAtQuantile(50)),
		p99:           time.Duration(s.hist.ValueAtQuantile(99)),
		max:           time.Duration(s.hist.Max()),
		cpuPerOp:      s.used.cpu / time.Duration(s.ops),
		switchesPerOp: float64(s.used.switches) / float64(s.ops),
		rss:           s.used.rss,
	}
}
