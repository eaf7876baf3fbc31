package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/fs"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// serve runs the daemon until the front-end has gone or a signal came.
func serve(c *config, args []string, stderr io.Writer) error {
	log := newLogger(c, stderr)
	for _, w := range c.deprecated(args) {
		log.Warn(w)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()

	if st, err := os.Stat(c.fs.SharedDir); err != nil {
		return fmt.Errorf("the shared directory can't be used: %w", err)
	} else if !st.IsDir() {
		return fmt.Errorf("the shared directory can't be used: %s is not a directory", c.fs.SharedDir)
	}
	setupScheduler(c)
	left, err := setupFDLimit(c, log)
	if err != nil {
		return err
	}
	c.fs.FDLimit = left
	c.fs.Logger = log
	window, err := startWindow(c, log)
	if err != nil {
		return err
	}
	if window != nil {
		defer window.owner.Close()
		c.fs.DAX, c.fs.WindowOffset = window.owner, window.offset
	}
	server, err := fs.New(c.fs)
	if err != nil {
		return err
	}
	defer server.Close()
	opts := device.Options{Server: server, RequestQueues: c.queues, Tag: c.tag, Workers: c.threadPoolSize, Logger: log}
	session := vhostuser.Config{Log: log}
	if window != nil {
		opts.Window, session.Classify = window, window.classify
	}
	dev, err := device.New(opts)
	if err != nil {
		return err
	}
	defer dev.Close()
	e, err := openEndpoint(c)
	if err != nil {
		return err
	}
	defer e.Close()
	// A signal ends the wait for a front-end, and the session with one.
	defer context.AfterFunc(ctx, func() { e.UnixListener.Close() })()
	for {
		log.Info("waiting for a front-end to connect")
		conn, err := e.UnixListener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for a front-end: %w", err)
		}
		log.Info("a front-end has connected")
		err = vhostuser.Serve(ctx, conn, dev, session)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			log.Info("the front-end has gone")
		default:
			log.Error("the connection has ended", "err", err)
		}
		if !c.reconnect {
			// As management software expects, a lost front-end is no failure.
			return nil
		}
	}
}

// startWindow starts the owner of the DAX window, if there is to be one.
func startWindow(c *config, log *slog.Logger) (*daxWindow, error) {
	if c.daxWindow == 0 {
		return nil, nil
	}
	owner, err := dax.New(dax.Config{Window: uint64(c.daxWindow), Backing: c.daxBacking, MinSize: uint64(c.daxMinSize),
		Memory: uint64(c.daxMemory), MaxRegions: c.daxMaxRegions, Log: log})
	if err != nil {
		return nil, err
	}
	return newDAXWindow(owner), nil
}
