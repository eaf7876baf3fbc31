package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// interactive tells whether the user gets a shell on a terminal.
func interactive(s *settings) bool {
	return s.command == "" && term.IsTerminal(unix.Stdin) && term.IsTerminal(unix.Stdout)
}

// work runs the command or the shell and returns its status.
func work(ctx context.Context, vm *guest.VM, s *settings) (int, error) {
	c := guest.Command{Script: s.command, Dir: "/mnt", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if interactive(s) {
		return 0, shell(ctx, vm, c, s)
	}
	err := vm.Exec(ctx, c)
	var exit *guest.ExitError
	if errors.As(err, &exit) {
		return exit.Status, nil
	}
	return 0, err
}

// shell gives the user's terminal to a shell in the guest. How its last command ended is nobody's business here.
func shell(ctx context.Context, vm *guest.VM, c guest.Command, s *settings) error {
	fmt.Fprintf(os.Stderr, "A guest with Linux, and %s at /mnt. exit or Ctrl-D powers it off.\n", s.share)
	columns, rows, err := term.GetSize(unix.Stdout)
	if err != nil {
		return err
	}
	resized := make(chan [2]int, 1)
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	defer signal.Stop(changes)
	go func() {
		for range changes {
			if columns, rows, err := term.GetSize(unix.Stdout); err == nil {
				resized <- [2]int{rows, columns}
			}
		}
	}()
	c.Terminal = &guest.Terminal{Type: os.Getenv("TERM"), Rows: rows, Cols: columns, Resized: resized}

	before, err := term.MakeRaw(unix.Stdin)
	if err != nil {
		return err
	}
	err = vm.Exec(ctx, c)
	if restoreErr := term.Restore(unix.Stdin, before); restoreErr != nil {
		return restoreErr
	}
	var exit *guest.ExitError
	select {
	case <-vm.Done():
		// The user powered the guest off from inside.
		return vm.Fault()
	default:
	}
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
