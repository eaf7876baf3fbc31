package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// workload is a script that prints one number, the higher the better. It runs in a directory of the share.
type workload struct{ name, unit, script string }

// fio prints what a job moves in the guest, by the field of fio's terse output: 7 and 48 are KiB/s read and written,
// 8 and 49 operations per second.
func fio(field int, options string) string {
	return fmt.Sprintf("fio --minimal --name=f --filename=fio --size=32m --direct=1 --time_based --runtime=2 --ramp_time=0.3 %s | cut -d ';' -f %d", options, field)
}

const files = 300

// timed prints how many files per second a command goes through.
func timed(setup, command string) string {
	return fmt.Sprintf("%s\nt=$(date +%%s%%N)\n%s\nt=$(( $(date +%%s%%N) - t ))\nrm -rf tree\necho $((%d * 1000000000 / t))", setup, command, files)
}

const (
	makeTree   = "mkdir tree && for d in $(seq 10); do mkdir tree/$d; split -b 4096 -a 3 /tmp/content tree/$d/f; done"
	dropCaches = "sync -f .; echo 3 >/proc/sys/vm/drop_caches"
)

var workloads = []workload{
	{"fio randread 4k, depth 1", "ops/s", fio(8, "--ioengine=psync --rw=randread --bs=4k")},
	{"fio randread 4k, depth 16", "ops/s", fio(8, "--ioengine=libaio --iodepth=16 --rw=randread --bs=4k")},
	{"fio randwrite 4k, depth 16", "ops/s", fio(49, "--ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k")},
	{"fio read 1m", "KiB/s", fio(7, "--ioengine=psync --rw=read --bs=1m")},
	{"fio write 1m", "KiB/s", fio(48, "--ioengine=psync --rw=write --bs=1m")},
	{"make small files", "files/s", timed(":", makeTree)},
	{"ls -lR of small files, cold", "files/s", timed(makeTree+"\n"+dropCaches, "ls -lR tree >/dev/null")},
	{"read small files, cold", "files/s", timed(makeTree+"\n"+dropCaches, "tar cf - tree | cat >/dev/null")},
	{"remove small files", "files/s", timed(makeTree, "rm -r tree")},
}

type target struct {
	name    string
	command []string
	values  map[string][]float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-guest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := pflag.NewFlagSet("bench-guest", pflag.ContinueOnError)
	daemon := f.String("daemon", "", "the daemon to measure: [NAME=]COMMAND with {socket} and {dir} in it; default: this project's, built now")
	vs := f.StringArray("vs", nil, "another daemon to compare it with; may be given again")
	rounds := f.Int("rounds", 7, "rounds")
	limit := f.Duration("limit", 20*time.Minute, "time for everything")
	out := f.String("out", "", "write every measurement to this TSV file")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "virtiofsd-go-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *daemon == "" {
		path := filepath.Join(dir, "virtiofsd-go")
		if b, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go").CombinedOutput(); err != nil {
			return fmt.Errorf("build the daemon: %w\n%s", err, b)
		}
		*daemon = "virtiofsd-go=" + path + " --socket-path={socket} --shared-dir={dir} --log-level=warn"
	}
	var targets []*target
	for _, s := range append([]string{*daemon}, *vs...) {
		name, command, ok := strings.Cut(s, "=")
		if !ok || strings.ContainsAny(name, " /") {
			name, command = fmt.Sprintf("daemon%d", len(targets)+1), s
		}
		targets = append(targets, &target{name: name, command: strings.Fields(command), values: map[string][]float64{}})
	}
	if err := measure(ctx, dir, targets, *rounds); err != nil {
		return err
	}
	table(targets)
	if *out != "" {
		return writeTSV(*out, targets)
	}
	return nil
}

// measure boots the guest and runs all rounds.
func measure(ctx context.Context, dir string, targets []*target, rounds int) error {
	assets, err := guest.FindAssets()
	if err != nil {
		return err
	}
	var shares []guest.Share
	for i, t := range targets {
		share := filepath.Join(dir, fmt.Sprint("share", i))
		if err := os.Mkdir(share, 0o755); err != nil {
			return err
		}
		s := guest.Share{Tag: fmt.Sprint("share", i), Socket: filepath.Join(dir, fmt.Sprint("sock", i)), QueueSize: 1024}
		d, err := guest.StartDaemon(ctx, guest.DaemonConfig{Command: t.command, Socket: s.Socket, Dir: share, Tag: s.Tag, Output: os.Stderr})
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		defer d.Stop()
		shares = append(shares, s)
	}
	vm, err := guest.Start(ctx, assets, guest.Config{Shares: shares, Dir: dir})
	if err != nil {
		return err
	}
	defer vm.Kill()
	if _, err := vm.Run(ctx, fmt.Sprintf("head -c %d /dev/urandom >/tmp/content", files/10*4096)); err != nil {
		return err
	}
	for i := range targets {
		if _, err := vm.Run(ctx, fmt.Sprintf("mkdir -p /mnt/%[1]d && mount -t virtiofs share%[1]d /mnt/%[1]d", i)); err != nil {
			return err
		}
	}
	for round := range rounds {
		for _, w := range workloads {
			for i, t := range targets {
				out, err := vm.Run(ctx, fmt.Sprintf("set -e\ncd /mnt/%d\n%s", i, w.script))
				if err != nil {
					return fmt.Errorf("%s on %s: %w", w.name, t.name, err)
				}
				v, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", w.name, t.name, err)
				}
				t.values[w.name] = append(t.values[w.name], v)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	return nil
}

func table(targets []*target) {
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "workload\tunit\t")
	for _, t := range targets {
		fmt.Fprintf(tw, "%s\t", t.name)
	}
	for _, t := range targets[1:] {
		fmt.Fprintf(tw, "%s / %s\t", targets[0].name, t.name)
	}
	fmt.Fprintln(tw)
	for _, w := range workloads {
		fmt.Fprintf(tw, "%s\t%s\t", w.name, w.unit)
		for _, t := range targets {
			fmt.Fprintf(tw, "%.0f\t", median(t.values[w.name]))
		}
		for _, t := range targets[1:] {
			var ratios []float64
			for i, v := range targets[0].values[w.name] {
				ratios = append(ratios, v/t.values[w.name][i])
			}
			fmt.Fprintf(tw, "%.2f\t", median(ratios))
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func writeTSV(path string, targets []*target) error {
	var b strings.Builder
	b.WriteString("workload\tunit\tround\tdaemon\tvalue\n")
	for _, w := range workloads {
		for _, t := range targets {
			for i, v := range t.values[w.name] {
				fmt.Fprintf(&b, "%s\t%s\t%d\t%s\t%g\n", w.name, w.unit, i+1, t.name, v)
			}
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
