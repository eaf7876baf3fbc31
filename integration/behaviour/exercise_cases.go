package behaviour

import "fmt"

var exerciseCases = []testCase{
	{"random calls by one handle agree with a model", nil, func(t *T) {
		for seed := range uint64(4) {
			e := Exercise{Seed: seed, Ops: t.scaled(1500, 150), MaxSize: 400 << 10}
			t.ok(e.Run(t.FS, fmt.Sprintf("f%d", seed)), "exercise")
		}
	}},
	{"random calls by several handles agree with a model", nil, func(t *T) {
		for seed := range uint64(4) {
			e := Exercise{Seed: 100 + seed, Ops: t.scaled(1500, 150), MaxSize: 400 << 10, Handles: 5}
			t.ok(e.Run(t.FS, fmt.Sprintf("f%d", seed)), "exercise")
		}
	}},
	{"random calls on a small file agree with a model", nil, func(t *T) {
		e := Exercise{Seed: 7, Ops: t.scaled(3000, 400), MaxSize: 9000, Handles: 2}
		t.ok(e.Run(t.FS, "f"), "exercise")
	}},
	{"random calls without mappings agree with a model", nil, func(t *T) {
		e := Exercise{Seed: 8, Ops: t.scaled(2000, 200), MaxSize: 1 << 20, Handles: 3, Without: []string{"mapread", "mapwrite"}}
		t.ok(e.Run(t.FS, "f"), "exercise")
	}},
	{"random calls by many at once far apart agree with their models", nil, func(t *T) {
		e := Exercise{Seed: 200, Ops: t.scaled(500, 80), MaxSize: 100<<10 + 777, Handles: 2, Writers: 4, Stride: 1 << 20}
		t.ok(e.Run(t.FS, "f"), "exercise")
	}},
	{"random calls by many at once side by side agree with their models", []Capability{SharedPages}, func(t *T) {
		e := Exercise{Seed: 200, Ops: t.scaled(500, 80), MaxSize: 100<<10 + 777, Handles: 2, Writers: 4}
		t.ok(e.Run(t.FS, "f"), "exercise")
	}},
	{"random calls on many files at once agree with their models", nil, func(t *T) {
		t.storm(4, func(w int) error {
			e := Exercise{Seed: 300 + uint64(w), Ops: t.scaled(600, 80), MaxSize: 300 << 10, Handles: 2}
			return e.Run(t.FS, fmt.Sprintf("f%d", w))
		})
	}},
}
