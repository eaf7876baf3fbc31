package main

import (
	"bytes"
	"regexp"
	"strings"
)

// result is how a test ended.
type result string

const (
	pass   result = "pass"
	fail   result = "fail"
	notrun result = "notrun"
	hung   result = "hung"
)

// event is something that check has said about a test: that it begins, or how it ended.
type event struct {
	test   string
	result result // empty when the test begins
	reason string // one line
	detail string // what check printed
}

// checkOutput reads what check prints, while it prints it. Of a test it prints the name, when the test begins, without
// a newline; then the rest of that line and, for some, more lines.
type checkOutput struct {
	emit func(event)

	line  []byte // not complete yet
	test  string // the running one, or one of which more lines may come
	first string // the rest of its first line
	more  []string
}

var (
	beginning = regexp.MustCompile(`^([a-z0-9-]+/[0-9]{3,}[a-z0-9-]*) `)
	// took is all that follows the name of a test that passed, the time of its last run before that of this one.
	took = regexp.MustCompile(`^\s*([0-9]+s \.\.\.)?\s*[0-9]+s$`)
	last = regexp.MustCompile(`^\s*([0-9]+s \.\.\.)?\s*`)
	// trailer begins what check prints after the last test.
	trailer = regexp.MustCompile(`^(Ran: |Interrupted!$)`)
)

// Write never fails.
func (c *checkOutput) Write(b []byte) (int, error) {
	for chunk := range bytes.Lines(b) {
		fresh := len(c.line) == 0 || !c.started()
		c.line = append(c.line, chunk...)
		if fresh && c.started() {
			c.end()
			c.test = string(beginning.FindSubmatch(c.line)[1])
			c.emit(event{test: c.test})
		}
		if bytes.HasSuffix(c.line, []byte("\n")) {
			c.complete(strings.TrimRight(string(c.line), "\n"))
			c.line = nil
		}
	}
	return len(b), nil
}

// started tells whether the incomplete line is that of a test.
func (c *checkOutput) started() bool { return beginning.Match(c.line) }

func (c *checkOutput) complete(line string) {
	switch {
	case beginning.MatchString(line):
		c.first = strings.TrimPrefix(line, c.test)
		// Nothing more comes of a test that passed.
		if took.MatchString(c.first) {
			c.end()
		}
	case trailer.MatchString(line):
		c.end()
	case c.test != "" && strings.TrimSpace(line) != "":
		c.more = append(c.more, line)
	}
}

// end says how the current test ended, if there is one.
func (c *checkOutput) end() {
	if c.test == "" {
		return
	}
	first := last.ReplaceAllString(c.first, "")
	e := event{test: c.test, detail: strings.Join(append([]string{first}, c.more...), "\n")}
	switch reason, skipped := strings.CutPrefix(first, "[not run] "); {
	case took.MatchString(c.first):
		e.result, e.detail = pass, ""
	case skipped:
		e.result, e.reason = notrun, strings.TrimSpace(reason)
	default:
		e.result, e.reason = fail, failure(first, c.more)
	}
	c.test, c.first, c.more = "", "", nil
	c.emit(e)
}

// failure makes one line of what check says about a failure: which line of output was not expected tells most.
func failure(first string, more []string) string {
	reason, _, _ := strings.Cut(first, " (see ")
	reason = strings.TrimSpace(strings.TrimPrefix(reason, "- "))
	for _, line := range more {
		if text, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "+"); ok && !strings.HasPrefix(text, "++ ") {
			return reason + ": " + strings.TrimSpace(text)
		}
	}
	for _, line := range more {
		if text, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "-"); ok && !strings.HasPrefix(text, "-- ") && strings.HasPrefix(line, "    ") {
			return reason + ": missing: " + strings.TrimSpace(text)
		}
	}
	return reason
}
