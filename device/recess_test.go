package device

import (
	"testing"
	"time"
)

func TestRecessIsForRequestsInQuickSuccession(t *testing.T) {
	var r recess
	now := time.Now()
	for _, step := range []struct {
		what   string
		later  time.Duration
		served int
		over   bool // a recess has just ended
		due    bool
	}{
		{"the first request", 0, 1, false, false},
		{"another much later", time.Second, 1, false, false},
		{"the next at once", recessBelow / 2, 1, false, true},
		{"some after the recess", recessLength, 10, true, true},
		{"many after the recess", recessLength, recessMost, true, false},
		{"the next at once", recessBelow / 2, 1, false, true},
		{"none after the recess", recessLength, 0, true, false},
		{"one a while later", recessLength, 1, false, false},
	} {
		now = now.Add(step.later)
		if step.over {
			r.over(now)
		}
		if got := r.due(step.served, now); got != step.due {
			t.Errorf("%s: %v", step.what, got)
		}
	}
}
