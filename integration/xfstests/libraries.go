package main

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// An installed xfstests was built for this machine, and the guest may have another release of its distribution: what its
// programs need and the guest has not comes along.

// library is a line of ldd: a name, and where this machine has it.
var library = regexp.MustCompile(`(?m)^\s+(\S+) => (/\S+) \(`)

// librariesOf returns the shared libraries of the programs of xfstests, names with their paths.
func librariesOf(ctx context.Context, xfstests string) (map[string]string, error) {
	var programs []string
	for _, pattern := range []string{"ltp/*", "src/*", "src/*/*"} {
		found, err := filepath.Glob(filepath.Join(xfstests, pattern))
		if err != nil {
			return nil, err
		}
		programs = append(programs, found...)
	}
	// It fails for what is no program; one that it can't do anything with will fail in the guest.
	out, _ := exec.CommandContext(ctx, "ldd", programs...).Output()
	return parseLibraries(string(out)), ctx.Err()
}

func parseLibraries(ldd string) map[string]string {
	found := map[string]string{}
	for _, match := range library.FindAllStringSubmatch(ldd, -1) {
		found[match[1]] = match[2]
	}
	return found
}

// addLibraries gives the guest those libraries that it lacks.
func addLibraries(ctx context.Context, vm *guest.VM, libraries map[string]string) error {
	out, err := vm.Run(ctx, "mkdir -p /usr/local/lib && ldconfig && ldconfig -p")
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			has[fields[0]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		if has[name] {
			continue
		}
		if err := vm.CopyIn(ctx, libraries[name], "/usr/local/lib/"+name); err != nil {
			return fmt.Errorf("give the guest %s: %w", name, err)
		}
	}
	_, err = vm.Run(ctx, "ldconfig")
	return err
}
