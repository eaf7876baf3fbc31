package vfs_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour"
	"github.com/virtiofsd-go/virtiofsd-go/integration/behaviour/hostfs"
	"github.com/virtiofsd-go/virtiofsd-go/integration/daemontest"
	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient"
	"github.com/virtiofsd-go/virtiofsd-go/integration/fuseclient/vfs"
)

func TestMain(m *testing.M) { os.Exit(daemontest.Main(m)) }

// TestBehaviour runs the suite that the host's file system passes over every ring format and an odd descriptor layout.
func TestBehaviour(t *testing.T) {
	o, err := behaviour.OptionsFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	// What does not go by rings.
	short := behaviour.GroupsBut("killpriv", "permission", "errno")
	for _, mode := range []struct {
		name   string
		fe     frontend.Options
		client fuseclient.Options
		daemon []string
		ours   bool // needs what only this project's daemon has
		groups []string
		needs  []behaviour.Capability
	}{
		{"split", frontend.Options{}, fuseclient.Options{}, nil, false, nil, nil},
		{"two-queues", frontend.Options{Queues: 3}, fuseclient.Options{}, []string{"--queues=2"}, true, short, nil},
		{"packed", frontend.Options{Packed: true}, fuseclient.Options{}, nil, true, short, nil},
		{"pool-mixed-layout", frontend.Options{}, fuseclient.Options{Layout: fuseclient.MixedLayout}, []string{"--thread-pool-size=4"}, false, short, nil},
		{"locks", frontend.Options{}, fuseclient.Options{}, []string{"--posix-lock", "--flock"}, true, []string{"lock"},
			[]behaviour.Capability{behaviour.Flock, behaviour.PosixLocks, behaviour.OFDLocks}},
		{"locks-no-pool", frontend.Options{}, fuseclient.Options{}, []string{"--posix-lock", "--flock", "--thread-pool-size=0"}, true, []string{"lock"},
			[]behaviour.Capability{behaviour.Flock, behaviour.PosixLocks, behaviour.OFDLocks}},
		{"a-guest-without-idmaps", frontend.Options{}, fuseclient.Options{Offer: fuseclient.LinuxInitFlags &^ fuse.CAP_ALLOW_IDMAP}, nil, true,
			[]string{"killpriv", "owner", "permission"}, nil},
		{"a-guest-without-killpriv", frontend.Options{}, fuseclient.Options{Offer: fuseclient.LinuxInitFlags &^ fuse.CAP_HANDLE_KILLPRIV_V2}, nil, true,
			[]string{"owner", "truncate", "open"}, nil},
	} {
		t.Run(mode.name, func(t *testing.T) {
			if mode.ours && daemontest.Foreign() {
				t.Skip("only this project's daemon has this")
			}
			dir := shared(t)
			host, err := hostfs.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			d := daemontest.Start(t, dir, append([]string{"--xattr"}, mode.daemon...)...)
			c := daemontest.Mount(t, d, mode.fe, mode.client)
			o := o
			o.Groups, o.Require = mode.groups, slices.Concat(o.Require, mode.needs)
			behaviour.Run(t, vfs.New(c, host.Lacks), o)
		})
	}
}

// shared is an empty directory that every caller may use.
func shared(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}
