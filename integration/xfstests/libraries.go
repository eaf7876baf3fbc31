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

// addLibraries gives a root those libraries that it lacks; run executes a script there, and give copies a file into it.
func addLibraries(libraries map[string]string, run func(script string) (string, error), give func(from, to string) error) error {
	out, err := run("mkdir -p /usr/local/lib && ldconfig && ldconfig -p")
	if err != nil {
		return err
	}
	for _, name := range missing(out, libraries) {
		if err := give(libraries[name], "/usr/local/lib/"+name); err != nil {
			return fmt.Errorf("give check's root %s: %w", name, err)
		}
	}
	_, err = run("ldconfig")
	return err
}

// missing returns the libraries that ldconfig -p does not list.
func missing(ldconfig string, libraries map[string]string) []string {
	has := map[string]bool{}
	for line := range strings.Lines(ldconfig) {
		if fields := strings.Fields(line); len(fields) > 0 {
			has[fields[0]] = true
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(libraries)) {
		if !has[name] {
			names = append(names, name)
		}
	}
	return names
}
