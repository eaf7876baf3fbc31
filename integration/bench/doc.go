// Command bench measures virtio-fs daemons of any make over their sockets, without a guest: it plays QEMU and the
// guest's driver (packages frontend and fuseclient), with Linux's request layout, indirect descriptors and EVENT_IDX.
//
//	go run ./integration/bench --vs 'rust=virtiofsd --socket-path={socket} --shared-dir={dir} --sandbox none'
//
// Every daemon is started once and stays. A row is a workload at a depth (requests in flight on each queue); it is run
// in rounds, in each of which all daemons have their turn, one after the other, A B A B, so that a machine that is
// slower for a while is slower for all. Ratios are taken within a round, and their median is reported. Replies are
// checked: length, header, and what they say against what the host says. A wrong answer ends the row for that daemon.
//
// Processor time is that of all threads of the daemon, in nanoseconds, by its CPU clock; switches are the voluntary
// context switches of its threads, that is how often it went to sleep.
//
// It trusts the daemons no more than the packages below do: every wait is bounded. It measures no guest (scripts/bench-guest
// does), no DAX and no migration.
//
// A driver is one locked OS thread per queue, which fills in, submits, reaps and checks; the only lock is forgets.mu,
// over which no other is taken but those of package frontend.
//
// To test it: go test ./integration/bench drives the daemon of this project through every workload for a moment.
package main
