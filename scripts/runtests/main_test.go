package main

import (
	"context"
	"errors"
	"testing"
)

type fakeStep struct {
	results
	err error
}

func (s fakeStep) run(context.Context) (results, error) { return s.results, s.err }

func TestAStepThatCannotBeRunIsAFailureAndTheOthersCount(t *testing.T) {
	s := stage{name: "stage", steps: []step{
		fakeStep{results{passed: 3, skipped: 1}, nil},
		fakeStep{results{passed: 2}, errors.New("no space left on device")},
		fakeStep{results{passed: 1, failed: 1, failures: []string{"x"}}, nil},
	}}
	r := s.run(t.Context())
	if r.passed != 6 || r.failed != 2 || r.skipped != 1 || len(r.failures) != 2 {
		t.Errorf("%+v", r)
	}
}
