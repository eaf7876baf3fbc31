package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// serve runs the daemon until the front-end has gone or a signal came.
func serve(c *config, args []string, stderr io.Writer) error {
	log := newLogger(c, stderr)
	for _, w := range c.deprecated(args) {
		log.Warn(w)
	}
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

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
	e, err := openEndpoint(c)
	if err != nil {
		return err
	}
	defer e.Close()
	log.Info("waiting for a front-end to connect")
	<-sigs
	return nil
}
