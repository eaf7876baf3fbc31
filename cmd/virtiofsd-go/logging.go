package main

import (
	"context"
	"io"
	"log/slog"
	"log/syslog"
)

// logLevel is the value of --log-level.
type logLevel slog.Level

const (
	levelTrace = logLevel(slog.LevelDebug - 4)
	levelDebug = logLevel(slog.LevelDebug)
	levelInfo  = logLevel(slog.LevelInfo)
	levelWarn  = logLevel(slog.LevelWarn)
	levelError = logLevel(slog.LevelError)
	levelOff   = logLevel(slog.LevelError + 100)
)

// newLogger returns the log of the daemon, of which each message has a bounded
// rate. When syslog is wanted but is not there, it logs to stderr, and says so.
func newLogger(c *config, stderr io.Writer) *slog.Logger {
	if c.logLevel == levelOff {
		return slog.New(slog.DiscardHandler)
	}
	opts := &slog.HandlerOptions{Level: slog.Level(c.logLevel), ReplaceAttr: nameTrace}
	if c.syslog {
		w, err := syslog.New(syslog.LOG_USER|syslog.LOG_INFO, program)
		if err == nil {
			return slog.New(newBoundedHandler(newSyslogHandler(w, opts)))
		}
		log := slog.New(newBoundedHandler(slog.NewTextHandler(stderr, opts)))
		log.Warn("syslog can't be reached, logging to standard error", "err", err)
		return log
	}
	return slog.New(newBoundedHandler(slog.NewTextHandler(stderr, opts)))
}

func nameTrace(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey && a.Value.Any() == slog.Level(levelTrace) {
		a.Value = slog.StringValue("TRACE")
	}
	return a
}

// syslogHandler writes each record with the syslog priority of its level.
// Time and level are left to syslog.
type syslogHandler struct {
	byPriority [4]slog.Handler // error, warning, info, debug
}

// priorityWriter turns what a handler writes into messages of one priority.
type priorityWriter func(string) error

func (f priorityWriter) Write(p []byte) (int, error) {
	if err := f(string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func newSyslogHandler(w *syslog.Writer, opts *slog.HandlerOptions) slog.Handler {
	o := *opts
	o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	var h syslogHandler
	for i, f := range []priorityWriter{w.Err, w.Warning, w.Info, w.Debug} {
		h.byPriority[i] = slog.NewTextHandler(f, &o)
	}
	return &h
}

func (h *syslogHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.byPriority[0].Enabled(ctx, l)
}

func (h *syslogHandler) Handle(ctx context.Context, r slog.Record) error {
	switch {
	case r.Level >= slog.LevelError:
		return h.byPriority[0].Handle(ctx, r)
	case r.Level >= slog.LevelWarn:
		return h.byPriority[1].Handle(ctx, r)
	case r.Level >= slog.LevelInfo:
		return h.byPriority[2].Handle(ctx, r)
	}
	return h.byPriority[3].Handle(ctx, r)
}

func (h *syslogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := new(syslogHandler)
	for i := range h.byPriority {
		n.byPriority[i] = h.byPriority[i].WithAttrs(attrs)
	}
	return n
}

func (h *syslogHandler) WithGroup(name string) slog.Handler {
	n := new(syslogHandler)
	for i := range h.byPriority {
		n.byPriority[i] = h.byPriority[i].WithGroup(name)
	}
	return n
}
