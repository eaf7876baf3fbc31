package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogIsBoundedForEachText(t *testing.T) {
	var out bytes.Buffer
	h := newBoundedHandler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	now := time.Now()
	say := func(h slog.Handler, level slog.Level, text string) {
		if err := h.Handle(context.Background(), slog.NewRecord(now, level, text, 0)); err != nil {
			t.Fatal(err)
		}
	}
	lines := func() (n int, last string) {
		all := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		out.Reset()
		if all[0] == "" {
			return 0, ""
		}
		return len(all), all[len(all)-1]
	}
	for range 1000 {
		say(h, slog.LevelWarn, "a")
	}
	if n, _ := lines(); n != logBurst {
		t.Errorf("%d lines of 1000, want %d", n, logBurst)
	}
	say(h, slog.LevelError, "b")
	say(h.WithAttrs([]slog.Attr{slog.Int("x", 1)}).WithGroup("g"), slog.LevelWarn, "a")
	if n, last := lines(); n != 1 || !strings.Contains(last, "msg=b") {
		t.Errorf("%d lines, %q: another text is to be logged, the same one of another logger not", n, last)
	}
	now = now.Add(logInterval)
	for range 5 {
		say(h, slog.LevelWarn, "a")
	}
	if n, last := lines(); n != 1 || !strings.Contains(last, "not_logged_before=991") {
		t.Errorf("after the interval %d lines, %q", n, last)
	}
	now = now.Add(logBurst * logInterval)
	for range 1000 {
		say(h, slog.LevelInfo, "a")
		say(h, slog.LevelDebug, "c")
	}
	if n, _ := lines(); n != logBurst+1000 {
		t.Errorf("%d lines of 1000 of either level, want %d and 1000", n, logBurst)
	}
	// Texts without number are not told apart for ever.
	for i := range 10 * logTexts {
		say(h, slog.LevelWarn, fmt.Sprint("text ", i))
	}
	if n, _ := lines(); n > logTexts+logBurst {
		t.Errorf("%d lines of texts that all differ", n)
	}
}
