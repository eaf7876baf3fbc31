// Package hostfs is a tree of files of this machine's kernel as a behaviour.FS: every method is the system call.
//
// New sets the file mode creation mask of the process to 0. Calls by another caller than the process, or with
// another mask, are made on threads that are kept for it: each has its own effective ids, supplementary groups
// and mask (setresuid and the like by raw system call, unshare(CLONE_FS)), and none of them ever goes back to
// the Go runtime. So New belongs in a test binary, or a program that is only this.
//
// The package trusts the directory that it is given. Paths are not confined to it.
package hostfs
