package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

const tag = "share"

// ratios are the working sets, as parts of the window.
var ratios = []float64{0.5, 1, 2, 4, 8}

// accesses are fio's ways to go through a working set.
var accesses = []struct{ name, options string }{
	{"read", "--rw=read --bs=1m"},
	{"write", "--rw=write --bs=1m"},
	{"randread", "--rw=randread --bs=64k"},
	{"randwrite", "--rw=randwrite --bs=64k"},
}

// fioOutput is what is used of fio's JSON.
type fioOutput struct {
	Jobs []struct {
		Read, Write struct {
			Bytes   float64 `json:"bw_bytes"` // per second
			Latency struct {
				Mean        float64            `json:"mean"`
				Percentiles map[string]float64 `json:"percentile"`
			} `json:"clat_ns"`
		}
	}
}

// measureGuest runs fio in a guest that has a window.
func measureGuest(ctx context.Context, c config) (all []measurement, err error) {
	assets, err := guest.FindAssets()
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "virtiofsd-go-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	share := filepath.Join(scratch, "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		return nil, err
	}
	if b, err := exec.CommandContext(ctx, "go", "build", "-o", scratch, "github.com/virtiofsd-go/virtiofsd-go/cmd/virtiofsd-go").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the daemon: %w\n%s", err, b)
	}
	socket := filepath.Join(scratch, "socket")
	d, err := guest.StartDaemon(ctx, guest.DaemonConfig{Socket: socket, Dir: share, Tag: tag, Output: os.Stderr, Command: []string{
		filepath.Join(scratch, "virtiofsd-go"), "--socket-path={socket}", "--shared-dir={dir}", "--tag={tag}", "--log-level=warn",
		"--dax-backing=" + c.backing, fmt.Sprintf("--dax-window=%dM", c.windowMiB)}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	vm, err := guest.Start(ctx, assets, guest.Config{Dir: scratch, Shares: []guest.Share{{Tag: tag, Socket: socket, DAX: true}}})
	if err != nil {
		return nil, err
	}
	defer vm.Kill()
	if _, err := vm.Run(ctx, "mount -t virtiofs -o dax=always "+tag+" /mnt"); err != nil {
		return nil, err
	}
	for round := range c.rounds {
		fmt.Fprintf(os.Stderr, "guest: round %d of %d\n", round+1, c.rounds)
		for _, engine := range []string{"mmap", "psync"} {
			for _, ratio := range ratios {
				for _, a := range accesses {
					m, err := measureFio(ctx, c, vm, engine, a.name, a.options, ratio)
					if err != nil {
						return nil, err
					}
					for _, m := range m {
						m.round = round + 1
						all = append(all, m)
					}
				}
			}
		}
	}
	return all, nil
}

func measureFio(ctx context.Context, c config, vm *guest.VM, engine, access, options string, ratio float64) ([]measurement, error) {
	mib := int(float64(c.windowMiB) * ratio)
	out, err := vm.Run(ctx, fmt.Sprintf(`set -e
test "$(stat -c %%s /mnt/set 2>/dev/null)" = %[1]d || { rm -f /mnt/set; head -c %[1]d /dev/zero >/mnt/set; }
fio --output-format=json --name=f --filename=/mnt/set --size=%[1]d --ioengine=%[2]s --fallocate=none --invalidate=0 --time_based --runtime=%.1[3]f %[4]s`,
		mib<<20, engine, c.guestTime.Seconds(), options))
	if err != nil {
		return nil, fmt.Errorf("%s, %s, %d MiB: %w", engine, access, mib, err)
	}
	// fio may print remarks before the object.
	var o fioOutput
	if err := json.Unmarshal([]byte(out[max(strings.Index(out, "{"), 0):]), &o); err != nil || len(o.Jobs) != 1 {
		return nil, errors.Join(fmt.Errorf("fio printed %q", out), err)
	}
	side := o.Jobs[0].Read
	if strings.HasSuffix(access, "write") {
		side = o.Jobs[0].Write
	}
	params := []param{{"engine", engine}, {"access", access}, {"ratio", strconv.FormatFloat(ratio, 'g', -1, 64)}}
	m := []measurement{
		{where: "guest", name: "WorkingSet", params: params, unit: "MB/s", value: side.Bytes / 1e6},
		{where: "guest", name: "WorkingSet", params: params, unit: "ns/op", value: side.Latency.Mean},
	}
	if p, ok := side.Latency.Percentiles["99.000000"]; ok {
		m = append(m, measurement{where: "guest", name: "WorkingSet", params: params, unit: "p99-ns", value: p})
	}
	fmt.Fprintf(os.Stderr, "guest: %s %s, %d MiB: %.0f MB/s\n", engine, access, mib, side.Bytes/1e6)
	return m, nil
}
