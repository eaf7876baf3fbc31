package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/anmitsu/go-shlex"
	"github.com/virtiofsd-go/virtiofsd-go/integration/guest"
)

const tag = "share"

// settings are what the environment variables say.
type settings struct {
	share   string   // absolute
	command string   // empty for a shell
	daemon  []string // with {socket}, {dir} and {tag}
	options string   // of mount
	stays   bool     // the daemon does not end by itself
	verbose bool
	device  guest.Share
	vm      guest.Config
}

func readSettings() (*settings, error) {
	s := &settings{command: os.Getenv("CMD"), verbose: isSet("VERBOSE")}
	var err error
	number := func(name string, unset, lowest int) int {
		text := os.Getenv(name)
		if text == "" {
			return unset
		}
		n, e := strconv.Atoi(text)
		if e != nil || n < lowest {
			err = errors.Join(err, fmt.Errorf("%s is %q: give a number, at least %d", name, text, lowest))
		}
		return n
	}
	s.vm = guest.Config{MemoryMiB: number("MEM", 1024, 256), CPUs: number("SMP", 2, 1), Packed: isSet("PACKED"), NoReboot: true}
	s.device = guest.Share{Tag: tag, RequestQueues: number("QUEUES", s.vm.CPUs, 1), QueueSize: 1024, DAX: isSet("DAX")}
	if err != nil {
		return nil, err
	}
	if s.share, err = directory(os.Getenv("SHARE")); err != nil {
		return nil, err
	}
	if s.daemon, err = shlex.Split(os.Getenv("DAEMON"), true); err != nil {
		return nil, fmt.Errorf("DAEMON: %w", err)
	}
	if len(s.daemon) == 1 {
		s.daemon = append(s.daemon, "--socket-path", "{socket}", "--shared-dir", "{dir}", "--queues", strconv.Itoa(s.device.RequestQueues))
		if s.device.DAX {
			s.daemon = append(s.daemon, "--tag", "{tag}", "--dax-window", cmp.Or(os.Getenv("DAX_WINDOW"), "256M"))
		}
	}
	more, err := shlex.Split(os.Getenv("DAEMON_ARGS"), true)
	if err != nil {
		return nil, fmt.Errorf("DAEMON_ARGS: %w", err)
	}
	s.daemon = append(s.daemon, more...)
	s.stays = slices.Contains(s.daemon, "--reconnect")
	if s.device.DAX {
		s.options = "-o dax=always "
	}
	return s, nil
}

// isSet takes a variable for a switch: 1, yes and the like turn it on, 0 and nothing leave it off.
func isSet(name string) bool {
	value := os.Getenv(name)
	return value != "" && value != "0" && value != "no"
}

func directory(path string) (string, error) {
	if path == "" {
		return "", errors.New("no directory to serve: say which one with SHARE=dir")
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("SHARE: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("SHARE: %s is not a directory", path)
	}
	return filepath.Abs(path)
}
