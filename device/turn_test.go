package device

import "testing"

func TestTurnStaysWithItsHolderWhenSought(t *testing.T) {
	var u turn
	if !u.take() {
		t.Fatal("a free turn is not to be had")
	}
	if !u.leave() || !u.take() {
		t.Fatal("a turn that nobody seeks can't be given up")
	}
	for range 2 {
		if u.take() {
			t.Fatal("a turn is given twice")
		}
	}
	if u.leave() {
		t.Error("a turn was given up although somebody had sought it")
	}
	if !u.leave() {
		t.Error("it can't be given up after another look")
	}
}
