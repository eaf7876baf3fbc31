package virtiofsd_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnsafeIsFencedIn checks that unsafe is imported only by files whose name
// says so, and by at most one file of a package besides its tests.
func TestUnsafeIsFencedIn(t *testing.T) {
	fenced := map[string]string{} // file by directory
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "build") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		uses := false
		for _, i := range f.Imports {
			uses = uses || i.Path.Value == `"unsafe"`
		}
		switch {
		case !uses:
		case strings.HasSuffix(name, "_unsafe_test.go"):
		case !strings.HasSuffix(name, "_unsafe.go"):
			t.Errorf("%s imports unsafe: move what needs it to the package's *_unsafe.go", path)
		default:
			dir := filepath.Dir(path)
			if other := fenced[dir]; other != "" {
				t.Errorf("%s imports unsafe, and so does %s: one file of a package may", path, other)
			}
			fenced[dir] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 || len(fenced) == 0 {
		t.Fatalf("only %d files were looked at, and %d import unsafe: is this run in the module's root?", files, len(fenced))
	}
}
