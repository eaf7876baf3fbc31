package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// selectTests returns what to run: the named tests, or those of the groups. check could find the members of a group too,
// but the rest of a list is needed to go on in a fresh guest.
func selectTests(dir, groups string, names []string, exclude string, repeat int) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, "check")); err != nil {
		return nil, fmt.Errorf("%s is not an installed xfstests: %w", dir, err)
	}
	if len(names) > 0 && groups != "" {
		return nil, errors.New("give a group or tests, not both")
	}
	if len(names) == 0 {
		f, err := os.Open(filepath.Join(dir, "tests", "generic", "group.list"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if names, err = members(f, "generic", strings.Split(cmp.Or(groups, "quick"), ",")); err != nil {
			return nil, err
		}
	}
	left := strings.Split(exclude, ",")
	var once []string
	for _, name := range names {
		if slices.Contains(left, name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, "tests", name)); err != nil || info.IsDir() {
			return nil, fmt.Errorf("there is no test %q in %s", name, dir)
		}
		once = append(once, name)
	}
	if len(once) == 0 {
		return nil, errors.New("no test is selected")
	}
	return slices.Repeat(once, max(1, repeat)), nil
}

// members reads a group.list, lines of a number and the groups that it belongs to. all is every test.
func members(list io.Reader, directory string, groups []string) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		in := func(group string) bool { return group == "all" || slices.Contains(fields[1:], group) }
		if slices.ContainsFunc(groups, in) {
			names = append(names, directory+"/"+fields[0])
		}
	}
	return names, lines.Err()
}
