package behaviour

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Options are for trees that are slow, and for runs in which it is known what must not be missing.
type Options struct {
	// Scale divides the large counts (files, rounds); 0 is 1.
	Scale int
	// Require lists capabilities whose absence fails the cases that need them.
	Require []Capability
	// Groups, if not empty, are the only groups of cases that are run.
	Groups []string
}

// OptionsFromEnv reads BEHAVIOUR_SCALE and BEHAVIOUR_REQUIRE, names separated by commas.
func OptionsFromEnv() (Options, error) {
	var o Options
	if s := os.Getenv("BEHAVIOUR_SCALE"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("BEHAVIOUR_SCALE=%q: give a number of 1 or more", s)
		}
		o.Scale = n
	}
	for name := range strings.SplitSeq(os.Getenv("BEHAVIOUR_REQUIRE"), ",") {
		if name == "" {
			continue
		}
		c := Capability(name)
		if !slices.Contains(Capabilities, c) {
			return o, fmt.Errorf("BEHAVIOUR_REQUIRE: there is no capability %q", name)
		}
		o.Require = append(o.Require, c)
	}
	return o, nil
}

// testCase is one thing that holds.
type testCase struct {
	name  string
	needs []Capability
	run   func(t *T)
}

type group struct {
	name  string
	cases []testCase
}

func groups() []group {
	return []group{
		{"errno", errnoCases()},
		{"lookup", lookupCases},
		{"open", openCases},
		{"permission", permissionCases()},
		{"owner", ownerCases},
		{"killpriv", killprivCases()},
		{"time", timeCases()},
		{"readwrite", readWriteCases},
		{"truncate", truncateCases},
		{"fallocate", fallocateCases},
		{"seek", seekCases},
		{"copyrange", copyRangeCases},
		{"rename", renameCases},
		{"link", linkCases},
		{"unlinked", unlinkedCases},
		{"readdir", readdirCases},
		{"xattr", xattrCases},
		{"acl", aclCases},
		{"lock", lockCases},
		{"special", specialCases},
		{"flags", flagCases},
		{"mmap", mmapCases},
		{"race", raceCases},
		{"exercise", exerciseCases},
	}
}

// GroupsBut names all groups but some.
func GroupsBut(names ...string) (all []string) {
	for _, g := range groups() {
		if !slices.Contains(names, g.name) {
			all = append(all, g.name)
		}
	}
	return all
}

// Run runs the whole suite on fs as subtests named group/case. It ends with a line that counts what was run and
// what was skipped for which missing capability.
func Run(t *testing.T, fs FS, o Options) {
	o.Scale = max(o.Scale, 1)
	ran, skipped := 0, map[Capability]int{}
	number := 0
	for _, g := range groups() {
		if len(o.Groups) > 0 && !slices.Contains(o.Groups, g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				number++
				dir := fmt.Sprintf("case%d", number)
				t.Run(c.name, func(t *testing.T) {
					for _, need := range c.needs {
						why := fs.Lacks(need)
						switch {
						case why == "":
						case slices.Contains(o.Require, need):
							t.Fatalf("%s is required here, but missing: %s", need, why)
						default:
							skipped[need]++
							t.Skipf("no %s: %s", need, why)
						}
					}
					ran++
					c.run(newT(t, fs, dir, o.Scale))
				})
			}
		})
	}
	t.Logf("%d cases run, %d skipped %v", ran, total(skipped), skipped)
}

func total(m map[Capability]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}
