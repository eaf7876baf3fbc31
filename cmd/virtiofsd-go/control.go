package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/control"
	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// The commands of the control socket.
const (
	commandStats      = "stats"
	commandDAXStats   = "dax stats"
	commandDAXReclaim = "dax reclaim"
)

// daxStats is the result of "dax stats".
type daxStats struct {
	Backing string `json:"backing"`
	dax.Stats
}

// daxReclaim are the arguments of "dax reclaim": a number of bytes, or all.
type daxReclaim struct {
	Bytes uint64 `json:"bytes,omitempty"`
	All   bool   `json:"all,omitempty"`
}

// daxReclaimed is the result of "dax reclaim".
type daxReclaimed struct {
	Bytes    uint64 `json:"reclaimed_bytes"`
	Resident uint64 `json:"resident_bytes"` // what is left
	Nanos    int64  `json:"took_ns"`
}

// startControl listens on the control socket, if there is to be one.
func startControl(c *config, window *daxWindow, counters func() stats, log *slog.Logger) (*control.Server, error) {
	if c.controlSocket == "" {
		return nil, nil
	}
	ln, err := vhostuser.Listen(c.controlSocket, 0o600, -1)
	if err != nil {
		return nil, fmt.Errorf("--control-socket: %w", err)
	}
	return control.Serve(ln, controlCommands(c, window, counters), log), nil
}

var errNoWindow = errors.New("the daemon has no DAX window; start it with --dax-window")

func controlCommands(c *config, window *daxWindow, counters func() stats) map[string]control.Command {
	return map[string]control.Command{
		commandStats: func(_ context.Context, args json.RawMessage) (any, error) {
			if err := control.Decode(args, &struct{}{}); err != nil {
				return nil, err
			}
			return counters(), nil
		},
		commandDAXStats: func(_ context.Context, args json.RawMessage) (any, error) {
			if err := control.Decode(args, &struct{}{}); err != nil {
				return nil, err
			}
			if window == nil {
				return nil, errNoWindow
			}
			return daxStats{c.daxBacking.String(), window.owner.Stats()}, nil
		},
		commandDAXReclaim: func(_ context.Context, args json.RawMessage) (any, error) {
			var a daxReclaim
			if err := control.Decode(args, &a); err != nil {
				return nil, err
			}
			switch {
			case a.All == (a.Bytes != 0):
				return nil, errors.New("how much to take back is missing: a number of bytes above 0, or all")
			case window == nil:
				return nil, errNoWindow
			case c.daxBacking != dax.Managed:
				return nil, fmt.Errorf("with --dax-backing=%s the guest's pages are the files' own, and none can be taken back; use managed", c.daxBacking)
			}
			start := time.Now()
			n := window.owner.Reclaim(a.Bytes) // 0 is all to it too
			return daxReclaimed{n, window.owner.Stats().Resident, int64(time.Since(start))}, nil
		},
	}
}
