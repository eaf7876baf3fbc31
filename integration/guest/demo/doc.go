// The demo serves a directory to a guest and leaves the user at a shell there, with the directory at /mnt, or runs one
// command there and ends with its status. scripts/demo, and so `make demo`, makes what it needs, starts it and explains
// the environment variables that it reads.
//
// The shell runs on a pseudo-terminal in the guest that has the size and type of the user's, over the guest's agent and
// not over the serial console, so that line editing, resizing and Ctrl-C work as in any terminal. Standard input need
// not be a terminal. Whatever way the shell ends, the guest is powered off and the daemon is waited for.
package main
