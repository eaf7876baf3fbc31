// Package control is the daemon's control socket: a Unix stream socket on which
// programs of the host ask for counters and give orders, while the daemon serves.
//
// It carries named commands and knows nothing of what they do. A connection
// carries any number of exchanges, one after the other: a line of JSON from the
// client, a line of JSON from the server. One that is idle for a minute is ended.
//
//	{"version":1,"command":"dax reclaim","args":{"bytes":1048576}}
//	{"version":1,"result":{"reclaimed":1048576}}
//	{"version":1,"error":"there is no DAX window"}
//
// Unknown fields of a request are an error, unknown fields of an answer are not:
// a server may say more, and must not be asked for what it would ignore.
//
// # Trust
//
// Who may connect, as the socket's mode says, may give every order. Clients may
// be broken or slow: a request is bounded in size and time, the number of
// connections is bounded, and each has a goroutine of its own, which shares
// nothing with those that serve the guest but what the commands themselves lock.
//
// # Locks
//
// Server.mu guards the set of connections; nothing is waited for and no command
// runs under it.
//
// The tests need no privileges.
package control
