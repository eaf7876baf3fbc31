package main_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWrongCtlCommandLinesEndWithOneSentence(t *testing.T) {
	for line, want := range map[string]struct {
		status int
		says   string
	}{
		"ctl":                                               {2, "the command is missing"},
		"ctl --socket=s":                                    {2, "the command is missing"},
		"ctl --socket=s disk":                               {2, `there is no command "disk"`},
		"ctl --socket=s dax":                                {2, "the command is missing"},
		"ctl --socket=s stats more":                         {2, `unexpected argument "more"`},
		"ctl --socket=s dax status":                         {2, `there is no command "status"`},
		"ctl dax stats":                                     {2, "--socket is missing"},
		"ctl --socket= dax stats":                           {2, "--socket: may not be empty"},
		"ctl --socket=s dax stats more":                     {2, `unexpected argument "more"`},
		"ctl --socket=s --json=x dax stats":                 {2, "--json: takes no value"},
		"ctl --socket=s --bogus dax stats":                  {2, "there is no option --bogus (see virtiofsd-go ctl --help)"},
		"ctl --socket=s dax reclaim":                        {2, "how much to take back is missing"},
		"ctl --socket=s dax reclaim 0":                      {2, "0 bytes are nothing"},
		"ctl --socket=s dax reclaim -1":                     {2, "there is no option -1"},
		"ctl --socket=s dax reclaim 1.5G":                   {2, `"1.5G" is not a size`},
		"ctl --socket=s dax reclaim 9999999T":               {2, `"9999999T" is not a size`},
		"ctl --socket=s dax reclaim everyone":               {2, "or all"},
		"ctl --socket=s dax reclaim 1G 2G":                  {2, `unexpected argument "2G"`},
		"ctl --socket=s dax stats":                          {1, "s: connect: no such file"},
		"ctl --socket=f dax stats":                          {1, "no daemon listens on f"},
		"--shared-dir=d --socket-path=s stats":              {2, `unexpected argument "stats"`},
		"--shared-dir=d --socket-path=s --control-socket=s": {2, "--control-socket and --socket-path are the same"},
		"--shared-dir=d --socket-path=s --control-socket=":  {2, "--control-socket: may not be empty"},
		"--shared-dir=d --socket-path=s --control-socket=f --log-level=error":         {1, "--control-socket: f exists and is not a socket"},
		"--shared-dir=d --socket-path=s --control-socket=nowhere/c --log-level=error": {1, "--control-socket: listening on nowhere/c"},
	} {
		t.Run(line, func(t *testing.T) {
			r := runToEnd(t, testDir(t), binary, args(line)...)
			if r.status != want.status || !strings.Contains(r.stderr, want.says) {
				t.Errorf("status %d and %q, want %d and %q", r.status, r.stderr, want.status, want.says)
			}
			if r.stdout != "" || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("standard output %q, standard error %q", r.stdout, r.stderr)
			}
		})
	}
}

func TestControlSocketComesAndGoes(t *testing.T) {
	dir := testDir(t)
	path := filepath.Join(dir, "c")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	d := start(t, dir, binary, args("--shared-dir=d --socket-path=s --control-socket=c --reconnect")...)
	// The session waits for the rest of a message; the control socket is there by now.
	front := d.connect(filepath.Join(dir, "s"))
	if _, err := front.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if r := runToEnd(t, dir, binary, args("ctl --socket=c stats")...); r.status != 0 || !strings.HasPrefix(r.stdout, "connections         1\n") {
		t.Errorf("stats: %+v", r)
	}
	for _, command := range []string{"stats", "reclaim all"} {
		r := runToEnd(t, dir, binary, args("ctl --socket=c dax "+command)...)
		if r.status != 1 || r.stdout != "" || r.stderr != "virtiofsd-go: the daemon has no DAX window; start it with --dax-window\n" {
			t.Errorf("%s: %+v", command, r)
		}
	}
	if r := runToEnd(t, dir, binary, args("--shared-dir=d --socket-path=s2 --control-socket=c")...); r.status != 1 || !strings.Contains(r.stderr, "another process listens on c") {
		t.Errorf("a second daemon: %+v", r)
	}
	front.Close()
	d.cmd.Process.Signal(syscall.SIGTERM)
	if s := d.status(); s != 0 {
		t.Errorf("status %d: %s", s, &d.stderr)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket is still there: %v", err)
	}
}

func TestCtlPrintsTheCounters(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the backing mount needs root")
	}
	for _, backing := range []string{"managed", "passthrough", "direct"} {
		t.Run(backing, func(t *testing.T) {
			dir := testDir(t)
			d := start(t, dir, binary, args("--shared-dir=d --socket-path=s --control-socket=c --tag=t --dax-window=8M --dax-backing="+backing)...)
			d.connect(filepath.Join(dir, "s"))
			lines := runToEnd(t, dir, binary, args("ctl --socket=c dax stats")...)
			if lines.status != 0 || lines.stderr != "" {
				t.Fatalf("%+v", lines)
			}
			object := runToEnd(t, dir, binary, args("ctl --socket=c --json dax stats")...)
			var fields map[string]any
			if err := json.Unmarshal([]byte(object.stdout), &fields); err != nil {
				t.Fatalf("%v: %+v", err, object)
			}
			if fields["backing"] != backing || fields["window_bytes"] != 8.0*(1<<20) {
				t.Errorf("%v", fields)
			}
			column := -1
			for line := range strings.Lines(lines.stdout) {
				name, value, _ := strings.Cut(line, " ")
				if _, ok := fields[name]; !ok {
					t.Errorf("%q is not in the JSON", name)
				}
				delete(fields, name)
				at := len(line) - len(strings.TrimLeft(value, " "))
				if column < 0 {
					column = at
				} else if at != column {
					t.Errorf("a value in column %d, not %d: %q", at, column, line)
				}
			}
			if len(fields) != 0 {
				t.Errorf("not among the lines: %v", fields)
			}
			r := runToEnd(t, dir, binary, args("ctl --socket=c dax reclaim 1G")...)
			switch {
			case backing == "managed" && (r.status != 0 || !strings.HasPrefix(r.stdout, "took back 0 bytes (0.0 MiB) in ")):
				t.Errorf("%+v", r)
			case backing != "managed" && (r.status != 1 || !strings.Contains(r.stderr, "with --dax-backing="+backing)):
				t.Errorf("%+v", r)
			}
		})
	}
}
