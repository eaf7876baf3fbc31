package guest

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"sync"
)

// trouble is what a healthy guest never prints on its console: the kernel's own reports and the virtio-fs driver's
// complaints about replies. "tag ... not found" is the answer to a wrong mount, not a fault.
var trouble = regexp.MustCompile(`Kernel panic|Oops|BUG: |WARNING: |general protection fault|blocked for more than|self-detected stall|Call Trace:|virtio-fs: |virtiofs .*(bad|invalid|unexpected|failed)|agent: `)

var harmless = regexp.MustCompile(`virtio-fs: tag <.*> not found`)

// console is the guest's serial console: it keeps all of it in a file and looks at every line.
type console struct {
	mu    sync.Mutex
	file  *os.File
	line  []byte // the unfinished last line
	fault string // the first line that is trouble
	bad   chan struct{}
}

func newConsole(path string) (*console, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &console{file: f, bad: make(chan struct{})}, nil
}

// Write never fails on the contents: it is QEMU's standard output.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line = append(c.line, b...)
	for {
		line, rest, complete := bytes.Cut(c.line, []byte("\n"))
		if !complete {
			break
		}
		if c.fault == "" && trouble.Match(line) && !harmless.Match(line) {
			c.fault = string(bytes.TrimSpace(line))
			close(c.bad)
		}
		c.line = rest
	}
	return c.file.Write(b)
}

// err is the first trouble seen.
func (c *console) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == "" {
		return nil
	}
	return fmt.Errorf("the guest's kernel is in trouble: %s", c.fault)
}
