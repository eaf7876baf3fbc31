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
		visits int
		over   bool // a recess has just ended
		due    time.Duration
	}{
		{"the first request", 0, 1, 0, false, 0},
		{"another much later", time.Second, 1, 0, false, 0},
		{"the next at once", recessBelow / 2, 1, 0, false, recessFirst},
		{"some after the recess", recessFirst, 10, 0, true, recessFirst},
		{"many after the recess", recessFirst, recessWorth, 0, true, 0},
		{"the next at once", recessBelow / 2, 1, 0, false, recessFirst},
		{"none after the recess", recessFirst, 0, 0, true, 0},
		{"one a while later", recessFirst, 1, 0, false, 0},
		{"the next at once", recessBelow / 2, 1, 0, false, recessFirst},
		{"others have served some", recessFirst, 0, 10, true, 2 * recessFirst},
		{"others have served many", 2 * recessFirst, 1, 100, true, 4 * recessFirst},
		{"once more", 4 * recessFirst, 1, 1, true, recessMost},
		{"and again", recessMost, 1, 1, true, recessMost},
		{"more than others can serve", recessMost, recessWorth, 32, true, 0},
		{"the next at once", recessBelow / 2, 1, 0, false, recessFirst},
		{"others have served some", recessFirst, 0, 10, true, 2 * recessFirst},
		{"nobody has served any", recessMost, 0, 0, true, 0},
	} {
		now = now.Add(step.later)
		if step.over {
			r.over(now)
		}
		r.visits = step.visits
		if got := r.due(step.served, now); got != step.due {
			t.Errorf("%s: %v", step.what, got)
		}
	}
}
