package main

import (
	"encoding/csv"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	tsvName    = "results.tsv"
	tableName  = "results.txt"
	junitName  = "junit.xml"
	widestText = 110
)

// outcome is a row of the results.
type outcome struct {
	test    string
	result  result
	seconds float64
	reason  string // one line
	detail  string // in no table
}

var columns = []string{"test", "result", "seconds", "reason"}

// tsvWriter writes rows as they come, so that a run that is killed leaves those that it had.
type tsvWriter struct{ w *csv.Writer }

func newTSV(out io.Writer) (*tsvWriter, error) {
	w := csv.NewWriter(out)
	w.Comma = '\t'
	t := &tsvWriter{w}
	return t, t.row(columns)
}

func (t *tsvWriter) add(o outcome) error {
	return t.row([]string{o.test, string(o.result), strconv.FormatFloat(o.seconds, 'f', 1, 64), o.reason})
}

func (t *tsvWriter) row(fields []string) error {
	if err := t.w.Write(fields); err != nil {
		return err
	}
	t.w.Flush()
	return t.w.Error()
}

func readTSV(in io.Reader) ([]outcome, error) {
	r := csv.NewReader(in)
	r.Comma, r.FieldsPerRecord = '\t', len(columns)
	rows, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || rows[0][0] != columns[0] {
		return nil, errors.New("the heading is missing")
	}
	var outcomes []outcome
	for _, row := range rows[1:] {
		seconds, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, outcome{test: row[0], result: result(row[1]), seconds: seconds, reason: row[3]})
	}
	return outcomes, nil
}

// writeTable writes rows for people. An unexpected result is marked, an expected failure has its known reason.
func writeTable(out io.Writer, outcomes []outcome, e expectations) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for _, o := range outcomes {
		reason := o.reason
		switch {
		case !e.met(o) && o.result == pass:
			reason = "! expected to fail: " + e[o.test].reason
		case !e.met(o):
			reason = "! " + reason
		case o.result == fail || o.result == hung:
			reason = "expected: " + e[o.test].reason
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\n", o.test, o.result, o.seconds, shorten(reason))
	}
	return w.Flush()
}

func shorten(s string) string {
	if r := []rune(s); len(r) > widestText {
		return string(r[:widestText-3]) + "..."
	}
	return s
}

// summary is one line.
func summary(outcomes []outcome, e expectations, took time.Duration) string {
	count := map[result]int{}
	for _, o := range outcomes {
		count[o.result]++
	}
	return fmt.Sprintf("%d tests: %d pass, %d fail, %d notrun, %d hung; %d unexpected; %v",
		len(outcomes), count[pass], count[fail], count[notrun], count[hung], len(unexpected(outcomes, e)), took.Round(time.Second))
}

// The elements of JUnit's XML that CI systems read.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure,omitempty"`
		Error   *junitMessage `xml:"error,omitempty"`
		Skipped *junitMessage `xml:"skipped,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes the results as CI systems read them. A failure that is expected is skipped there, with the reason:
// they know no other way to show it without calling the run a failure.
func writeJUnit(out io.Writer, outcomes []outcome, e expectations, took time.Duration) error {
	s := junitSuite{Name: "xfstests", Tests: len(outcomes), Time: fmt.Sprintf("%.1f", took.Seconds())}
	for _, o := range outcomes {
		class, name, _ := strings.Cut(o.test, "/")
		c := junitCase{Class: "xfstests." + class, Name: name, Time: fmt.Sprintf("%.1f", o.seconds)}
		message := &junitMessage{Message: o.reason, Text: printable(o.detail)}
		switch {
		case e.met(o) && o.result == pass:
		case e.met(o) && o.result != notrun:
			message.Message = "expected: " + e[o.test].reason
			fallthrough
		case o.result == notrun:
			c.Skipped = message
			s.Skipped++
		case o.result == hung:
			c.Error = message
			s.Errors++
		default:
			if o.result == pass {
				message.Message = "expected to fail: " + e[o.test].reason
			}
			c.Failure = message
			s.Failures++
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(out)
	enc.Indent("", "  ")
	if err := enc.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\n")
	return err
}

// printable drops what XML can't hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func writeReports(dir string, outcomes []outcome, e expectations, took time.Duration) error {
	write := func(name string, content func(io.Writer) error) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return errors.Join(content(f), f.Close())
	}
	return errors.Join(
		write(tableName, func(w io.Writer) error {
			if err := writeTable(w, outcomes, e); err != nil {
				return err
			}
			_, err := fmt.Fprintln(w, summary(outcomes, e, took))
			return err
		}),
		write(junitName, func(w io.Writer) error { return writeJUnit(w, outcomes, e, took) }),
	)
}
