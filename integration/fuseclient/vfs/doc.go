// Package vfs is the part of a guest's kernel above FUSE that decides what a process sees: it makes a tree served by a
// virtio-fs daemon into a behaviour.FS.
//
// It walks paths and symbolic links, checks mode bits as default_permissions does, keeps file positions and open flags,
// and counts references on nodes, following Linux 7.2's fs/namei.c, fs/attr.c, fs/open.c and fs/fuse with virtio-fs's
// mount options. It caches nothing: every component is looked up and every attribute asked for, so that what the suite
// sees is what the daemon says. There is no page cache and so no mmap; ACLs are stored but not obeyed.
//
// It trusts the suite, and the daemon no more than fuseclient does.
//
// Lock order: openFile.pos, then one of tree.inodes (writers of one node). Nothing is locked while waiting for a lock
// request.
//
// To test: go test ./integration/fuseclient/vfs runs the whole behaviour suite through it.
package vfs
