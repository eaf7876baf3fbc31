package device

// requestList is a queue of requests, linked by next. A request is in one list at
// a time. Its owner has the lock.
type requestList struct{ first, last *request }

// push adds r at the end.
func (l *requestList) push(r *request) {
	r.next = nil
	if l.last == nil {
		l.first = r
	} else {
		l.last.next = r
	}
	l.last = r
}

// pushFront adds r at the front.
func (l *requestList) pushFront(r *request) {
	r.next = l.first
	l.first = r
	if l.last == nil {
		l.last = r
	}
}

// take removes the first request; nil: there is none.
func (l *requestList) take() *request {
	r := l.first
	if r == nil {
		return nil
	}
	l.first, r.next = r.next, nil
	if l.first == nil {
		l.last = nil
	}
	return r
}

// takeOf removes the first request of u's; nil: there is none.
func (l *requestList) takeOf(u *run) *request {
	for before, r := (*request)(nil), l.first; r != nil; before, r = r, r.next {
		if r.run != u {
			continue
		}
		if before == nil {
			return l.take()
		}
		if before.next = r.next; l.last == r {
			l.last = before
		}
		r.next = nil
		return r
	}
	return nil
}

// takeAll removes all requests, and returns the first, to which the others stay
// linked; nil: there are none.
func (l *requestList) takeAll() *request {
	r := l.first
	*l = requestList{}
	return r
}
