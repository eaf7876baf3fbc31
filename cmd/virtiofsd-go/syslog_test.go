package main_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// withSyslog is a shell command that runs its arguments where SYSLOG_DIR/syslog is the socket of the system's log.
const withSyslog = `if [ -e /dev/log ]; then mount --bind "$SYSLOG_DIR/syslog" /dev/log; else mount --bind "$SYSLOG_DIR" /run; fi && exec "$@"`

func TestSyslogGetsTheLog(t *testing.T) {
	both(t, func(t *testing.T, prog string) {
		if os.Getuid() != 0 {
			t.Skip("the socket of syslog can be replaced by root only")
		}
		dir := testDir(t)
		logs := filepath.Join(dir, "logs")
		if err := os.Mkdir(logs, 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(logs, "syslog"), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		t.Setenv("SYSLOG_DIR", logs)
		run := []string{"--mount", "--propagation=private", "sh", "-c", withSyslog, "sh"}
		if out, err := exec.Command("unshare", append(run, "true")...).CombinedOutput(); err != nil {
			t.Skipf("no mount namespace here: %v\n%s", err, out)
		}
		d := start(t, dir, "unshare", append(run, prog, "--syslog", "--sandbox=none", "--shared-dir=d", "--socket-path=s")...)
		d.connect(filepath.Join(dir, "s")).Close()
		if s := d.status(); s != 0 {
			t.Errorf("status %d", s)
		}
		if d.stderr.Len() != 0 {
			t.Errorf("to standard error goes %q", &d.stderr)
		}
		const info = "<14>" // facility user
		var all []string
		buf := make([]byte, 4096)
		for {
			l.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, err := l.Read(buf)
			if err != nil {
				break
			}
			all = append(all, string(buf[:n]))
		}
		connected := false
		for _, m := range all {
			if strings.HasPrefix(m, info) && strings.Contains(strings.ToLower(m), "connect") {
				connected = true
			}
		}
		if !connected {
			t.Errorf("syslog is not told of the front-end: %q", all)
		}
	})
}
