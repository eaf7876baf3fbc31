package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/device"
	"github.com/virtiofsd-go/virtiofsd-go/fs"
	"github.com/virtiofsd-go/virtiofsd-go/vhostuser"
)

// endLimit bounds how long the end of the process waits for threads that are
// stuck in the kernel.
const endLimit = 5 * time.Second

// serve runs the daemon until the front-end has gone or a signal came.
func serve(c *config, args []string, stderr io.Writer) error {
	log := newLogger(c, stderr)
	for _, w := range c.deprecated(args) {
		log.Warn(w)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)

	err := serveWith(ctx, c, log)
	if err != nil && c.syslog {
		log.Error(err.Error())
	}
	return err
}

// serveWith sets everything up and serves.
func serveWith(ctx context.Context, c *config, log *slog.Logger) error {
	if st, err := os.Stat(c.fs.SharedDir); err != nil {
		return fmt.Errorf("the shared directory can't be used: %w; name one with --shared-dir that is there and that the daemon's user may enter", err)
	} else if !st.IsDir() {
		return fmt.Errorf("the shared directory can't be used: %s is not a directory; name the directory that it is in with --shared-dir", c.fs.SharedDir)
	}
	setupScheduler(c)
	setupCollector()
	var err error
	if c.fs.FDLimit, err = setupFDLimit(c, log); err != nil {
		return err
	}
	c.fs.Logger = log
	window, err := startWindow(c, log)
	if err != nil {
		return err
	}
	opts := device.Options{
		RequestQueues: c.queues,
		Tag:           c.tag,
		Workers:       c.threadPoolSize,
		Helpers:       helpers(c),
		BusyPoll:      time.Duration(c.busyPoll) * time.Microsecond,
		Waiters:       fdsForWaiters,
		Logger:        log,
	}
	session := vhostuser.Config{Log: log}
	if window != nil {
		defer within(endLimit, window.owner.Close)
		c.fs.DAX, c.fs.WindowOffset = window.owner, window.offset
		opts.Window, session.Classify = window, window.classify
		opts.NoMemSlots = c.daxBacking == dax.Managed
	}
	server, err := fs.New(c.fs)
	if err != nil {
		return err
	}
	opts.Server = server
	dev, err := device.New(opts)
	if err != nil {
		return err
	}
	conns := new(connections)
	ctl, err := startControl(c, window, func() stats { return takeStats(conns, dev, server) }, log)
	if err != nil {
		return err
	}
	if ctl != nil {
		defer within(endLimit, ctl.Close)
	}
	e, err := openEndpoint(c)
	if err != nil {
		return err
	}
	err = accept(ctx, c, log, e, conns, dev, session)
	e.Close()
	within(endLimit, func() {
		dev.Close()
		server.Close()
	})
	return err
}

// accept serves front-ends one after the other: one, or with --reconnect any
// number until ctx ends.
func accept(ctx context.Context, c *config, log *slog.Logger, e *endpoint, conns *connections, dev *device.Device, session vhostuser.Config) error {
	for {
		log.Info("waiting for a front-end to connect")
		sock, err := e.Accept(ctx)
		if ctx.Err() != nil {
			log.Info("ending, as a signal asked for")
			return nil
		}
		if err != nil {
			return err
		}
		conns.all.Add(1)
		log.Info("a front-end has connected")
		err = vhostuser.Serve(ctx, sock, dev, session)
		switch {
		case ctx.Err() != nil:
			log.Info("ending, as a signal asked for")
			return nil
		case err != nil:
			conns.broken.Add(1)
			log.Error("the connection to the front-end has ended", "err", err)
		default:
			log.Info("the front-end has disconnected")
		}
		if !c.reconnect {
			return nil
		}
	}
}

// within runs f and waits for its end, but not for long.
func within(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
