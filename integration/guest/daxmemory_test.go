package guest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/control"
)

// TestDAXMemoryStaysUnderItsBudget has two processes of the guest touch eight times --dax-memory, one in order and one all over
// the place, while the host looks at what is resident.
//
// To see it fail: in package dax, let budget.charge return at once.
func TestDAXMemoryStaysUnderItsBudget(t *testing.T) {
	const budget, set = 32 << 20, 256 << 20
	dir, socket := t.TempDir(), controlSocket(t)
	vm := daxMounted(t, dir, "256M", fmt.Sprintf("--dax-memory=%d", budget), "--control-socket="+socket)
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(set); err != nil {
		t.Fatal(err)
	}
	run(t, vm, time.Minute, fmt.Sprintf(`cat >/tmp/touch.py <<'PY'
import mmap, random, sys
with open("/mnt/f", "r+b") as f, mmap.mmap(f.fileno(), %d) as m:
    pages = range(0, len(m), 4096)
    while True:
        for at in pages if sys.argv[1] == "order" else random.sample(pages, 2000):
            m[at]
            if at %% 10 == 0: m[at] = 1
PY
for how in order random; do python3 /tmp/touch.py $how >/dev/null 2>&1 & done`, set))
	client, err := control.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var s struct {
		Resident       uint64 `json:"resident_bytes"`
		ReclaimedBytes uint64 `json:"reclaimed_bytes"`
	}
	var most uint64
	looks, over := 0, false
	for start := time.Now(); !over && (s.ReclaimedBytes < set || looks < 100); time.Sleep(5 * time.Millisecond) {
		if err := client.Call(t.Context(), "dax stats", nil, &s); err != nil {
			t.Fatal(err)
		}
		looks++
		most = max(most, s.Resident)
		if s.Resident > budget+budget/10 {
			over = true
		}
		if time.Since(start) > 5*time.Minute {
			t.Fatalf("after %v there is %+v", time.Since(start), s)
		}
	}
	t.Logf("%d looks, %d bytes resident at most, %d taken back", looks, most, s.ReclaimedBytes)
	if over {
		t.Errorf("%d bytes are resident, more than a tenth over the budget", most)
	}
	run(t, vm, time.Minute, "pkill python3; while pgrep python3 >/dev/null; do sleep 0.05; done")
}
