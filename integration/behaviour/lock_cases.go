package behaviour

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ofdSet  = unix.F_OFD_SETLK
	ofdWait = unix.F_OFD_SETLKW
	ofdGet  = unix.F_OFD_GETLK
)

func region(kind int16, start, length int64) *unix.Flock_t {
	return &unix.Flock_t{Type: kind, Start: start, Len: length}
}

// waits runs fn, checks that it is still waiting after a moment, calls release, and checks that fn then passes.
func (t *T) waits(fn func() error, release func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	select {
	case err := <-done:
		t.ok(err, "the wait")
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting 20 s after the lock was given up")
	}
}

var lockCases = []testCase{
	{"flock: shared locks agree, an exclusive one does not", []Capability{Flock}, func(t *T) {
		a, b, c := t.rw("f"), t.rw("f"), t.rw("f")
		t.ok(a.Flock(unix.LOCK_SH|unix.LOCK_NB), "first shared lock")
		t.ok(b.Flock(unix.LOCK_SH|unix.LOCK_NB), "second shared lock")
		t.fails(c.Flock(unix.LOCK_EX|unix.LOCK_NB), "exclusive lock", unix.EWOULDBLOCK)
		t.ok(a.Flock(unix.LOCK_UN), "unlock")
		t.fails(c.Flock(unix.LOCK_EX|unix.LOCK_NB), "exclusive lock", unix.EWOULDBLOCK)
		t.ok(b.Flock(unix.LOCK_UN), "unlock")
		t.ok(c.Flock(unix.LOCK_EX|unix.LOCK_NB), "exclusive lock")
		t.fails(a.Flock(unix.LOCK_SH|unix.LOCK_NB), "shared lock", unix.EWOULDBLOCK)
	}},
	{"flock: a lock goes with the last close", []Capability{Flock}, func(t *T) {
		a, err := t.Open("f", unix.O_CREAT|unix.O_RDWR, 0o600)
		t.ok(err, "open")
		b := t.rw("f")
		t.ok(a.Flock(unix.LOCK_EX), "lock")
		t.fails(b.Flock(unix.LOCK_EX|unix.LOCK_NB), "second lock", unix.EWOULDBLOCK)
		t.ok(a.Close(), "close")
		t.ok(b.Flock(unix.LOCK_EX), "second lock")
	}},
	{"flock: a lock is upgraded and downgraded", []Capability{Flock}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Flock(unix.LOCK_SH|unix.LOCK_NB), "shared")
		t.ok(a.Flock(unix.LOCK_EX|unix.LOCK_NB), "upgrade")
		t.fails(b.Flock(unix.LOCK_SH|unix.LOCK_NB), "second lock", unix.EWOULDBLOCK)
		t.ok(a.Flock(unix.LOCK_SH|unix.LOCK_NB), "downgrade")
		t.ok(b.Flock(unix.LOCK_SH|unix.LOCK_NB), "second lock")
	}},
	{"flock: a waiter gets the lock when it is given up", []Capability{Flock}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Flock(unix.LOCK_EX), "lock")
		t.waits(func() error { return b.Flock(unix.LOCK_EX) }, func() { t.ok(a.Flock(unix.LOCK_UN), "unlock") })
		t.fails(a.Flock(unix.LOCK_SH|unix.LOCK_NB), "lock again", unix.EWOULDBLOCK)
	}},
	{"flock: a reading handle and a directory lock exclusively", []Capability{Flock}, func(t *T) {
		t.file("f", nil)
		t.ok(t.open(t.FS, "f", unix.O_RDONLY, 0).Flock(unix.LOCK_EX|unix.LOCK_NB), "lock by a reading handle")
		t.dir("d")
		t.ok(t.opendir("d").Flock(unix.LOCK_EX|unix.LOCK_NB), "lock of a directory")
		t.fails(t.opendir("d").Flock(unix.LOCK_EX|unix.LOCK_NB), "second lock", unix.EWOULDBLOCK)
	}},
	{"flock: locks hold for all names and after unlink", []Capability{Flock}, func(t *T) {
		a := t.rw("f")
		t.ok(t.Link("f", "g"), "link")
		b := t.rw("g")
		t.ok(a.Flock(unix.LOCK_EX|unix.LOCK_NB), "lock")
		t.fails(b.Flock(unix.LOCK_EX|unix.LOCK_NB), "lock by the other name", unix.EWOULDBLOCK)
		t.ok(t.Unlink("f"), "unlink")
		t.ok(t.Unlink("g"), "unlink")
		t.fails(b.Flock(unix.LOCK_EX|unix.LOCK_NB), "lock after unlink", unix.EWOULDBLOCK)
	}},
	{"flock: a strange request is EINVAL", []Capability{Flock}, func(t *T) {
		t.fails(t.rw("f").Flock(0), "no lock", unix.EINVAL)
	}},
	{"OFD: ranges conflict where they overlap", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 10, 10)), "lock")
		for _, c := range []struct {
			start, length int64
			free          bool
		}{{0, 10, true}, {20, 10, true}, {19, 1, false}, {10, 1, false}, {0, 11, false}, {0, 0, false}, {20, 0, true}, {5, 100, false}} {
			err := b.Fcntl(ofdSet, region(unix.F_WRLCK, c.start, c.length))
			if c.free {
				t.ok(err, "lock of %d+%d", c.start, c.length)
				t.ok(b.Fcntl(ofdSet, region(unix.F_UNLCK, c.start, c.length)), "unlock")
			} else {
				t.fails(err, "lock", unix.EAGAIN, unix.EACCES)
			}
		}
	}},
	{"OFD: read locks agree, a write lock does not", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_RDLCK, 0, 100)), "read lock")
		t.ok(b.Fcntl(ofdSet, region(unix.F_RDLCK, 50, 100)), "second read lock")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 50, 10)), "write lock", unix.EAGAIN, unix.EACCES)
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 100, 10)), "write lock beside it")
	}},
	{"OFD: GETLK tells the lock in the way", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 100, 50)), "lock")
		lk := region(unix.F_RDLCK, 0, 0)
		t.ok(b.Fcntl(ofdGet, lk), "getlk")
		equal(t, lk.Type, unix.F_WRLCK, "type")
		equal(t, lk.Start, 100, "start")
		equal(t, lk.Len, 50, "length")
		lk = region(unix.F_WRLCK, 0, 100)
		t.ok(b.Fcntl(ofdGet, lk), "getlk")
		equal(t, lk.Type, unix.F_UNLCK, "type where all is free")
		lk = region(unix.F_WRLCK, 0, 0)
		t.ok(a.Fcntl(ofdGet, lk), "getlk by the holder")
		equal(t, lk.Type, unix.F_UNLCK, "type by the holder")
	}},
	{"OFD: unlocking the middle leaves the ends", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 300)), "lock")
		t.ok(a.Fcntl(ofdSet, region(unix.F_UNLCK, 100, 100)), "unlock")
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 100, 100)), "lock of the middle")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 99, 1)), "lock before it", unix.EAGAIN, unix.EACCES)
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 200, 1)), "lock behind it", unix.EAGAIN, unix.EACCES)
	}},
	{"OFD: locks go with their handle's close", []Capability{OFDLocks}, func(t *T) {
		a, err := t.Open("f", unix.O_CREAT|unix.O_RDWR, 0o600)
		t.ok(err, "open")
		b := t.rw("f")
		other := t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 0)), "lock")
		t.ok(other.Close(), "close of another handle")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 1)), "lock", unix.EAGAIN, unix.EACCES)
		t.ok(a.Close(), "close of the handle")
		// A client of a server may tell it of the close a moment later.
		t.ok(b.Fcntl(ofdWait, region(unix.F_WRLCK, 0, 1)), "lock")
	}},
	{"OFD: a waiter gets its range when it is free", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 100)), "lock")
		t.waits(func() error { return b.Fcntl(ofdWait, region(unix.F_WRLCK, 50, 100)) },
			func() { t.ok(a.Fcntl(ofdSet, region(unix.F_UNLCK, 0, 100)), "unlock") })
		t.fails(a.Fcntl(ofdSet, region(unix.F_RDLCK, 149, 1)), "lock of the waiter's range", unix.EAGAIN, unix.EACCES)
	}},
	{"OFD: a waiter does not hold up other requests", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 0)), "lock")
		t.waits(func() error { return b.Fcntl(ofdWait, region(unix.F_WRLCK, 0, 0)) }, func() {
			for i := range byte(50) {
				t.pwrite(a, pattern(1000, i), 0)
				t.sameBytes(t.contents("f"), pattern(1000, i), "contents")
			}
			t.ok(a.Fcntl(ofdSet, region(unix.F_UNLCK, 0, 0)), "unlock")
		})
	}},
	{"OFD: many waiters all get the lock in the end", []Capability{OFDLocks}, func(t *T) {
		const n = 8
		done := make(chan error, n)
		var inside atomic.Int32
		for range n {
			f := t.rw("f")
			go func() {
				for range 5 {
					if err := f.Fcntl(ofdWait, region(unix.F_WRLCK, 0, 1)); err != nil {
						done <- err
						return
					}
					if inside.Add(1) != 1 {
						done <- errors.New("two hold the lock")
						return
					}
					inside.Add(-1)
					if err := f.Fcntl(ofdSet, region(unix.F_UNLCK, 0, 1)); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range n {
			select {
			case err := <-done:
				t.ok(err, "lock")
			case <-time.After(60 * time.Second):
				t.Fatal("a waiter never got the lock")
			}
		}
	}},
	{"OFD: a range to the end reaches past 4 GiB", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(ofdSet, region(unix.F_WRLCK, 1000, 0)), "lock")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 1<<62, 1)), "lock far away", unix.EAGAIN, unix.EACCES)
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 999, 1)), "lock before it")
	}},
	{"OFD: a range is from the position or the end too", []Capability{OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.write(a, make([]byte, 100))
		lk := region(unix.F_WRLCK, -10, 10)
		lk.Whence = unix.SEEK_END
		t.ok(a.Fcntl(ofdSet, lk), "lock from the end")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 95, 1)), "lock in it", unix.EAGAIN, unix.EACCES)
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 100, 1)), "lock behind it")
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 89, 1)), "lock before it")
	}},
	{"a write lock needs a writing handle, a read lock a reading one", []Capability{OFDLocks}, func(t *T) {
		t.file("f", nil)
		r, w := t.open(t.FS, "f", unix.O_RDONLY, 0), t.open(t.FS, "f", unix.O_WRONLY, 0)
		t.fails(r.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 1)), "write lock by a reader", unix.EBADF)
		t.fails(w.Fcntl(ofdSet, region(unix.F_RDLCK, 0, 1)), "read lock by a writer", unix.EBADF)
	}},
	{"POSIX: locks of one process agree among its handles", []Capability{PosixLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(unix.F_SETLK, region(unix.F_WRLCK, 0, 10)), "lock")
		t.ok(b.Fcntl(unix.F_SETLK, region(unix.F_WRLCK, 0, 10)), "lock by another handle")
		lk := region(unix.F_WRLCK, 0, 10)
		t.ok(b.Fcntl(unix.F_GETLK, lk), "getlk")
		equal(t, lk.Type, unix.F_UNLCK, "type")
	}},
	{"POSIX and OFD locks conflict", []Capability{PosixLocks, OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(unix.F_SETLK, region(unix.F_WRLCK, 0, 10)), "POSIX lock")
		t.fails(b.Fcntl(ofdSet, region(unix.F_WRLCK, 5, 10)), "OFD lock", unix.EAGAIN, unix.EACCES)
		t.ok(a.Fcntl(unix.F_SETLK, region(unix.F_UNLCK, 0, 10)), "unlock")
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 5, 10)), "OFD lock")
		t.fails(a.Fcntl(unix.F_SETLK, region(unix.F_RDLCK, 0, 0)), "POSIX lock", unix.EAGAIN, unix.EACCES)
	}},
	{"POSIX: any close of the file gives the process's locks up", []Capability{PosixLocks, OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Fcntl(unix.F_SETLK, region(unix.F_WRLCK, 0, 10)), "POSIX lock")
		c, err := t.Open("f", unix.O_RDONLY, 0)
		t.ok(err, "open")
		t.ok(c.Close(), "close of another handle")
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 10)), "OFD lock")
	}},
	{"flock and record locks do not know each other", []Capability{Flock, OFDLocks}, func(t *T) {
		a, b := t.rw("f"), t.rw("f")
		t.ok(a.Flock(unix.LOCK_EX|unix.LOCK_NB), "flock")
		t.ok(b.Fcntl(ofdSet, region(unix.F_WRLCK, 0, 0)), "record lock")
	}},
}
