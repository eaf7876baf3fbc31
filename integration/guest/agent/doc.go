// The agent is the guest's half of integration/guest: a static program that the initramfs starts as /init.
//
// As process 1 it loads the modules that came with it, puts a tmpfs over the read-only root disk, moves there and then
// only reaps. A second process of the same program waits on the virtio-serial port named "agent" and serves SSH on it:
// commands with their own standard streams, status and signals, interactive shells on a pseudo-terminal, and the
// "poweroff" subsystem. SSH is here for its framing, not for its secrecy: whoever holds the port owns the guest.
//
// Results therefore never travel over the file system under test, and a hung mount does not hang the agent: it touches
// no file but those of the root disk and of devtmpfs, proc and sysfs.
package main
