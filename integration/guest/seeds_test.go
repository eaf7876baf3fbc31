package guest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const seedsPackage = "github.com/virtiofsd-go/virtiofsd-go/integration/guest/seeds"

// TestDAXSeeds runs the races of package dax's tests as far as a guest can drive them, while the host takes everything
// back where it can. How each can be made to fail is said at the test of the same name in package dax.
func TestDAXSeeds(t *testing.T) {
	program := buildSeeds(t)
	for _, backing := range []string{"managed", "passthrough"} {
		t.Run(backing, func(t *testing.T) { runSeeds(t, backing, program) })
	}
}

// buildSeeds returns the path of the program.
func buildSeeds(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "seeds")
	build := exec.Command("go", "build", "-o", program, seedsPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return program
}

func runSeeds(t *testing.T, backing, program string) {
	dir := t.TempDir()
	socket := controlSocket(t)
	vm := daxMounted(t, dir, "64M", "--dax-backing="+backing, "--control-socket="+socket)
	if err := vm.CopyIn(t.Context(), program, "/tmp/seeds"); err != nil {
		t.Fatal(err)
	}
	host := reclaimEvery(t, 100*time.Millisecond, socket, dir, backing)
	duration := 5 * time.Second
	if os.Getenv(longVariable) != "" {
		duration = time.Minute
	}
	serial := ""
	if backing == "managed" {
		serial = "serial"
	}
	for _, seed := range []struct{ name, test string }{
		{"punch", "TestPunchLocksOutFaults"},
		{"opentrunc", "TestAtomicTruncVsOpen"},
		{"copy", "TestTwoInodeCopy"},
		{"ring", "TestMappedBufferRing"},
	} {
		t.Run(seed.test, func(t *testing.T) {
			before := lookAt(t, socket)
			out := run(t, vm, duration+2*time.Minute, fmt.Sprintf("/tmp/seeds %s /mnt %v %s", seed.name, duration, serial))
			after := lookAt(t, socket)
			t.Logf("%s; %d faults, %d bytes reclaimed, %d locks dropped", strings.TrimSpace(out), after.Faults-before.Faults, after.ReclaimedBytes-before.ReclaimedBytes, after.LockDrops-before.LockDrops)
			if seed.name == "ring" && os.Getenv(longVariable) != "" && after.LockDrops == before.LockDrops {
				t.Error("no lock was ever dropped")
			}
			if after.FaultErrors+after.InvalidateErrs != 0 {
				t.Error("faults or invalidations failed")
			}
			sameOnBothSides(t, vm, dir, seed.name)
		})
	}
	host.stop(t)
	if err := vm.Fault(); err != nil {
		t.Error(err)
	}
}
