package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/virtiofsd-go/virtiofsd-go/control"
)

const ctlHelp = `Ask a running daemon, or give it an order, through its control socket.

Usage: virtiofsd-go ctl --socket PATH COMMAND [--json]

Commands:
  stats              Print what front-ends and guests have asked, and what of it
                     was broken.
  dax stats          Print the counters of the DAX window.
  dax reclaim SIZE   Take back this much memory of the DAX window now (K, M and G
                     are understood), or "all" of it. Prints what was taken.

Options:
      --socket=PATH  The daemon's --control-socket. Required.
      --json         Print the daemon's answer as JSON.
  -h, --help         Print this text and exit.
`

// ctl is the command line of a client of the control socket.
type ctl struct {
	socket string
	json   bool
	out    io.Writer
}

// newCtlCommand returns the command "ctl".
func newCtlCommand(out io.Writer) *cobra.Command {
	c := &ctl{out: out}
	cmd := &cobra.Command{
		Use: program + " ctl", SilenceErrors: true, SilenceUsage: true, DisableSuggestions: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              missingCommand, RunE: neverRun,
	}
	flags := cmd.PersistentFlags()
	flags.VarPF(text(&c.socket), "socket", "", "")
	flags.VarPF(yes(&c.json), "json", "", "").NoOptDefVal = flagValue
	group := &cobra.Command{Use: "dax", Args: missingCommand, RunE: neverRun}
	group.AddCommand(
		&cobra.Command{Use: "stats", Args: noArguments, RunE: func(*cobra.Command, []string) error { return c.stats(commandDAXStats) }},
		&cobra.Command{Use: "reclaim", Args: oneSize, RunE: func(_ *cobra.Command, args []string) error { return c.reclaim(args[0]) }},
	)
	cmd.AddCommand(group, &cobra.Command{Use: "stats", Args: noArguments, RunE: func(*cobra.Command, []string) error { return c.stats(commandStats) }})
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return explainFlagError(err) })
	cmd.SetHelpFunc(func(*cobra.Command, []string) { io.WriteString(out, ctlHelp) })
	cmd.SetHelpCommand(&cobra.Command{Hidden: true})
	return cmd
}

func missingCommand(_ *cobra.Command, rest []string) error {
	if len(rest) > 0 {
		return usagef("there is no command %q; there are stats, dax stats and dax reclaim", rest[0])
	}
	return usageError("the command is missing; there are stats, dax stats and dax reclaim")
}

func neverRun(*cobra.Command, []string) error { return nil }

func noArguments(_ *cobra.Command, rest []string) error {
	if len(rest) > 0 {
		return usagef("unexpected argument %q", rest[0])
	}
	return nil
}

func oneSize(_ *cobra.Command, rest []string) error {
	if len(rest) == 0 {
		return usageError("how much to take back is missing: a size, as 64M, or all")
	}
	return noArguments(nil, rest[1:])
}

// call runs one command.
func (c *ctl) call(command string, args, result any) error {
	if c.socket == "" {
		return usageError("--socket is missing; it names the daemon's --control-socket")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := control.Dial(ctx, c.socket)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, command, args, result)
}

func (c *ctl) stats(command string) error {
	var raw json.RawMessage
	if err := c.call(command, nil, &raw); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(raw)
	}
	return printFields(c.out, raw)
}

func (c *ctl) reclaim(arg string) error {
	var a daxReclaim
	if arg == "all" {
		a.All = true
	} else if err := (sizeValue{(*size)(&a.Bytes)}).Set(arg); err != nil {
		return usagef("%v, or all", err)
	} else if a.Bytes == 0 {
		return usageError("0 bytes are nothing to take back; give a size above 0, or all")
	}
	var raw json.RawMessage
	if err := c.call(commandDAXReclaim, a, &raw); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(raw)
	}
	var r daxReclaimed
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "took back %s in %v; %s left\n", bytesText(r.Bytes), time.Duration(r.Nanos).Round(time.Microsecond), bytesText(r.Resident))
	return err
}

func (c *ctl) printJSON(raw json.RawMessage) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.out, b.String())
	return err
}

func bytesText(n uint64) string {
	return fmt.Sprintf("%d bytes (%.1f MiB)", n, float64(n)/(1<<20))
}

// printFields prints a flat JSON object, one field on a line in the order of the
// daemon's, which may be of another version.
func printFields(w io.Writer, raw json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.New("the daemon's answer is not what was asked for")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return err
		}
		fmt.Fprintf(tw, "%v\t%v\n", name, value)
	}
	return tw.Flush()
}
