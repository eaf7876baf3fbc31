package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
)

// measurement is one number. Params are in the order of the benchmark's name.
type measurement struct {
	where  string // host or guest
	name   string
	params []param
	round  int
	unit   string
	value  float64
}

type param struct{ name, value string }

func (m measurement) param(name string) string {
	for _, p := range m.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

func (m measurement) describe() string {
	s := ""
	for i, p := range m.params {
		if i > 0 {
			s += " "
		}
		s += p.name + "=" + p.value
	}
	return s
}

type config struct {
	hostTime, guestTime, limit time.Duration
	rounds                     int
	backing                    string
	windowMiB                  int
	out                        string
	only                       string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-dax:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var c config
	f := pflag.NewFlagSet("bench-dax", pflag.ContinueOnError)
	f.DurationVar(&c.hostTime, "host-time", 500*time.Millisecond, "time for each measurement on the host")
	f.DurationVar(&c.guestTime, "guest-time", 5*time.Second, "time for each measurement in the guest")
	f.IntVar(&c.rounds, "rounds", 3, "rounds")
	f.StringVar(&c.backing, "dax-backing", "managed", "the daemon's --dax-backing in the guest's part")
	f.IntVar(&c.windowMiB, "window", 64, "size of the guest's window, in MiB")
	f.StringVar(&c.only, "only", "", "run only one part: host or guest")
	f.DurationVar(&c.limit, "limit", time.Hour, "time for everything")
	f.StringVar(&c.out, "out", "bench-dax", "write PREFIX.tsv and PREFIX.svg")
	f.SortFlags = false
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case c.only != "" && c.only != "host" && c.only != "guest":
		return fmt.Errorf("--only=%s: there are the parts host and guest", c.only)
	case c.rounds < 1 || c.windowMiB < 2 || c.windowMiB%2 != 0:
		return errors.New("there is at least one round, and a window is a multiple of 2 MiB")
	}
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	var all []measurement
	if c.only != "guest" {
		m, err := measureHost(ctx, c)
		if err != nil {
			return err
		}
		all = append(all, m...)
	}
	if c.only != "host" {
		m, err := measureGuest(ctx, c)
		if err != nil {
			return err
		}
		all = append(all, m...)
	}
	if err := table(stdout, all); err != nil {
		return err
	}
	for _, w := range []struct {
		ext   string
		write func(io.Writer, []measurement) error
	}{{".tsv", tsv}, {".svg", svg}} {
		file, err := os.Create(c.out + w.ext)
		if err != nil {
			return err
		}
		if err := errors.Join(w.write(file, all), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// table prints the medians over the rounds.
func table(w io.Writer, all []measurement) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "where\tbenchmark\tparameters\tmedian\tunit")
	for _, g := range grouped(all) {
		m := g[0]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%.5g\t%s\n", m.where, m.name, m.describe(), median(g), m.unit)
	}
	return tw.Flush()
}

func tsv(w io.Writer, all []measurement) error {
	if _, err := fmt.Fprintln(w, "where\tbenchmark\tparameters\tround\tunit\tvalue"); err != nil {
		return err
	}
	for _, m := range all {
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%g\n", m.where, m.name, m.describe(), m.round, m.unit, m.value); err != nil {
			return err
		}
	}
	return nil
}
