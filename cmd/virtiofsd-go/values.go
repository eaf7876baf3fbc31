package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/virtiofsd-go/virtiofsd-go/fs"
)

// The kinds of option values. Their Set gives errors that complete the
// sentence "--option: ...".

// flagValue is what pflag hands to Set for a flag that is given without a value.
// No argument of a program can hold it.
const flagValue = "\x00"

var errNoValue = errors.New("takes no value")

// flag sets *to when it is given.
type flag struct {
	to  *bool
	val bool
}

func yes(to *bool) pflag.Value { return flag{to, true} }
func no(to *bool) pflag.Value  { return flag{to, false} }

func (f flag) Set(s string) error {
	if s != flagValue {
		return errNoValue
	}
	*f.to = f.val
	return nil
}

// errStop ends the reading of the command line: what follows is not looked at.
var errStop = errors.New("the command line ends here")

// stopFlag is a flag that asks for something else than to serve.
type stopFlag struct{ flag }

func stop(to *bool) pflag.Value { return stopFlag{flag{to, true}} }

func (f stopFlag) Set(s string) error {
	if err := f.flag.Set(s); err != nil {
		return err
	}
	return errStop
}

func (f flag) String() string { return strconv.FormatBool(f.to != nil && *f.to == f.val) }
func (flag) Type() string     { return "bool" }

// autoFlag sets an fs.Auto to one value when it is given.
type autoFlag struct {
	to  *fs.Auto
	val fs.Auto
}

func (f autoFlag) Set(s string) error {
	if s != flagValue {
		return errNoValue
	}
	*f.to = f.val
	return nil
}
func (f autoFlag) String() string { return strconv.FormatBool(f.to != nil && *f.to == f.val) }
func (autoFlag) Type() string     { return "bool" }

// textValue is any string but the empty one.
type textValue struct{ to *string }

func text(to *string) pflag.Value { return textValue{to} }

func (t textValue) Set(s string) error {
	if s == "" {
		return errors.New("may not be empty")
	}
	if strings.ContainsRune(s, 0) {
		return errors.New("may not hold a NUL byte")
	}
	*t.to = s
	return nil
}
func (textValue) String() string { return "" }
func (textValue) Type() string   { return "text" }

// textList collects the values of an option that may be given several times.
type textList []string

func (l *textList) Set(s string) error { *l = append(*l, s); return nil }
func (*textList) String() string       { return "" }
func (*textList) Type() string         { return "text" }

// numberValue is a whole number in a range.
type numberValue[T int | int64] struct {
	to       *T
	min, max T
}

func number[T int | int64](to *T, min, max T) pflag.Value { return numberValue[T]{to, min, max} }

func (n numberValue[T]) Set(s string) error {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || T(v) < n.min || T(v) > n.max {
		return fmt.Errorf("%q is not a number from %d to %d", s, n.min, n.max)
	}
	*n.to = T(v)
	return nil
}
func (numberValue[T]) String() string { return "" }
func (numberValue[T]) Type() string   { return "number" }

// namedValue is one of the values that an option can have.
type namedValue[T any] struct {
	name string
	val  T
}

func pair[T any](name string, val T) namedValue[T] { return namedValue[T]{name, val} }

type enumValue[T any] struct {
	to      *T
	vals    []namedValue[T]
	anyCase bool
}

func oneOf[T any](to *T, vals ...namedValue[T]) pflag.Value { return enumValue[T]{to: to, vals: vals} }

// oneOfAnyCase is oneOf for names that may be written in capitals too.
func oneOfAnyCase[T any](to *T, vals ...namedValue[T]) pflag.Value {
	return enumValue[T]{to: to, vals: vals, anyCase: true}
}

func negotiation(to *fs.Auto) pflag.Value {
	return oneOf(to, pair("never", fs.Off), pair("auto", fs.IfOffered), pair("always", fs.On))
}

func (e enumValue[T]) Set(s string) error {
	names := make([]string, len(e.vals))
	for i, v := range e.vals {
		if v.name == s || e.anyCase && strings.EqualFold(v.name, s) {
			*e.to = v.val
			return nil
		}
		names[i] = v.name
	}
	return fmt.Errorf("%q is not one of %s", s, strings.Join(names, ", "))
}
func (enumValue[T]) String() string { return "" }
func (enumValue[T]) Type() string   { return "choice" }

// tagValue is a tag that fits in virtio_fs_config and that Linux accepts.
type tagValue struct{ to *string }

func (t tagValue) Set(s string) error {
	switch {
	case s == "" || len(s) > maxTagLen:
		return fmt.Errorf("must have 1 to %d bytes", maxTagLen)
	case strings.ContainsAny(s, "\n\x00"):
		return errors.New("may not hold a newline or a NUL byte")
	case !utf8.ValidString(s):
		return errors.New("must be UTF-8")
	}
	*t.to = s
	return nil
}
func (tagValue) String() string { return "" }
func (tagValue) Type() string   { return "tag" }

// size is a number of bytes.
type size uint64

// sizeValue is a size with an optional unit: K, M, G or T, powers of 1024.
type sizeValue struct{ to *size }

func (v sizeValue) Set(s string) error {
	digits := strings.TrimRight(s, "KMGTkmgt")
	unit := strings.ToUpper(s[len(digits):])
	shift, ok := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || !ok || n > (1<<63-1)>>shift {
		return fmt.Errorf("%q is not a size, as 64M or 1G", s)
	}
	*v.to = size(n << shift)
	return nil
}
func (sizeValue) String() string { return "" }
func (sizeValue) Type() string   { return "size" }
