// Package device is the virtio device between the vhost-user session and a
// request server: it implements [vhostuser.Device] over virtqueue, runs one
// reader per queue and the workers behind them, and knows nothing about FUSE.
package device
