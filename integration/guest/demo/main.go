package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sys/unix"
)

func main() {
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	os.Exit(status)
}

// run returns the status to exit with: the command's own, 128 and a signal's number, or 1 with an error.
func run() (status int, err error) {
	s, err := readSettings()
	if err != nil {
		return 1, err
	}
	assets, err := guest.FindAssets()
	if err != nil {
		return 1, err
	}
	if s.vm.Dir, err = os.MkdirTemp("", "virtiofsd-go-demo-"); err != nil {
		return 1, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n(logs of the guest and the daemon: %s)", err, s.vm.Dir)
			return
		}
		os.RemoveAll(s.vm.Dir)
	}()

	ctx, interrupted := untilSignal()
	status, err = serve(ctx, s, assets)
	if sig := interrupted(); sig != 0 {
		return 128 + int(sig), nil
	}
	return status, err
}

// untilSignal gives a context that ends with the first signal to end, and a function that returns that signal.
func untilSignal() (context.Context, func() unix.Signal) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		sig := <-signals
		cancel(signalError(sig.(unix.Signal)))
	}()
	return ctx, func() unix.Signal {
		var sig signalError
		errors.As(context.Cause(ctx), &sig)
		return unix.Signal(sig)
	}
}

type signalError unix.Signal

func (s signalError) Error() string { return unix.Signal(s).String() }

// serve runs the daemon and the guest for as long as the shell or the command runs.
func serve(ctx context.Context, s *settings, assets *guest.Assets) (int, error) {
	if interactive(s) {
		fmt.Fprintln(os.Stderr, "Booting a guest; this takes a few seconds.")
	}
	daemon, err := startDaemon(ctx, s)
	if err != nil {
		return 1, err
	}
	defer daemon.Kill()
	vm, err := guest.Start(ctx, assets, s.vm)
	if err != nil {
		return 1, withLog(err, s)
	}
	defer vm.Kill()
	if out, err := vm.Run(ctx, "mount -t virtiofs "+s.options+tag+" /mnt"); err != nil {
		return 1, withLog(fmt.Errorf("mount the share: %w", errors.Join(vm.Fault(), errors.New(out))), s)
	}
	status, err := work(ctx, vm, s)
	if err != nil {
		return 1, withLog(err, s)
	}
	if err := vm.Stop(context.WithoutCancel(ctx)); err != nil {
		return status, withLog(err, s)
	}
	if s.stays {
		return status, daemon.Stop()
	}
	if err := daemon.Wait(10 * time.Second); err != nil {
		return status, withLog(err, s)
	}
	return status, nil
}

func startDaemon(ctx context.Context, s *settings) (*guest.Daemon, error) {
	log, err := os.Create(filepath.Join(s.vm.Dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.device.Socket = filepath.Join(s.vm.Dir, "socket")
	s.vm.Shares = []guest.Share{s.device}
	output := io.Writer(log)
	if s.verbose {
		output = os.Stderr
	}
	daemon, err := guest.StartDaemon(ctx, guest.DaemonConfig{Command: s.daemon, Socket: s.device.Socket, Dir: s.share, Tag: tag, Output: output})
	if err != nil {
		return nil, withLog(err, s)
	}
	return daemon, nil
}

// withLog adds what the daemon has to say to an error.
func withLog(err error, s *settings) error {
	log, readErr := os.ReadFile(filepath.Join(s.vm.Dir, "daemon.log"))
	if readErr != nil || len(log) == 0 {
		return err
	}
	const most = 4096
	return fmt.Errorf("%w\nthe daemon says:\n%s", err, log[max(0, len(log)-most):])
}
