// Command virtiofsd-go serves a host directory to a virtual machine as a
// virtio-fs device over vhost-user.
//
// It parses the command line, sets the process up (limits, log, socket), wires
// fs, device and vhostuser together and ends the process: nothing below it
// exits or prints. The options carry the names and the meaning of those of
// rust virtiofsd 1.14, so that one can take the place of the other; they are
// all in one table (optionTable), from which --help is made too.
//
// Trust: who starts the daemon is trusted. The front-end that connects is not
// trusted to be right, and the guest behind it not at all.
//
// Exit status: 0 when the front-end has gone (without --reconnect) or a signal
// asked for the end, 1 for what went wrong while starting or serving, 2 for a
// wrong command line.
//
// The tests build the binary and run it; where rust virtiofsd is at hand
// (VIRTIOFSD_RUST names the program, or it is in its usual place) the same
// command lines are given to both and the outcome is compared.
package main
