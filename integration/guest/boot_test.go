package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

func TestGuestRunsCommands(t *testing.T) {
	vm := startVM(t, guest.Config{})
	if got := run(t, vm, time.Minute, "echo out; echo err >&2"); !strings.Contains(got, "out\n") || !strings.Contains(got, "err\n") {
		t.Errorf("output is %q", got)
	}
	_, err := vm.Run(t.Context(), "exit 42")
	var status *guest.ExitError
	if !errors.As(err, &status) || status.Status != 42 {
		t.Errorf("status of exit 42 is %v", err)
	}
	if _, err := vm.Run(t.Context(), "kill -TERM $$"); !errors.As(err, &status) || status.Status != 128+15 {
		t.Errorf("status of a terminated command is %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	want := strings.Repeat("0123456789abcdef", 1<<16)
	if err := os.WriteFile(file, []byte(want), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := vm.CopyIn(t.Context(), file, "/tmp/it's"); err != nil {
		t.Fatal(err)
	}
	if got, err := vm.CopyOut(t.Context(), "/tmp/it's"); err != nil || string(got) != want {
		t.Errorf("a file of %d bytes came back with %d: %v", len(want), len(got), err)
	}
	clockIsRight(t, vm)
}

// clockIsRight reads the guest's clock twice. One that runs too fast makes all that a test does for a while in the guest too
// short, and the guest's kernel complain of tasks that hang.
//
// To see it fail, in one run of a few: let the kernel keep its time stamp counter for a clock.
func clockIsRight(t *testing.T, vm *guest.VM) {
	var asked, answered [2]time.Time
	var says [2]int64
	for i := range says {
		if i > 0 {
			time.Sleep(time.Second)
		}
		asked[i] = time.Now()
		out := run(t, vm, time.Minute, "date +%s%N")
		answered[i] = time.Now()
		var err error
		if says[i], err = strconv.ParseInt(strings.TrimSpace(out), 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	passed, least, most := time.Duration(says[1]-says[0]), asked[1].Sub(answered[0]), answered[1].Sub(asked[0])
	if passed < least-least/100 || passed > most+most/100 {
		t.Errorf("%v have passed in the guest, on the host between %v and %v", passed, least, most)
	}
}

func TestDirectoryIsMountedInGuest(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	vm := mounted(t, dir, guest.Share{})
	if got := run(t, vm, time.Minute, "ls /mnt; cat /mnt/hello; echo from the guest >/mnt/reply"); got != "hello\nfrom the host\n" {
		t.Errorf("the guest sees %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "reply")); err != nil || string(got) != "from the guest\n" {
		t.Errorf("the host sees %q, %v", got, err)
	}
}
