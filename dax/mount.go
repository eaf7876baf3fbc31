package dax

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// firstLinkFD is where the server's process finds its links.
const firstLinkFD = 3

// BackingMain serves the backing mount until the daemon is gone. It is the whole
// life of a process that [New] starts with [Config].Command and the arguments
// given here, and owns the descriptors from 3 on. Such a process must do nothing
// else: see the package comment.
func BackingMain(args []string) error {
	if len(args) != 4 {
		return errors.New("dax: the backing process is started by the daemon only")
	}
	var n [4]uint64
	for i, a := range args {
		v, err := strconv.ParseUint(a, 10, 63)
		if err != nil {
			return fmt.Errorf("dax: argument %q of the backing process: %w", a, err)
		}
		n[i] = v
	}
	cfg := mountConfig{window: n[0], segment: n[1], memory: n[2]}
	links := make([]*link, n[3])
	for i := range links {
		links[i] = newLink(firstLinkFD + i)
		unix.CloseOnExec(firstLinkFD + i)
	}
	if len(links) == 0 || cfg.segment == 0 {
		return errors.New("dax: the backing process is started by the daemon only")
	}
	kicked := firstLinkFD + len(links)
	unix.CloseOnExec(kicked)
	// The daemon ends in order and then closes the links; what a terminal or a
	// service manager sends to the group is for the daemon.
	// And a broken standard error is no reason to end.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	unix.Umask(0)

	s := newServer(cfg)
	s.budget.kicked = kicked
	dev, mnt, err := mountDetached()
	if err != nil {
		return err
	}
	s.fuse, err = fuse.NewServer(s, "/dev/fd/"+strconv.Itoa(dev), &fuse.MountOptions{
		MaxWrite: maxRequest,
		// With a budget a thread that faults waits for its readahead too, so
		// that no more than that is in memory beside what is counted.
		SyncRead: cfg.memory != 0,
		// A READ that waits for an exclusion must not keep writeback out of
		// the queue of background requests.
		MaxBackground:            1<<16 - 1,
		ExplicitDataCacheControl: true,
		DisableXAttrs:            true,
		DisableSplice:            true,
		MaxStackDepth:            1,
		Logger:                   log.New(os.Stderr, "dax: ", 0),
	})
	if err != nil {
		unix.Close(mnt)
		return fmt.Errorf("dax: answering the kernel's first request: %w", err)
	}
	go s.fuse.Serve()

	// The mount goes to the daemon; no descriptor of it stays here.
	var m message
	if err := links[0].receive(&m); err != nil {
		return err
	}
	m.fd = mnt
	err = links[0].send(&m)
	unix.Close(mnt)
	if err != nil {
		return err
	}
	gone := make(chan error, len(links))
	for _, l := range links {
		go func() { gone <- s.serveLink(l) }()
	}
	if err := <-gone; !errors.Is(err, errLinkClosed) {
		return err
	}
	return nil
}

// maxRequest is the largest READ and WRITE of the mount.
const maxRequest = 1 << 20

// mountDetached makes a FUSE mount that is attached nowhere: only who has the
// descriptor can reach a file of it, and it is gone with the last descriptor and
// mapping of its files.
func mountDetached() (dev, mnt int, err error) {
	dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("dax: opening /dev/fuse (is the fuse module loaded?): %w", err)
	}
	fail := func(what string, err error) (int, int, error) {
		unix.Close(dev)
		return -1, -1, fmt.Errorf("dax: %s the backing mount (needs CAP_SYS_ADMIN and Linux 5.2): %w", what, err)
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("creating", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{
		{"source", "virtiofsd-dax"},
		{"subtype", "virtiofsd-dax"},
		{"fd", strconv.Itoa(dev)},
		{"rootmode", "40700"},
		{"user_id", strconv.Itoa(os.Geteuid())},
		{"group_id", strconv.Itoa(os.Getegid())},
		{"max_read", strconv.Itoa(maxRequest)},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fail("option "+o[0]+" of", err)
		}
	}
	// The front-end may run as another user.
	if err := unix.FsconfigSetFlag(fs, "allow_other"); err != nil {
		return fail("option allow_other of", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail("creating", err)
	}
	mnt, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fail("mounting", err)
	}
	return dev, mnt, nil
}
