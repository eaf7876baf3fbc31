package guest

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
)

// trouble is what a healthy guest never prints on its console: the kernel's own reports and the virtio-fs driver's
// complaints about replies. What it answers to a mount that can't be is no fault.
var (
	trouble  = regexp.MustCompile(`Oops|BUG: |WARNING: |general protection fault|blocked for more than|self-detected stall|virtio-fs: |virtiofs .*(bad|invalid|unexpected|failed)`)
	harmless = regexp.MustCompile(`virtio-fs: (tag <.*> not found|dax can't be enabled as filesystem device does not support it)`)
	// fatal is the end of it: no command will be answered.
	fatal = regexp.MustCompile(`Kernel panic|agent: `)
)

// console is the guest's serial console: it keeps all of it in a file and looks at every line.
type console struct {
	mu    sync.Mutex
	file  *os.File
	line  []byte // the unfinished last line
	fault string // the first line that is trouble
	dead  bool
	bad   chan struct{} // closed with the first fatal line
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
		isFatal := fatal.Match(line)
		if c.fault == "" && (isFatal || trouble.Match(line) && !harmless.Match(line)) {
			c.fault = string(bytes.TrimSpace(line))
		}
		if isFatal && !c.dead {
			c.dead = true
			close(c.bad)
		}
		c.line = rest
	}
	return c.file.Write(b)
}

// ended is closed when a fatal line has come.
func (c *console) ended() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

// forgive forgets what has been seen, for a machine that was reset.
func (c *console) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault, c.line = "", nil
	if c.dead {
		c.dead, c.bad = false, make(chan struct{})
	}
}

// lostPatch tells whether the kernel died of an emulator's fault: software emulation with a thread for each CPU
// sometimes lets one run into the breakpoint that another has just taken back while it patches kernel code, which
// kernels do a lot of while they boot.
func (c *console) lostPatch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.fault, "Oops: int3")
}

// err is the first trouble seen.
func (c *console) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == "" {
		return nil
	}
	return fmt.Errorf("the guest's kernel complained: %s", c.fault)
}
