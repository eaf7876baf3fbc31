package device

import (
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// kind is a kind of trouble, which is logged the first time and then once in a
// while: a guest can cause any number of it.
type kind int

const (
	kindChain kind = iota
	kindRing
	kindPanic
	kindSignal
	kindThread
	kindLength
	kinds
)

const logInterval = 10 * time.Second

type limitedLog struct {
	log  *slog.Logger
	each [kinds]rate.Sometimes
}

func (l *limitedLog) init(log *slog.Logger) {
	l.log = log
	for i := range l.each {
		l.each[i] = rate.Sometimes{First: 1, Interval: logInterval}
	}
}

func (l *limitedLog) warn(k kind, msg string, args ...any) {
	l.each[k].Do(func() { l.log.Warn(msg, args...) })
}
