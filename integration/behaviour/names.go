package behaviour

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

var nameCount atomic.Uint64

// uniqueName is a name that no other call gives, and that tells its number.
func uniqueName(number uint32) string {
	return fmt.Sprintf("%d-%d", number, nameCount.Add(1))
}

// ownerOfName is the user of that number in the cases with many callers.
func ownerOfName(t *T, name string) uint32 {
	t.Helper()
	s, _, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(s)
	t.ok(err, "number in the name %q", name)
	return 1000 + uint32(n)
}
