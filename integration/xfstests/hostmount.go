package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/fusebridge"
	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

// mount(8) of check's root runs this program under the name mount.fuse. It asks the worker, which is outside of that root,
// to start a daemon and to mount.
const (
	mountHelper  = "mount.fuse"
	mountSocket  = "/run/xfstests-mount.sock"
	mountFailure = 32 // as mount(8) calls it
	bridgeStart  = 30 * time.Second
	daemonEnd    = 30 * time.Second
)

// mountRequest is what the helper sends; the answer is a report.
type mountRequest struct{ Source, Dir, Options string }

// askForMount is the helper.
func askForMount(arguments []string) (status int) {
	err := func() error {
		request, err := parseHelperArguments(arguments)
		if err != nil {
			return err
		}
		conn, err := net.Dial("unix", mountSocket)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := json.NewEncoder(conn).Encode(request); err != nil {
			return err
		}
		var answer report
		if err := json.NewDecoder(conn).Decode(&answer); err != nil {
			return err
		}
		if answer.Error != "" {
			return errors.New(answer.Error)
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", mountHelper, err)
		return mountFailure
	}
	return 0
}

// mountServer mounts the shares for check, each time with a daemon of its own.
type mountServer struct {
	config hostConfig
	failed func(why string)

	mu    sync.Mutex
	count int
	live  []*servedMount
	ended sync.WaitGroup
	errs  []error
}

type servedMount struct {
	share  string
	daemon *guest.Daemon
	bridge *fusebridge.Bridge
	log    *os.File
}

// newMountServer calls failed when a mount fails that nobody has unmounted.
func newMountServer(c hostConfig, failed func(why string)) (*mountServer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := copyFile(exe, inHostRoot("/usr/sbin/"+mountHelper)); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", inHostRoot(mountSocket))
	if err != nil {
		return nil, err
	}
	s := &mountServer{config: c, failed: failed}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				failed("no mount works any more: " + err.Error())
				return
			}
			go s.answer(conn)
		}
	}()
	return s, nil
}

func (s *mountServer) answer(conn net.Conn) {
	defer conn.Close()
	var request mountRequest
	var answer report
	err := json.NewDecoder(conn).Decode(&request)
	if err == nil {
		err = s.serve(request)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	json.NewEncoder(conn).Encode(answer)
}

func (s *mountServer) serve(r mountRequest) error {
	flags, err := parseMountOptions(r.Options)
	if err != nil {
		return err
	}
	dir := inHostRoot(r.Dir)
	if flags&unix.MS_REMOUNT == 0 {
		i := slices.IndexFunc(shares, func(share string) bool { return tag(share) == r.Source })
		if i < 0 {
			return fmt.Errorf("there is no device %q", r.Source)
		}
		if err := s.mount(shares[i], dir); err != nil || flags == 0 {
			return err
		}
	}
	// Of the file system and of the mount, as mount(2) does it at once.
	err = unix.Mount("", dir, "", flags|unix.MS_REMOUNT, "")
	if err != nil && flags&unix.MS_REMOUNT == 0 {
		unix.Unmount(dir, 0)
	}
	return err
}

func (s *mountServer) mount(share, dir string) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	m := &servedMount{share: share}
	if m.log, err = os.OpenFile(filepath.Join(s.config.Logs, "daemon-"+share+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), bridgeStart)
	defer cancel()
	socket := fmt.Sprintf("%d.sock", s.count)
	m.daemon, err = guest.StartDaemon(ctx, guest.DaemonConfig{
		Command: s.config.Daemon, Socket: socket, Dir: filepath.Join(hostDisk, share), Tag: tag(share), Output: m.log,
	})
	if err != nil {
		m.log.Close()
		return err
	}
	m.bridge, err = fusebridge.Mount(fusebridge.Options{
		Socket: socket, Queues: 1 + s.config.Queues, Packed: s.config.Packed, Source: tag(share), Log: m.log,
	})
	if err == nil {
		if err = m.bridge.Attach(dir); err != nil {
			m.bridge.Close()
		}
	}
	if err != nil {
		m.daemon.Kill()
		m.log.Close()
		return err
	}
	m.bridge.Release()
	s.live = append(s.live, m)
	s.ended.Add(1)
	go s.watch(m, socket)
	return nil
}

// watch waits for a mount's end, which has to be by unmounting it, and for its daemon's.
func (s *mountServer) watch(m *servedMount, socket string) {
	defer s.ended.Done()
	err := m.bridge.Wait()
	if err != nil {
		err = fmt.Errorf("the mount of %s ended: %w (see %s)", m.share, err, m.log.Name())
	} else if end := m.daemon.Wait(daemonEnd); end != nil {
		err = fmt.Errorf("the daemon of %s: %w (see %s)", m.share, end, m.log.Name())
	}
	m.daemon.Kill()
	os.Remove(socket)
	os.Remove(socket + ".pid")
	m.bridge.Close() // what is left of it in this process
	m.log.Close()
	s.mu.Lock()
	s.live = slices.DeleteFunc(s.live, func(other *servedMount) bool { return other == m })
	if err != nil {
		s.errs = append(s.errs, err)
	}
	s.mu.Unlock()
	if err != nil {
		s.failed(err.Error())
	}
}

// abort ends the daemons with their goroutines in the log.
func (s *mountServer) abort() error {
	s.mu.Lock()
	live := slices.Clone(s.live)
	s.mu.Unlock()
	var errs []error
	for _, m := range live {
		errs = append(errs, m.daemon.Abort())
	}
	return errors.Join(errs...)
}

// stop unmounts what check has left mounted and returns what went wrong with any mount.
func (s *mountServer) stop() error {
	var errs []error
	for _, share := range shares {
		dir := inHostRoot(mountPoint(share))
		// EINVAL: it is not mounted.
		for err := error(nil); err == nil; {
			err = unix.Unmount(dir, 0)
			if err != nil && err != unix.EINVAL {
				errs = append(errs, fmt.Errorf("unmount %s: %w", share, err), unix.Unmount(dir, unix.MNT_DETACH))
			}
		}
	}
	ended := make(chan struct{})
	go func() { s.ended.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * daemonEnd):
		errs = append(errs, errors.New("a daemon goes on after its mount's end"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(append(s.errs, errs...)...)
}
