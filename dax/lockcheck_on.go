//go:build lockcheck || race

package dax

const checkLocks = true
