package device

import (
	"slices"
	"testing"
	"time"
)

func TestLongBatchIsPublishedInParts(t *testing.T) {
	for _, c := range []struct {
		what   string
		before int           // requests in the batch before
		each   time.Duration // what a request takes
		n      int
		after  []int // the requests that end a part
	}{
		{"slow requests", 8, 10 * time.Microsecond, 8, []int{1, 2, 4, 6, 8}},
		{"requests as long as a part", 8, partsFirst, 12, []int{1, 3, 7, 11}},
		{"quick ones", 8, partsFirst / 4, 8, []int{4}},
		{"very quick ones", 8, partsFirst / 10, 8, nil},
		{"many under way", partsBelow, 10 * time.Microsecond, 8, nil},
	} {
		var p parts
		p.end(c.before)
		now := time.Now()
		p.begin(now)
		var got []int
		for i := range c.n {
			now = now.Add(c.each)
			if p.over(now) {
				got = append(got, i+1)
			}
		}
		if !slices.Equal(got, c.after) {
			t.Errorf("%s: a part ends after requests %v, not %v", c.what, got, c.after)
		}
	}
}
