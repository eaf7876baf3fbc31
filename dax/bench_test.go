package dax

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var benchThreads = []int{1, 2, 4}

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
// other ranges mapped or not, by number of threads that do it.
func BenchmarkSetupRemove(b *testing.B) {
	for _, mapped := range []int{0, 16, 400} {
		for _, threads := range benchThreads {
			b.Run(fmt.Sprintf("mapped=%d/threads=%d", mapped, threads), func(b *testing.B) {
				m := testManager(b, Config{Window: uint64(mapped+threads) * RangeSize})
				if mapped > 0 {
					fillWindow(b, m, mapped)
				}
				files := make([]*testFile, threads)
				for i := range files {
					files[i] = newTestFile(b, RangeSize, 'a')
				}
				b.ReportAllocs()
				b.ResetTimer()
				start := time.Now()
				var wg sync.WaitGroup
				for i, f := range files {
					wg.Go(func() {
						op := m.NewOp()
						place := uint32(mapped + i)
						entries := []RemoveMapping{{uint64(place) * RangeSize, RangeSize}}
						for n := i; n < b.N; n += threads {
							if err := m.SetupMapping(op, &f.Inode, f, 0, entries[0].Moffset, RangeSize, SetupRead|SetupWrite); err != nil {
								b.Error(err)
							}
							m.RemoveMappings(op, entries)
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "pairs/s")
			})
		}
	}
}

// BenchmarkFault is the guest's touch of a range whose pages the host has in its
// page cache: the first touch after the mapping was set up, and a touch after
// reclaim; by number of threads that touch.
func BenchmarkFault(b *testing.B) {
	const ranges = 64
	for _, first := range []bool{true, false} {
		for _, threads := range benchThreads {
			b.Run(fmt.Sprintf("first=%v/threads=%d", first, threads), func(b *testing.B) {
				m := testManager(b, Config{Window: ranges * RangeSize})
				op, f := fillWindow(b, m, ranges)
				g := startGuest(b, m)
				var total time.Duration
				touches := 0
				begin := m.Stats()
				for b.Loop() {
					if first {
						all := make([]RemoveMapping, ranges)
						for i := range all {
							all[i] = RemoveMapping{uint64(i) * RangeSize, RangeSize}
						}
						m.RemoveMappings(op, all)
						for i := range uint32(ranges) {
							show(b, m, op, f, uint64(i)*RangeSize, i)
						}
					} else {
						m.Reclaim(0)
					}
					// Every other range, since a fault may bring in the next one too.
					var replies []chan guestReply
					for i := range uint64(threads) {
						part := uint64(ranges/threads) * RangeSize
						replies = append(replies, g.start(guestCall{Op: "touch", Off: i * part, Len: part, Seed: 2 * RangeSize}))
					}
					for _, reply := range replies {
						r := <-reply
						if r.Err != "" {
							b.Fatal(r.Err)
						}
						total += time.Duration(r.N)
					}
					touches += ranges / 2
				}
				s := m.Stats()
				b.ReportMetric(float64(total.Nanoseconds())/float64(touches), "ns/fault")
				b.ReportMetric(float64(s.FaultBytes-begin.FaultBytes)/float64(touches), "B/fault")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkRead is the guest reading everything once, in order, after reclaim, by whether the host has it in its page cache.
func BenchmarkRead(b *testing.B) {
	const ranges = 64
	for _, cold := range []bool{false, true} {
		b.Run(fmt.Sprintf("cold=%v", cold), func(b *testing.B) {
			m := testManager(b, Config{Window: ranges * RangeSize})
			_, f := fillWindow(b, m, ranges)
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			g := startGuest(b, m)
			b.SetBytes(ranges * RangeSize)
			for b.Loop() {
				m.Reclaim(0)
				if cold {
					b.StopTimer()
					if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				g.do(guestCall{Op: "touch", Len: ranges * RangeSize, Seed: 4096})
			}
		})
	}
}

// BenchmarkReclaim takes back everything, clean or dirty, by number of ranges and
// of threads that each ask for their share of it. (One reclaim runs at a time.)
func BenchmarkReclaim(b *testing.B) {
	for _, ranges := range []int{16, 64, 160, 400} {
		b.Run(fmt.Sprintf("ranges=%d", ranges), func(b *testing.B) {
			m := testManager(b, Config{Window: uint64(ranges) * RangeSize})
			fillWindow(b, m, ranges)
			g := startGuest(b, m)
			for _, dirty := range []bool{false, true} {
				for _, threads := range benchThreads {
					b.Run(fmt.Sprintf("dirty=%v/threads=%d", dirty, threads), func(b *testing.B) { benchReclaim(b, m, g, ranges, dirty, threads) })
				}
			}
		})
	}
}

func benchReclaim(b *testing.B, m *Manager, g *guest, ranges int, dirty bool, threads int) {
	var total time.Duration
	var took, bytes uint64
	call := guestCall{Op: "touch", Len: uint64(ranges) * RangeSize, Seed: 4096}
	if dirty {
		call = guestCall{Op: "dirty", Len: uint64(ranges) * RangeSize, Data: []byte("x")}
	}
	m.Reclaim(0)
	begin := m.Stats()
	for b.Loop() {
		g.do(call)
		start := time.Now()
		var wg sync.WaitGroup
		for range threads {
			wg.Go(func() { m.Reclaim(uint64(ranges) * RangeSize / uint64(threads)) })
		}
		wg.Wait()
		total += time.Since(start)
		s := m.Stats()
		took += s.ReclaimedRanges - begin.ReclaimedRanges
		bytes += s.ReclaimedBytes - begin.ReclaimedBytes
		m.Reclaim(0) // what second chances have left
		begin = m.Stats()
	}
	b.ReportMetric(float64(took)/total.Seconds(), "ranges/s")
	b.ReportMetric(float64(bytes)/total.Seconds()/1e6, "MB/s")
	b.ReportMetric(0, "ns/op")
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
