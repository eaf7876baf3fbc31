package dax

import "slices"

// RangeSize is the size of one range of the window: the guest maps file pages in
// ranges of exactly this many bytes, aligned to it in the file and in the
// window (FUSE_DAX_SZ in fs/fuse/dax.c).
const RangeSize = 2 << 20

const rangeMask = RangeSize - 1

// maxSpans bounds a list of spans that crosses the link to the mount's server.
const maxSpans = 1024

// span is a piece of the window: Len bytes from window offset Off.
type span struct{ Off, Len uint64 }

func (s span) end() uint64          { return s.Off + s.Len }
func (s span) overlaps(o span) bool { return s.Off < o.end() && o.Off < s.end() }
func overlapsAny(l []span, s span) bool {
	for _, o := range l {
		if o.overlaps(s) {
			return true
		}
	}
	return false
}

// clip returns the part of s inside o; its length is 0 if there is none.
func (s span) clip(o span) span {
	lo, hi := max(s.Off, o.Off), min(s.end(), o.end())
	if lo >= hi {
		return span{}
	}
	return span{lo, hi - lo}
}

// addSpan adds s to l. Where l is full its last span grows to cover s: a list
// of spans may say more than was meant, never less.
func addSpan(l []span, s span) []span {
	if s.Len == 0 {
		return l
	}
	if n := len(l); n > 0 && l[n-1].end() == s.Off {
		l[n-1].Len += s.Len
		return l
	}
	if len(l) < maxSpans {
		return append(l, s)
	}
	last := &l[len(l)-1]
	lo, hi := min(last.Off, s.Off), max(last.end(), s.end())
	*last = span{lo, hi - lo}
	return l
}

// mergeSpans sorts l and joins what touches or overlaps, in place.
func mergeSpans(l []span) []span {
	if len(l) < 2 {
		return l
	}
	slices.SortFunc(l, func(a, b span) int {
		switch {
		case a.Off < b.Off:
			return -1
		case a.Off > b.Off:
			return 1
		}
		return 0
	})
	out := l[:1]
	for _, s := range l[1:] {
		last := &out[len(out)-1]
		if s.Off <= last.end() {
			last.Len = max(last.end(), s.end()) - last.Off
			continue
		}
		out = append(out, s)
	}
	return out
}
