package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Each message is logged this many times in a row, and then once an interval: a
// guest or a front-end can cause any number of it.
const (
	logBurst    = 10
	logInterval = 10 * time.Second
	// logTexts bounds the number of messages that are told apart.
	logTexts = 1000
)

// boundedHandler passes on what its handler should log, at a bounded rate for
// each text. Debug messages are not bounded: somebody has asked for them.
type boundedHandler struct {
	slog.Handler
	rates *logRates
}

func newBoundedHandler(h slog.Handler) slog.Handler {
	return boundedHandler{h, &logRates{texts: make(map[string]*logText)}}
}

func (h boundedHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.Handler.Handle(ctx, r)
	}
	missed, ok := h.rates.allow(r.Message, r.Time)
	if !ok {
		return nil
	}
	if missed > 0 {
		r.AddAttrs(slog.Uint64("not_logged_before", missed))
	}
	return h.Handler.Handle(ctx, r)
}

func (h boundedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return boundedHandler{h.Handler.WithAttrs(attrs), h.rates}
}

func (h boundedHandler) WithGroup(name string) slog.Handler {
	return boundedHandler{h.Handler.WithGroup(name), h.rates}
}

type logRates struct {
	mu    sync.Mutex
	texts map[string]*logText
}

// logText is what is known of one message.
type logText struct {
	spent  time.Time // when all of the burst is there again
	missed uint64
}

// allow says whether text may be logged now, and how often it was not since it
// last was.
func (l *logRates) allow(text string, now time.Time) (missed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.texts[text]
	if t == nil && len(l.texts) >= logTexts {
		text = ""
		t = l.texts[text]
	}
	if t == nil {
		t = new(logText)
		l.texts[text] = t
	}
	if t.spent.Before(now) {
		t.spent = now
	}
	if t.spent.Sub(now) > (logBurst-1)*logInterval {
		t.missed++
		return 0, false
	}
	t.spent = t.spent.Add(logInterval)
	missed, t.missed = t.missed, 0
	return missed, true
}
