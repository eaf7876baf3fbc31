package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// config is what the command line says.
type config struct {
	daemon    string
	vs        []string
	workloads []string
	depths    []int
	queues    []int
	rounds    int
	time      time.Duration
	slice     time.Duration
	entries   int
	dir       string
	out       string
	list      bool
	idle      time.Duration
}

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags(c *config) *pflag.FlagSet {
	f := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	f.StringVar(&c.daemon, "daemon", "", "the daemon to measure: [NAME=]COMMAND with {socket}, {dir} and {queues} in it; default: this project's, built now")
	f.StringArrayVar(&c.vs, "vs", nil, "another daemon to compare it with; may be given again")
	f.StringSliceVar(&c.workloads, "workload", nil, "workloads to run (--list); default: all")
	f.IntSliceVar(&c.depths, "depth", []int{1, 8, 64}, "requests in flight on each queue")
	f.IntSliceVar(&c.queues, "queues", []int{1}, "request queues")
	f.IntVar(&c.rounds, "rounds", 7, "rounds of each row")
	f.DurationVar(&c.time, "time", 5*time.Minute, "time for all measurements together")
	f.DurationVar(&c.slice, "slice", 0, "time of one measurement, in place of --time; rows with something beside take eight")
	f.IntVar(&c.entries, "entries", 10000, "files in the long directory")
	f.StringVar(&c.dir, "dir", "", "where to make the shared directory; default: the directory for temporary files")
	f.StringVar(&c.out, "out", "", "write PREFIX.txt, PREFIX.tsv and PREFIX.svg")
	f.DurationVar(&c.idle, "idle", 2*time.Second, "how long to watch each daemon do nothing, at the end; 0: not")
	f.BoolVar(&c.list, "list", false, "list the workloads and exit")
	f.SortFlags = false
	return f
}

func run(args []string, stdout, stderr io.Writer) error {
	var c config
	f := flags(&c)
	f.SetOutput(stderr)
	if err := f.Parse(args); err != nil {
		return err
	}
	if c.list {
		for _, w := range workloads {
			fmt.Fprintf(stdout, "%-16s %s\n", w.name, w.about)
		}
		return nil
	}
	rows, err := c.rows()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(c.dir, "virtiofsd-go-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	// An interrupted run leaves nothing behind.
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, syscall.SIGINT, syscall.SIGTERM)
	targets, err := c.targets(scratch)
	if err != nil {
		return err
	}
	measurements := time.Duration(0)
	for _, r := range rows {
		measurements += time.Duration(r.slices() * c.rounds * len(targets))
	}
	slice := c.slice
	if slice == 0 {
		slice = c.time * 8 / 9 / measurements
		if slice < 20*time.Millisecond {
			return fmt.Errorf("%d rows in %d rounds of %d daemons do not fit into %v; allow more --time or choose fewer", len(rows), c.rounds, len(targets), c.time)
		}
	}
	share := filepath.Join(scratch, "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%d rows, %d rounds, %d daemons, %v each: about %v\n", len(rows), c.rounds, len(targets), slice.Round(time.Millisecond),
		(slice * 9 / 8 * measurements).Round(time.Second))
	tr, err := newTree(share, c.entries)
	if err != nil {
		return fmt.Errorf("make the shared directory: %w", err)
	}
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	p := &report{targets: targets}
	idle, err := c.measureAll(p, rows, scratch, tr, slice, interrupt, stderr)
	if err != nil {
		return err
	}
	return c.write(p, idle, stdout)
}

func (c *config) rows() ([]row, error) {
	var rows []row
	for _, q := range c.queues {
		for i := range workloads {
			w := &workloads[i]
			if len(c.workloads) > 0 && !slices.Contains(c.workloads, w.name) {
				continue
			}
			if w.depth > 0 {
				rows = append(rows, row{w, w.depth, q})
				continue
			}
			for _, d := range c.depths {
				if d < 1 || d > 200 || q < 1 || q > 16 {
					return nil, fmt.Errorf("a depth is from 1 to 200, and the number of queues from 1 to 16")
				}
				rows = append(rows, row{w, d, q})
			}
		}
	}
	for _, name := range c.workloads {
		if _, err := findWorkload(name); err != nil {
			return nil, err
		}
	}
	if c.rounds < 1 || len(rows) == 0 {
		return nil, errors.New("there is nothing to measure")
	}
	return rows, nil
}

