package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

const helpHead = `Serve a host directory to a virtual machine as a virtio-fs device (vhost-user).

Usage: virtiofsd-go --shared-dir DIR --socket-path PATH [OPTION...]
       virtiofsd-go ctl --socket PATH COMMAND   (see virtiofsd-go ctl --help)

Options:
`

const helpTail = `
When the front-end goes away the daemon ends with status 0, unless --reconnect is
given. SIGTERM, SIGINT and SIGHUP end it in order.
`

// helpWidth is where the text of --help is wrapped.
const helpWidth = 80

// printHelp writes --help from the table of options.
func printHelp(w io.Writer) {
	io.WriteString(w, helpHead)
	for _, o := range optionTable(defaultConfig()) {
		fmt.Fprintln(w, optionHead(o))
		text := o.help
		if o.def != "" {
			text += " Default: " + o.def + "."
		}
		wrap(w, text, "          ", helpWidth)
	}
	io.WriteString(w, helpTail)
}

func optionHead(o option) string {
	if len(o.name) == 1 {
		return strings.TrimRight("  -"+o.name+" "+o.arg, " ")
	}
	head := "      --" + o.name
	if o.short != "" {
		head = "  -" + o.short + ", --" + o.name
	}
	switch {
	case o.optional != "":
		head += "[=" + o.arg + "]"
	case o.arg != "":
		head += "=" + o.arg
	}
	return head
}

func wrap(w io.Writer, text, indent string, width int) {
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line) > len(indent) {
			if len(line)+1+len(word) > width {
				fmt.Fprintln(w, line)
				line = indent
			} else {
				line += " "
			}
		}
		line += word
	}
	fmt.Fprintln(w, line)
}

// explainFlagError makes one sentence of what pflag complains about.
func explainFlagError(err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		value   *pflag.InvalidValueError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if why, ok := elsewhere[name]; ok {
			return usagef("--%s is not supported: %s", name, why)
		}
		return usagef("there is no option %s", dashed(name))
	case errors.As(err, &missing):
		return usagef("%s needs a value", dashed(missing.GetSpecifiedName()))
	case errors.As(err, &value):
		name := value.GetFlag().Name
		if why := explain(name, value.GetValue()); why != "" {
			return usagef("%s=%s: %s", dashed(name), value.GetValue(), why)
		}
		return usagef("%s: %v", dashed(name), errors.Unwrap(value))
	case errors.As(err, &syntax):
		return usagef("%q is not an option", syntax.GetSpecifiedFlag())
	}
	return usageError(err.Error())
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
