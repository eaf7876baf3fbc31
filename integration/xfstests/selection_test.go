package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSelection(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"check":                    "",
		"tests/generic/001":        "",
		"tests/generic/002":        "",
		"tests/generic/1234":       "",
		"tests/generic/group.list": "# a comment\n\n001 rw dir auto quick\n002 auto\n1234 quick mmap\n",
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name            string
		groups, exclude string
		names           []string
		repeat          int
		want            string // empty for an error
	}{
		{name: "quick by default", repeat: 1, want: "generic/001 generic/1234"},
		{name: "groups", groups: "dir,mmap", repeat: 1, want: "generic/001 generic/1234"},
		{name: "all but one", groups: "all", exclude: "generic/002", repeat: 1, want: "generic/001 generic/1234"},
		{name: "names, in their order, twice", names: []string{"generic/002", "generic/001"}, repeat: 2, want: "generic/002 generic/001 generic/002 generic/001"},
		{name: "an unknown group", groups: "nobody", repeat: 1},
		{name: "an unknown test", names: []string{"generic/999"}, repeat: 1},
		{name: "a directory", names: []string{"generic"}, repeat: 1},
		{name: "names and a group", groups: "quick", names: []string{"generic/001"}, repeat: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := selectTests(dir, test.groups, test.names, test.exclude, test.repeat)
			if (err != nil) != (test.want == "") || !slices.Equal(got, strings.Fields(test.want)) {
				t.Errorf("selected %v, %v", got, err)
			}
		})
	}
	if _, err := selectTests(t.TempDir(), "", nil, "", 1); err == nil {
		t.Error("a directory without check was taken")
	}
}

func TestLibraries(t *testing.T) {
	const ldd = "ltp/fsx:\n\tlinux-vdso.so.1 (0x00007fe9)\n\tlibaio.so.1 => /lib/libaio.so.1 (0x00007fe9)\n" +
		"ltp/rwtest.sh:\n\tnot a dynamic executable\nltp/doio:\n\tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007fe9)\n"
	got := parseLibraries(ldd)
	if len(got) != 1 || got["libaio.so.1"] != "/lib/libaio.so.1" {
		t.Errorf("found %v", got)
	}
}

func TestLibrariesThatTheRootHasAreNotGiven(t *testing.T) {
	const has = "2 libs found in cache\n\tlibacl.so.1 (libc6,x86-64) => /lib/libacl.so.1\n\tlibaio.so.1t64 (libc6) => /lib/libaio.so.1t64\n"
	got := missing(has, map[string]string{"libuuid.so.1": "/a", "libacl.so.1": "/b", "libaio.so.1": "/c"})
	if want := []string{"libaio.so.1", "libuuid.so.1"}; !slices.Equal(got, want) {
		t.Errorf("missing are %v, want %v", got, want)
	}
}
