package device

import (
	"slices"
	"testing"
)

func TestRequestListKeepsItsOrder(t *testing.T) {
	a, b, c := new(request), new(request), new(request)
	for _, tt := range []struct {
		name string
		do   func(l *requestList)
		want []*request
	}{
		{"empty", func(l *requestList) {}, nil},
		{"one at the end", func(l *requestList) { l.push(a) }, []*request{a}},
		{"one at the front", func(l *requestList) { l.pushFront(a) }, []*request{a}},
		{"at the end", func(l *requestList) { l.push(a); l.push(b); l.push(c) }, []*request{a, b, c}},
		{"at the front", func(l *requestList) { l.pushFront(a); l.pushFront(b); l.push(c) }, []*request{b, a, c}},
		{"after it was emptied", func(l *requestList) { l.push(a); l.take(); l.push(b); l.push(a) }, []*request{b, a}},
		{"after all were taken", func(l *requestList) { l.push(a); l.push(b); l.takeAll(); l.push(b); l.pushFront(a) }, []*request{a, b}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var one, all requestList
			tt.do(&one)
			var got []*request
			for r := one.take(); r != nil; r = one.take() {
				if r.next != nil {
					t.Error("a request that was taken is linked")
				}
				got = append(got, r)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("taken one by one they are %v, want %v", got, tt.want)
			}
			tt.do(&all)
			got = nil
			for r := all.takeAll(); r != nil; r = r.next {
				got = append(got, r)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("taken at once they are %v, want %v", got, tt.want)
			}
			if one != (requestList{}) || all != (requestList{}) {
				t.Error("a list from which all were taken is not empty")
			}
		})
	}
}

func TestRequestsOfOneRunAreTakenOutOfTheMiddle(t *testing.T) {
	mine, others := new(run), new(run)
	for _, runs := range [][]*run{{mine}, {mine, others}, {others, mine}, {others, mine, others}, {mine, mine}, {others, mine, mine}, {others}, nil} {
		var l requestList
		var want, left []*request
		for _, u := range runs {
			r := &request{run: u}
			l.push(r)
			if u == mine {
				want = append(want, r)
			} else {
				left = append(left, r)
			}
		}
		for _, w := range append(want, nil) {
			if got := l.takeOf(mine); got != w || got != nil && got.next != nil {
				t.Errorf("of %d requests: took %p, not %p", len(runs), got, w)
			}
		}
		last := new(request)
		l.push(last)
		for _, w := range append(left, last, nil) {
			if got := l.take(); got != w {
				t.Errorf("of %d requests: left %p, not %p", len(runs), got, w)
			}
		}
	}
}
