package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Assets are the parts of a guest, as paths on the host.
type Assets struct {
	QEMU    string   // a command; arguments follow it
	Kernel  string   // bzImage
	Modules []string // what the kernel needs to reach its root, in loading order
	Root    string   // ext4 image, never written
}

// rootModules are not built into Debian's cloud kernel.
var rootModules = []string{"drivers/block/virtio_blk.ko.xz", "fs/overlayfs/overlay.ko.xz"}

// FindAssets returns what scripts/bootstrap made. If it has not run, the error says so.
func FindAssets() (*Assets, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	env, err := os.ReadFile(filepath.Join(cache, "guest.env"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no QEMU guest in %s: make one with scripts/bootstrap guest", cache)
	} else if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		vars[name] = value
	}
	a := &Assets{QEMU: vars["QEMU"], Kernel: vars["KERNEL"], Root: vars["ROOT"]}
	for _, m := range rootModules {
		a.Modules = append(a.Modules, filepath.Join(vars["MODULES"], m))
	}
	for _, path := range append([]string{a.QEMU, a.Kernel, a.Root}, a.Modules...) {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("the QEMU guest in %s is incomplete (%w): run scripts/bootstrap guest again", cache, err)
		}
	}
	return a, nil
}

// cacheDir is where scripts/bootstrap keeps what it makes.
func cacheDir() (string, error) {
	if dir := os.Getenv("VIRTIOFSD_GO_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's directory: %w", err)
	}
	return filepath.Join(string(bytes.TrimSpace(out)), "build", "cache"), nil
}
