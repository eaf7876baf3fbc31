package main

import "slices"

// grouped returns the measurements that differ only in the round, in the order of their first.
func grouped(all []measurement) [][]measurement {
	type key struct{ where, name, params, unit string }
	at := map[key]int{}
	var out [][]measurement
	for _, m := range all {
		k := key{m.where, m.name, m.describe(), m.unit}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], m)
	}
	return out
}

func median(g []measurement) float64 {
	var v []float64
	for _, m := range g {
		v = append(v, m.value)
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
