package frontend_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
)

// TestResetLeavesNothingInFlight goes on with the same in-flight area after a reset, one with RESET_DEVICE and one that
// only shows in where the rings begin: what the area told of the rings before has no meaning for those that begin anew.
func TestResetLeavesNothingInFlight(t *testing.T) {
	ours(t)
	for _, f := range formats {
		for _, dev := range []struct {
			name string
			kind frontend.Device
		}{{"told", frontend.FSDevice}, {"untold", frontend.GenericDevice}} {
			t.Run(f.name+"/"+dev.name, func(t *testing.T) {
				d := daemontest.Start(t, t.TempDir(), "--reconnect", "--tag=test")
				fe, err := frontend.Open(d.Socket, frontend.Options{Inflight: true, KeepInflight: true, Packed: f.packed, Device: dev.kind})
				must(t, err)
				defer fe.Close()
				for i := range 5 {
					c := fuseclient.New(fe, fuseclient.Options{Timeout: 5 * time.Second})
					must(t, c.Init())
					for k := range 7 {
						if _, err := c.Mkdir(root, 1, fmt.Sprintf("d%d.%d", i, k), 0o700, 0, c.Extensions(nil, nil)); err != nil {
							t.Fatal(err)
						}
					}
					must(t, fe.Reset())
					c.Close()
					at := bytes.IndexFunc(fe.Inflight(), func(r rune) bool { return r != 0 })
					if at >= 0 && dev.kind == frontend.FSDevice {
						t.Fatalf("byte %d of the area is %d after reset %d", at, fe.Inflight()[at], i)
					}
					must(t, fe.Start())
				}
				for _, s := range fe.Faults() {
					t.Errorf("fault of the daemon: %s", s)
				}
			})
		}
	}
}
