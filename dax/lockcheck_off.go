//go:build !lockcheck && !race

package dax

// checkLocks turns on the check of the lock order: build with the tag lockcheck,
// or with the race detector.
const checkLocks = false
