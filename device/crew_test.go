package device

import "testing"

func TestNothingJoinsARequestThatIsServed(t *testing.T) {
	var c crew
	th, first := new(crewThread), &request{joint: 7}
	c.lead(th, first)
	if c.join(&request{joint: 8}) || c.join(&request{}) {
		t.Error("a request joins one with which it has nothing in common")
	}
	second, third := &request{joint: 7}, &request{joint: 7}
	if !c.join(second) {
		t.Fatal("no request joins one that is being served")
	}
	c.served(first.leads)
	if !c.join(third) {
		t.Error("no request joins one that waits")
	}
	if batch := c.follow(th); batch != second || batch.next != third || third.next != nil {
		t.Fatalf("those that wait are %v", batch)
	}
	if second.leads != th {
		t.Error("nobody leads those that have waited")
	}
	c.served(second.leads)
	if c.join(&request{joint: 7}) {
		t.Error("a request joins one that was served, and that the driver may know to be done")
	}
	if len(c.leading) != 0 || c.follow(th) != nil {
		t.Error("the thread leads, with nothing to serve")
	}
	c.served(nil)
}
