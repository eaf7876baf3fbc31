package behaviour

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Exercise is a random row of calls on one file, each checked against a model in memory. The same values give the
// same row.
type Exercise struct {
	Seed    uint64
	Ops     int
	MaxSize int // of the file; 0 is 1 MiB
	// Handles is how many open files the calls are made through, in turn by chance; 0 is 1.
	Handles int
	// Writers, if more than 1, run at once, each in its own range of MaxSize bytes of the file and with Handles
	// handles of its own. Then no call changes the size.
	Writers int
	// Stride is the distance in bytes between the beginnings of the writers' ranges; 0 is MaxSize, so that ranges share
	// pages if MaxSize is no multiple of a page, and what one reads ahead is the next one's.
	Stride int
	// Without leaves out operations by name.
	Without []string
}

// Run makes the calls on a new file path of fs, and removes it if all was right. The error says what differed
// and lists the calls before it.
func (e Exercise) Run(fs FS, path string) error {
	e.MaxSize, e.Handles, e.Writers = cmp.Or(e.MaxSize, 1<<20), cmp.Or(e.Handles, 1), cmp.Or(e.Writers, 1)
	e.Stride = cmp.Or(e.Stride, e.MaxSize)
	f, err := fs.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if e.Writers > 1 {
		err = f.Ftruncate(int64(e.Writers-1)*int64(e.Stride) + int64(e.MaxSize))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	errs := make([]error, e.Writers)
	var workers sync.WaitGroup
	for w := range e.Writers {
		workers.Go(func() {
			x := &exerciser{Exercise: e, fs: fs, path: path, rng: rand.New(rand.NewPCG(e.Seed, uint64(w))),
				base: int64(w) * int64(e.Stride), fixed: e.Writers > 1}
			errs[w] = x.run()
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return fs.Unlink(path)
}

// exerciser is one worker. Its model is the file from base on.
type exerciser struct {
	Exercise
	fs    FS
	path  string
	rng   *rand.Rand
	base  int64
	fixed bool // the size stays
	model []byte
	open  []File
	log   []string
}

type exerciseOp struct {
	name   string
	weight int
	needs  []Capability
	sizes  bool // may change the size
	do     func(x *exerciser, f File) error
}

var exerciseOps = []exerciseOp{
	{"write", 20, nil, false, (*exerciser).write},
	{"read", 20, nil, false, (*exerciser).read},
	{"truncate", 4, nil, true, (*exerciser).truncate},
	{"allocate", 2, []Capability{Fallocate}, true, (*exerciser).allocate},
	{"punch", 5, []Capability{PunchHole}, false, (*exerciser).punch},
	{"zero", 4, []Capability{ZeroRange}, false, (*exerciser).zero},
	{"collapse", 2, []Capability{CollapseRange}, true, (*exerciser).collapse},
	{"insert", 2, []Capability{InsertRange}, true, (*exerciser).insert},
	{"copy", 5, []Capability{CopyRange}, false, (*exerciser).copy},
	{"mapread", 8, []Capability{Mmap}, false, (*exerciser).mapRead},
	{"mapwrite", 8, []Capability{Mmap}, false, (*exerciser).mapWrite},
	{"sync", 2, nil, false, (*exerciser).sync},
	{"reopen", 2, nil, false, (*exerciser).reopen},
	{"size", 3, nil, false, (*exerciser).checkSize},
}

func (x *exerciser) run() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
		if err != nil {
			tail := x.log[max(0, len(x.log)-40):]
			err = fmt.Errorf("seed %d, base %d, call %d: %w; the last calls:\n\t%s", x.Seed, x.base, len(x.log), err,
				strings.Join(tail, "\n\t"))
		}
		for _, f := range x.open {
			err = errors.Join(err, f.Close())
		}
	}()
	if x.fixed {
		x.model = make([]byte, x.MaxSize)
	}
	for range x.Handles {
		f, err := x.fs.Open(x.path, unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		x.open = append(x.open, f)
	}
	ops, total := x.possible()
	for range x.Ops {
		pick := x.rng.IntN(total)
		for _, op := range ops {
			if pick -= op.weight; pick < 0 {
				if err := op.do(x, x.open[x.rng.IntN(len(x.open))]); err != nil {
					return fmt.Errorf("%s: %w", op.name, err)
				}
				break
			}
		}
	}
	for _, f := range x.open {
		if err := x.compare(f, 0, len(x.model)); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
}

func (x *exerciser) possible() (ops []exerciseOp, total int) {
	for _, op := range exerciseOps {
		lacks := slices.ContainsFunc(op.needs, func(c Capability) bool { return x.fs.Lacks(c) != "" })
		if lacks || op.sizes && x.fixed || slices.Contains(x.Without, op.name) {
			continue
		}
		ops = append(ops, op)
		total += op.weight
	}
	return ops, total
}

func (x *exerciser) note(format string, args ...any) {
	x.log = append(x.log, fmt.Sprintf(format, args...))
}

// span is a random range below limit, of a length that is small, around pages, or large.
func (x *exerciser) span(limit int) (off, n int) {
	if limit == 0 {
		return 0, 0
	}
	off = x.rng.IntN(limit)
	n = 1 + x.rng.IntN([]int{16, 5000, 70000, limit}[x.rng.IntN(4)])
	if x.rng.IntN(3) == 0 {
		off &^= 4095
	}
	if x.rng.IntN(3) == 0 {
		n = (n + 4095) &^ 4095
	}
	return off, min(n, limit-off)
}

// resize makes the model n bytes long.
func (x *exerciser) resize(n int) {
	if n <= len(x.model) {
		x.model = x.model[:n:n]
		return
	}
	x.model = append(x.model, make([]byte, n-len(x.model))...)
}

func (x *exerciser) bytes(n int) []byte { return pattern(n, byte(x.rng.Uint32())) }

func (x *exerciser) write(f File) error {
	off, n := x.span(x.MaxSize)
	x.note("write %d+%d", off, n)
	data := x.bytes(n)
	for done := 0; done < n; {
		m, err := f.Pwrite(data[done:], x.base+int64(off+done))
		if err != nil || m == 0 {
			return fmt.Errorf("%d of %d bytes: %w", done+m, n, err)
		}
		done += m
	}
	x.resize(max(len(x.model), off+n))
	copy(x.model[off:], data)
	return nil
}

func (x *exerciser) read(f File) error {
	off, n := x.span(len(x.model) + 5000)
	if x.fixed {
		n = min(n, max(0, len(x.model)-off))
	}
	x.note("read %d+%d", off, n)
	return x.compare(f, off, n)
}

// compare reads n bytes at off, or to the end, and checks them.
func (x *exerciser) compare(f File, off, n int) error {
	got := make([]byte, n)
	done := 0
	for done < n {
		m, err := f.Pread(got[done:], x.base+int64(off+done))
		if err != nil {
			return err
		}
		if m == 0 {
			break
		}
		done += m
	}
	return x.same(got[:done], off, min(off+n, len(x.model)))
}

// same checks got against the model from off to end.
func (x *exerciser) same(got []byte, off, end int) error {
	want := x.model[min(off, len(x.model)):max(min(off, len(x.model)), end)]
	if len(got) != len(want) {
		return fmt.Errorf("%d bytes at %d, want %d", len(got), off, len(want))
	}
	if bytes.Equal(got, want) {
		return nil
	}
	first, bad := -1, 0
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			bad++
		}
	}
	return fmt.Errorf("%d of %d bytes at %d differ, the first at %d: %.8x, want %.8x", bad, len(got), off, off+first,
		got[first:min(first+8, len(got))], want[first:min(first+8, len(want))])
}

func (x *exerciser) truncate(f File) error {
	n := x.rng.IntN(x.MaxSize)
	x.note("truncate to %d from %d", n, len(x.model))
	if err := f.Ftruncate(int64(n)); err != nil {
		return err
	}
	x.resize(n)
	return nil
}

func (x *exerciser) allocate(f File) error {
	off, n := x.span(x.MaxSize)
	if n == 0 {
		return nil
	}
	x.note("allocate %d+%d", off, n)
	if err := f.Fallocate(0, int64(off), int64(n)); err != nil {
		return err
	}
	x.resize(max(len(x.model), off+n))
	return nil
}

func (x *exerciser) punch(f File) error {
	off, n := x.span(x.MaxSize)
	x.note("punch %d+%d", off, n)
	return x.clear(f, punch, off, n)
}

func (x *exerciser) zero(f File) error {
	off, n := x.span(x.MaxSize)
	x.note("zero %d+%d", off, n)
	return x.clear(f, zero|keepSize, off, n)
}

func (x *exerciser) clear(f File, mode uint32, off, n int) error {
	if err := f.Fallocate(mode, x.base+int64(off), int64(n)); err != nil {
		return err
	}
	clear(x.model[min(off, len(x.model)):min(off+n, len(x.model))])
	return nil
}

func (x *exerciser) collapse(f File) error {
	blocks := len(x.model) / block
	if blocks < 2 {
		return nil
	}
	at := x.rng.IntN(blocks-1) * block
	n := (1 + x.rng.IntN((len(x.model)-1-at)/block)) * block
	x.note("collapse %d+%d of %d", at, n, len(x.model))
	if err := f.Fallocate(collapse, int64(at), int64(n)); err != nil {
		return err
	}
	x.model = slices.Delete(x.model, at, at+n)
	return nil
}

func (x *exerciser) insert(f File) error {
	room := (x.MaxSize - len(x.model)) / block
	blocks := len(x.model) / block
	if room < 1 || blocks < 1 {
		return nil
	}
	at := x.rng.IntN(blocks) * block
	n := (1 + x.rng.IntN(room)) * block
	x.note("insert %d+%d of %d", at, n, len(x.model))
	if err := f.Fallocate(insert, int64(at), int64(n)); err != nil {
		return err
	}
	x.model = slices.Insert(x.model, at, make([]byte, n)...)
	return nil
}

func (x *exerciser) copy(f File) error {
	from, n := x.span(len(x.model))
	to := x.rng.IntN(x.MaxSize)
	n = min(n, x.MaxSize-to)
	if n == 0 || from < to+n && to < from+n {
		return nil // the kernel refuses ranges that overlap
	}
	x.note("copy %d+%d to %d", from, n, to)
	dst := x.open[x.rng.IntN(len(x.open))]
	soff, doff := x.base+int64(from), x.base+int64(to)
	for done := 0; done < n; {
		m, err := f.CopyTo(dst, &soff, &doff, n-done)
		if err != nil || m == 0 {
			return fmt.Errorf("%d of %d bytes: %w", done, n, err)
		}
		done += m
	}
	x.resize(max(len(x.model), to+n))
	copy(x.model[to:to+n], x.model[from:from+n])
	return nil
}

// withMap maps the pages of a range that lies in the file, and gives fn the bytes of the range.
func (x *exerciser) withMap(f File, prot, off, n int, fn func(b []byte) error) error {
	page := (x.base + int64(off)) &^ 4095
	skip := int(x.base + int64(off) - page)
	m, err := f.Mmap(page, skip+n, prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	err = fn(m.Bytes()[skip : skip+n])
	if x.rng.IntN(4) == 0 {
		err = errors.Join(err, m.Msync())
	}
	return errors.Join(err, m.Close())
}

func (x *exerciser) mapRead(f File) error {
	off, n := x.span(len(x.model))
	if n == 0 {
		return nil
	}
	x.note("mapread %d+%d", off, n)
	return x.withMap(f, unix.PROT_READ, off, n, func(b []byte) error { return x.same(b, off, off+n) })
}

func (x *exerciser) mapWrite(f File) error {
	off, n := x.span(len(x.model))
	if n == 0 {
		return nil
	}
	x.note("mapwrite %d+%d", off, n)
	return x.withMap(f, readWrite, off, n, func(b []byte) error {
		copy(b, x.bytes(n))
		copy(x.model[off:], b)
		return nil
	})
}

func (x *exerciser) sync(f File) error {
	x.note("sync")
	if x.rng.IntN(2) == 0 {
		return f.Fdatasync()
	}
	return f.Fsync()
}

func (x *exerciser) reopen(File) error {
	i := x.rng.IntN(len(x.open))
	x.note("reopen %d", i)
	f, err := x.fs.Open(x.path, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = x.open[i].Close()
	x.open[i] = f
	return err
}

func (x *exerciser) checkSize(f File) error {
	if x.fixed {
		return nil
	}
	x.note("size")
	st, err := f.Fstat()
	if err == nil && st.Size != uint64(len(x.model)) {
		err = fmt.Errorf("%d, want %d", st.Size, len(x.model))
	}
	return err
}
