package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// servePath is where the agent keeps itself once the initramfs is gone.
const servePath = "/run/agent"

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "init":
		if err := boot(); err != nil {
			// The console is all there is. Exiting makes the kernel panic, which the host reports with this line.
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		reap()
	case "poweroff", "halt", "shutdown", "reboot":
		if err := stop(name == "reboot"); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "agent:", serve())
		os.Exit(1)
	}
}
