// Seeds is a program for a guest that has a DAX mount: the races of package dax's tests, as far as a guest can drive
// them. It ends with status 1 and says what was wrong; a hang is for the caller to notice.
//
//	seeds punch|opentrunc|copy|ring DIR DURATION [serial]
//
// With serial, host operations are one moment to the guest's mappings (the managed backing): a copy sees each of them at
// one point in time.
package main
