package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
)

const program = "virtiofsd-go"

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "dax-backing" {
		// A process that the daemon starts for the DAX window's pages.
		if err := dax.BackingMain(os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
			os.Exit(exitFailed)
		}
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	cmd, help := newCommand(args, stdout, stderr), program
	if args[0] == "ctl" {
		cmd, help = newCtlCommand(stdout), program+" ctl"
		args = args[1:]
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	switch {
	case err == nil, errors.Is(err, errStop):
		return exitOK
	case errors.As(err, new(usageError)):
		fmt.Fprintf(stderr, "%s: %v (see %s --help)\n", program, err, help)
		return exitUsage
	}
	fmt.Fprintf(stderr, "%s: %v\n", program, err)
	return exitFailed
}

func newCommand(args []string, stdout, stderr io.Writer) *cobra.Command {
	c := defaultConfig()
	cmd := &cobra.Command{
		Use:               program,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, rest []string) error {
			if len(rest) > 0 {
				return usagef("unexpected argument %q", rest[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			if c.printCapabilities {
				fmt.Fprint(stdout, capabilities)
				return nil
			}
			if err := c.applyCompat(); err != nil {
				return err
			}
			if err := c.check(); err != nil {
				return err
			}
			return serve(c, args, stderr)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	for _, o := range optionTable(c) {
		short := o.short
		if len(o.name) == 1 {
			short = o.name
		}
		f := flags.VarPF(o.value, o.name, short, o.help)
		f.NoOptDefVal = o.optional
		if o.arg == "" {
			f.NoOptDefVal = flagValue
		}
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		switch {
		case !errors.Is(err, errStop):
			return explainFlagError(err)
		case c.version:
			fmt.Fprintln(stdout, program, version())
		default:
			printHelp(stdout)
		}
		return errStop
	})
	cmd.SetHelpFunc(func(*cobra.Command, []string) { printHelp(stdout) })
	cmd.SetHelpCommand(&cobra.Command{Hidden: true})
	return cmd
}

// capabilities follows the schema of QEMU's vhost-user.json. separate-options
// says that options need no -o; the two modes that --posix-acl and
// --security-label take a value.
const capabilities = `{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}
`

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}
