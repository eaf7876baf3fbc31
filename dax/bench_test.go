package dax

import (
	"fmt"
	"testing"
	"time"
)

// fillWindow shows n ranges of one file.
func fillWindow(b *testing.B, m *Manager, n int) (*Op, *testFile) {
	op := m.NewOp()
	f := newTestFile(b, int64(n)*RangeSize, 'a')
	for i := range uint32(n) {
		show(b, m, op, f, uint64(i)*RangeSize, i)
	}
	return op, f
}

// BenchmarkSetupRemove is one SETUPMAPPING and one REMOVEMAPPING of a range, with
// other ranges mapped or not.
func BenchmarkSetupRemove(b *testing.B) {
	for _, mapped := range []int{0, 16, 400} {
		b.Run(fmt.Sprintf("mapped=%d", mapped), func(b *testing.B) {
			m := testManager(b, Config{Window: 401 * RangeSize})
			op, f := fillWindow(b, m, max(mapped, 1))
			entries := []RemoveMapping{{400 * RangeSize, RangeSize}}
			b.ReportAllocs()
			for b.Loop() {
				show(b, m, op, f, 500*RangeSize, 400)
				m.RemoveMappings(op, entries)
			}
		})
	}
}

// BenchmarkFault is the first touch of a range by the guest: with the file's
// pages in the host's page cache, and again after reclaim.
func BenchmarkFault(b *testing.B) {
	const ranges = 64
	m := testManager(b, Config{Window: ranges * RangeSize})
	fillWindow(b, m, ranges)
	g := startGuest(b, m)
	var total time.Duration
	touches := 0
	for b.Loop() {
		m.Reclaim(0)
		// Every other range, since a fault may bring in the next one too.
		r := g.do(guestCall{Op: "touch", Len: ranges * RangeSize, Seed: 2 * RangeSize})
		total += time.Duration(r.N)
		touches += ranges / 2
	}
	s := m.Stats()
	b.ReportMetric(float64(total.Nanoseconds())/float64(touches), "ns/fault")
	b.ReportMetric(float64(s.FaultBytes)/float64(touches), "B/fault")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRead is the guest reading everything once, in order, after reclaim.
func BenchmarkRead(b *testing.B) {
	const ranges = 64
	m := testManager(b, Config{Window: ranges * RangeSize})
	fillWindow(b, m, ranges)
	g := startGuest(b, m)
	b.SetBytes(ranges * RangeSize)
	for b.Loop() {
		m.Reclaim(0)
		g.do(guestCall{Op: "touch", Len: ranges * RangeSize, Seed: 4096})
	}
}

// BenchmarkReclaim takes back everything, clean or dirty, by number of ranges.
func BenchmarkReclaim(b *testing.B) {
	for _, dirty := range []bool{false, true} {
		for _, ranges := range []int{16, 64, 400} {
			b.Run(fmt.Sprintf("dirty=%v/ranges=%d", dirty, ranges), func(b *testing.B) {
				m := testManager(b, Config{Window: uint64(ranges) * RangeSize})
				fillWindow(b, m, ranges)
				g := startGuest(b, m)
				var total time.Duration
				var bytes, took uint64
				for b.Loop() {
					call := guestCall{Op: "touch", Len: uint64(ranges) * RangeSize, Seed: 4096}
					if dirty {
						call = guestCall{Op: "dirty", Len: uint64(ranges) * RangeSize, Data: []byte("x")}
					}
					g.do(call)
					start := time.Now()
					bytes += m.Reclaim(0)
					total += time.Since(start)
					took += uint64(ranges)
				}
				b.ReportMetric(float64(took)/total.Seconds(), "ranges/s")
				b.ReportMetric(float64(bytes)/total.Seconds()/1e6, "MB/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkExclude is a small WRITE to a file, by whether it is mapped and its
// pages are cached.
func BenchmarkExclude(b *testing.B) {
	m := testManager(b, Config{})
	for _, mapped := range []bool{false, true} {
		b.Run(fmt.Sprintf("mapped=%v", mapped), func(b *testing.B) {
			op := m.NewOp()
			f := newTestFile(b, RangeSize, 'a')
			if mapped {
				show(b, m, op, f, 0, 0)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := op.BeginWrite(&f.Inode, 0, 100, false, nil); err != nil {
					b.Fatal(err)
				}
				op.End()
			}
		})
	}
}
