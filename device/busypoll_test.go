package device

import (
	"testing"
	"time"
)

func TestBusyPollIsForRequestsThatComeSoon(t *testing.T) {
	const limit = 25 * time.Microsecond
	p := busyPoll{limit: limit}
	looks := func(n int) (looked int) {
		for range n {
			if p.due() {
				looked++
			}
		}
		return looked
	}
	for _, step := range []struct {
		what string
		took time.Duration // 0: it found something
		skip int
	}{
		{"a look that found something", 0, 0},
		{"one in vain", limit, 4},
		{"a second", limit, 8},
		{"something", 0, 0},
		{"one in vain again", limit, 4},
		{"others had the processor", 100 * limit, 128},
		{"one in vain after that", limit, 16},
		{"the next", limit, 32},
		{"the next", limit, 64},
		{"the next", limit, 128},
		{"the next", limit, 128},
		{"something at last", 0, 0},
		{"one in vain once more", limit, 4},
	} {
		if step.took == 0 {
			p.found()
		} else {
			p.missed(step.took, limit)
		}
		if n := looks(step.skip); n != 0 {
			t.Errorf("after %s: %d of %d times it looked", step.what, n, step.skip)
		}
		if !p.due() {
			t.Errorf("after %s and %d sleeps it does not look", step.what, step.skip)
		}
	}
	for served, want := range map[int]time.Duration{1: limit, 3: 3 * limit, 100: busyPollBatch * limit} {
		if got := p.patience(served); got != want {
			t.Errorf("after %d requests a look may take %v, not %v", served, got, want)
		}
	}
	p = busyPoll{}
	if looks(1000) != 0 {
		t.Error("it looks although that is off")
	}
}