func (c *config) targets(scratch string) ([]*target, error) {
	command := c.daemon
	if command == "" {
		out, err := exec.Command("go", "build", "-o", scratch, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("build the daemon: %w\n%s", err, out)
		}
		command = "virtiofsd-go=" + filepath.Join(scratch, "virtiofsd-go") +
			" --socket-path={socket} --shared-dir={dir} --queues={queues} --xattr --posix-lock --log-level=warn"
	}
	var targets []*target
	for _, s := range append([]string{command}, c.vs...) {
		t, err := parseTarget(s)
		if err != nil {
			return nil, err
		}
		for _, other := range targets {
			if other.name == t.name {
				t.name += "-" + fmt.Sprint(len(targets)+1)
			}
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// measureAll runs all rows. The daemons are started anew for each number of queues.
func (c *config) measureAll(p *report, rows []row, scratch string, tr *tree, slice time.Duration, interrupt chan os.Signal, progress io.Writer) (idle []string, err error) {
	defer func() {
		for _, t := range p.targets {
			t.stop()
		}
	}()
	begin := time.Now()
	queues := 0
	for i, r := range rows {
		if r.queues != queues {
			queues = r.queues
			for _, t := range p.targets {
				t.stop()
				if err := t.start(scratch, tr, queues); err != nil {
					return nil, err
				}
			}
		}
		select {
		case <-interrupt:
			fmt.Fprintln(progress, "interrupted: the report has what was measured until now")
			return nil, nil
		default:
		}
		if err := tr.warm(); err != nil {
			return nil, fmt.Errorf("read the shared directory: %w", err)
		}
		out := runRow(r, p.targets, c.rounds, slice)
		p.add(r, out)
		fmt.Fprintf(progress, "%3d/%d %5s %-34v", i+1, len(rows), time.Since(begin).Round(time.Second), r)
		for k, t := range p.targets {
			switch o := out[t]; {
			case o.err != nil:
				fmt.Fprintf(progress, "  %s: %v", t.name, o.err)
			case k == 0:
				fmt.Fprintf(progress, "  %s %.0f/s", t.name, o.median(ops))
			default:
				fmt.Fprintf(progress, "  %s %.0f/s (%.2f)", t.name, o.median(ops), ratio(out[p.targets[0]], o, ops))
			}
		}
		fmt.Fprintln(progress)
	}
	if c.idle > 0 {
		idle = watchIdle(p.targets, c.idle)
	}
	return idle, nil
}

// watchIdle says what daemons do that have nothing to do.
func watchIdle(targets []*target, d time.Duration) (lines []string) {
	time.Sleep(200 * time.Millisecond)
	before := make([]usage, len(targets))
	for i, t := range targets {
		before[i] = t.usage()
	}
	time.Sleep(d)
	for i, t := range targets {
		u := t.usage().since(before[i])
		lines = append(lines, fmt.Sprintf("idle for %v: %s woke up %d times and used %v; resident memory %.1f MiB", d, t.name,
			u.switches, u.cpu, float64(u.rss)/(1<<20)))
	}
	return lines
}

func (c *config) write(p *report, idle []string, stdout io.Writer) error {
	text := func(w io.Writer) error {
		fmt.Fprintf(w, "%s; %d processors, %s; %s\n", strings.Join(os.Args[1:], " "), runtime.NumCPU(), kernel(), time.Now().UTC().Format(time.DateOnly))
		if err := p.table(w); err != nil {
			return err
		}
		fmt.Fprintln(w)
		if len(p.targets) > 1 {
			if err := p.summary(w); err != nil {
				return err
			}
		}
		for _, l := range idle {
			fmt.Fprintln(w, l)
		}
		return nil
	}
	if err := text(stdout); err != nil || c.out == "" {
		return err
	}
	for _, f := range []struct {
		ext   string
		write func(io.Writer) error
	}{{".txt", text}, {".tsv", p.tsv}, {".svg", p.svg}} {
		file, err := os.Create(c.out + f.ext)
		if err != nil {
			return err
		}
		if err := errors.Join(f.write(file), file.Close()); err != nil {
			return fmt.Errorf("%s: %w", file.Name(), err)
		}
	}
	return nil
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
