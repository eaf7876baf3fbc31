package device

import (
	"runtime"
	"time"
)

// read is a thread of the ring: it is the reader whenever it has the turn. Its
// OS thread ends with it.
func (u *run) read() {
	runtime.LockOSThread()
	th, err := u.dev.opts.Server.NewThread()
	if err != nil {
		u.giveUp(kindThread, err)
		u.idleUntilStop()
		u.end()
		return
	}
	u.readWith(th)
}

// relieve is a second thread of the ring, which reads while the first one serves
// a request that may block. It ends when it has had nothing to do for a while.
func (u *run) relieve() {
	runtime.LockOSThread()
	th, err := u.dev.opts.Server.NewThread()
	if err != nil {
		u.dev.limited.warn(kindThread, "a thread can't be started; requests that may block go to the workers", "queue", u.ring.index, "err", err)
		u.end()
		return
	}
	u.mu.Lock()
	u.ready++
	u.mu.Unlock()
	u.readWith(th)
}

// readWith reads, or waits to, until the thread ends.
func (u *run) readWith(th Thread) {
	r := u.newRequest()
	stay, sane, err := true, true, error(nil)
	for stay && sane && err == nil && !u.stopping.Load() && !u.givenUp.Load() {
		led := u.turn.take()
		if led {
			sane, err = u.lead(th, &r)
		}
		// A rest may have taken the call that told of the stop.
		if sane && err == nil && !u.stopping.Load() {
			stay, err = u.await(led)
		}
	}
	closeThread(th)
	if !sane {
		// What the thread holds (credentials, for one) can't be trusted.
		go u.read()
		return
	}
	if err != nil {
		u.giveUp(kindRing, err)
	}
	if stay {
		u.idleUntilStop()
	}
	u.end()
}

// lead reads until there is nothing left and the driver kicks for more. It comes
// with the turn and returns without it. sane is false when th can't be used any
// more; an error means that the ring is broken.
func (u *run) lead(th Thread, r **request) (sane bool, err error) {
	for {
		idle := true
		if u.enabled.Load() && !u.stopping.Load() && !u.givenUp.Load() {
			idle, sane, err = u.look(th, r)
			if !sane || err != nil {
				u.turn.drop()
				return sane, err
			}
		}
		switch {
		case !idle:
			// It is not to wait for what others do all the time.
			u.handOver()
		case u.held != nil && u.joinHeld():
		case u.held != nil:
			if back, sane := u.serveHeld(th); !back || !sane {
				return sane, nil
			}
		case u.turn.leave():
			return true, nil
		}
	}
}

// look serves what there is in the ring. It returns idle when there is nothing
// more and the driver kicks.
func (u *run) look(th Thread, r **request) (idle, sane bool, err error) {
	u.q.DisableNotify()
	served, sane, err := u.serveAvailable(th, r)
	if !sane || err != nil {
		return false, sane, err
	}
	if u.takenBack {
		u.takenBack = false
		served++
	}
	if served > 0 {
		u.w.found()
		if u.poll(served) {
			return false, true, nil
		}
	}
	if u.stopping.Load() {
		return true, true, nil
	}
	if u.ring.index == hiprio {
		if d := u.recess.due(served, time.Now()); d > 0 {
			return false, true, u.rest(d)
		}
	}
	return !u.q.EnableNotify(), true, nil
}

// relieved says whether the reader may serve a request that may block: whether
// another thread waits to take its place. If there is none it starts one.
func (u *run) relieved() bool {
	if u.ring.index == hiprio || !u.w.kicked() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.threads == 1 && !u.stopping.Load() {
		u.threads++
		go u.relieve()
	}
	return u.ready > 1
}

// handOver gives a request that is held to a worker.
func (u *run) handOver() {
	if r := u.held; r != nil {
		u.held = nil
		u.route(r, Again)
	}
}

// joinHeld has the held request wait for a worker that serves one which it can
// be answered with, if there is one.
func (u *run) joinHeld() bool {
	if u.held.joint == 0 {
		return false
	}
	u.held.chain.Rewind()
	if !u.dev.pool.join(u.held) {
		return false
	}
	u.ring.stats.Handed.Add(1)
	u.held = nil
	return true
}

// serveHeld serves the held request while another thread reads. It returns
// whether the turn is the caller's after that.
func (u *run) serveHeld(th Thread) (back, sane bool) {
	u.mu.Lock()
	away := u.ready > 1 && !u.stopping.Load()
	if away {
		u.ready--
	}
	u.mu.Unlock()
	if !away {
		u.handOver()
		return true, true
	}
	r := u.held
	u.held = nil
	for !u.turn.leave() {
		// Whoever has sought the turn has taken the call that told of what there is.
		if u.hasAgain.Load() || u.q.EnableNotify() {
			u.present()
			u.route(r, Again)
			return true, true
		}
	}
	r.chain.Rewind()
	written, v, sane := u.dev.serve(th, r, true)
	// The driver need not kick, and so wake the other thread, for what it does as
	// soon as it has the answer.
	back = sane && u.turn.take()
	if back && !u.stopping.Load() {
		u.q.DisableNotify()
	}
	u.finish(r, written, v)
	u.present()
	if back {
		// The driver takes its time to see the answer.
		u.pace.step()
	}
	return back, sane
}

// present ends what serveHeld began.
func (u *run) present() {
	u.mu.Lock()
	u.ready++
	u.mu.Unlock()
}

// await waits until there may be something to read. led says that the thread has
// just read. It returns false if the thread is needed no more.
func (u *run) await(led bool) (stay bool, err error) {
	u.mu.Lock()
	limit := time.Duration(-1)
	if u.ready > 1 {
		limit = u.dev.opts.WorkerIdle
	}
	u.mu.Unlock()
	woken, err := u.w.sleep(led, limit)
	if woken || err != nil {
		u.ring.stats.Wakeups.Add(1)
		return true, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ready > 1 {
		u.ready--
		return false, nil
	}
	return true, nil
}

// giveUp tells the front-end that the ring is broken. It is not looked at again
// until it is started anew.
func (u *run) giveUp(k kind, err error) {
	if u.givenUp.Swap(true) {
		return
	}
	u.ring.stats.BrokenRings.Add(1)
	u.dev.limited.warn(k, "a queue is given up until the driver resets the device; if the guest hangs, restart it", "queue", u.ring.index, "err", err)
	if err := u.ring.errs.signal(); err != nil {
		u.dev.limited.warn(kindSignal, "the front-end can't be told about a broken queue; if the guest hangs, restart it", "queue", u.ring.index, "err", err)
	}
	u.w.forgetKick()
}

func (u *run) idleUntilStop() {
	for !u.stopping.Load() {
		if u.w.wait() != nil {
			// The flag tells of the stop too.
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// end ends a thread of the ring. A call may have woken only one of them.
func (u *run) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.threads--; u.threads == 0 {
		close(u.ended)
	} else if u.stopping.Load() {
		u.w.call()
	}
}
