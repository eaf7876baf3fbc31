package device

import "sync/atomic"

// turn is the right to take requests off a ring, which one thread at a time has.
type turn struct{ state atomic.Uint32 }

const (
	turnFree = iota
	turnTaken
	turnSought // taken, and somebody else wanted it since
)

// take takes the turn if nobody has it. Whoever has it looks at the ring once
// more otherwise, before giving it up: what the caller has been woken for is
// not lost.
func (t *turn) take() bool {
	for {
		switch t.state.Load() {
		case turnFree:
			if t.state.CompareAndSwap(turnFree, turnTaken) {
				return true
			}
		case turnTaken:
			if t.state.CompareAndSwap(turnTaken, turnSought) {
				return false
			}
		default:
			return false
		}
	}
}

// takeFree takes the turn if nobody has it, and does not care if somebody has.
func (t *turn) takeFree() bool {
	return t.state.Load() == turnFree && t.state.CompareAndSwap(turnFree, turnTaken)
}

// leave gives the turn up, unless somebody has sought it: then it stays with the
// caller, who has to look at the ring again.
func (t *turn) leave() bool {
	if t.state.CompareAndSwap(turnTaken, turnFree) {
		return true
	}
	t.state.Store(turnTaken)
	return false
}

// drop gives the turn up for somebody who will look at the ring in any case.
func (t *turn) drop() { t.state.Store(turnFree) }
