package guest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/control"
)

// daxStats is what the tests look at of "dax stats".
type daxStats struct {
	Regions        int    `json:"memory_regions"`
	Setups         uint64 `json:"setups"`
	SetupErrors    uint64 `json:"setup_errors"`
	SetupsHeld     uint64 `json:"setups_held"`
	SlotsRefused   uint64 `json:"slots_refused"`
	LockDrops      uint64 `json:"lock_drops"`
	Removes        uint64 `json:"removes"`
	Maps           uint64 `json:"frontend_maps"`
	Unmaps         uint64 `json:"frontend_unmaps"`
	Faults         uint64 `json:"faults"`
	FaultErrors    uint64 `json:"fault_errors"`
	InvalidateErrs uint64 `json:"invalidate_errors"`
	Writebacks     uint64 `json:"writebacks"`
	Reclaims       uint64 `json:"reclaims"`
	ReclaimedBytes uint64 `json:"reclaimed_bytes"`
}

// reclaimer is a host that wants all its memory back, again and again.
type reclaimer struct {
	backing string
	socket  string
	cancel  context.CancelFunc
	ended   chan error
}

// reclaimEvery starts one, on the daemon with the given control socket and on the files of the directory that it serves.
func reclaimEvery(t *testing.T, pause time.Duration, socket, dir, backing string) *reclaimer {
	t.Helper()
	r := &reclaimer{backing: backing, socket: socket, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	t.Cleanup(cancel)
	orders, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { orders.Close() })
	go func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				r.ended <- nil
				return
			case <-tick.C:
			}
			if err := r.reclaim(orders, dir); err != nil {
				r.ended <- err
				return
			}
		}
	}()
	return r
}

func (r *reclaimer) reclaim(client *control.Client, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := client.Call(ctx, "dax reclaim", map[string]bool{"all": true}, nil)
	if r.backing == "managed" {
		return err
	}
	if err == nil || !strings.Contains(err.Error(), "none can be taken back") {
		return errors.Join(errors.New("nothing was refused"), err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue // removed meanwhile
		}
		unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
	return err
}

// controlSocket makes room for a daemon's control socket.
func controlSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "virtiofsd-go-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "control")
}

func (r *reclaimer) stats(t *testing.T) daxStats {
	t.Helper()
	return lookAt(t, r.socket)
}

// lookAt asks the daemon with that control socket for its counters.
func lookAt(t *testing.T, socket string) daxStats {
	t.Helper()
	// Too long passes between two looks for a connection to be kept.
	client, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var s daxStats
	if err := client.Call(t.Context(), "dax stats", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// worked checks that between two looks the window was used, and taken back.
func (r *reclaimer) worked(t *testing.T, before, after daxStats) {
	t.Helper()
	t.Logf("before %+v", before)
	t.Logf("after  %+v", after)
	if after.Setups == before.Setups || after.Removes == before.Removes {
		t.Error("no mapping came or went")
	}
	if after.FaultErrors+after.InvalidateErrs != 0 {
		t.Error("faults or invalidations failed")
	}
	switch r.backing {
	case "managed":
		if after.Reclaims == before.Reclaims || after.ReclaimedBytes == before.ReclaimedBytes || after.Writebacks == before.Writebacks || after.Faults == before.Faults {
			t.Error("nothing was taken back")
		}
	default:
		if after.Maps == before.Maps {
			t.Error("nothing was mapped")
		}
	}
	select {
	case err := <-r.ended:
		t.Fatalf("the host no longer reclaims: %v", err)
	default:
	}
}

// stop ends the reclaimer.
func (r *reclaimer) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}
