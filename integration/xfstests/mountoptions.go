package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountFlag is what an option of mount(8) adds to the flags of mount(2) and takes from them.
type mountFlag struct{ set, clear uintptr }

var mountFlags = map[string]mountFlag{
	"defaults":    {},
	"remount":     {set: unix.MS_REMOUNT},
	"ro":          {set: unix.MS_RDONLY},
	"rw":          {clear: unix.MS_RDONLY},
	"nosuid":      {set: unix.MS_NOSUID},
	"suid":        {clear: unix.MS_NOSUID},
	"nodev":       {set: unix.MS_NODEV},
	"dev":         {clear: unix.MS_NODEV},
	"noexec":      {set: unix.MS_NOEXEC},
	"exec":        {clear: unix.MS_NOEXEC},
	"sync":        {set: unix.MS_SYNCHRONOUS},
	"async":       {clear: unix.MS_SYNCHRONOUS},
	"dirsync":     {set: unix.MS_DIRSYNC},
	"noatime":     {set: unix.MS_NOATIME},
	"atime":       {clear: unix.MS_NOATIME},
	"nodiratime":  {set: unix.MS_NODIRATIME},
	"diratime":    {clear: unix.MS_NODIRATIME},
	"relatime":    {set: unix.MS_RELATIME},
	"norelatime":  {clear: unix.MS_RELATIME},
	"strictatime": {set: unix.MS_STRICTATIME},
	"lazytime":    {set: unix.MS_LAZYTIME},
	"nolazytime":  {clear: unix.MS_LAZYTIME},
}

// mountedOptions are what the table of mounts says of a FUSE file system; mount(8) repeats it when it remounts.
var mountedOptions = []string{"user_id", "group_id", "default_permissions", "allow_other", "max_read", "blksize"}

// parseMountOptions refuses what is no flag: virtio-fs has such options only with DAX.
func parseMountOptions(options string) (flags uintptr, err error) {
	for option := range strings.SplitSeq(options, ",") {
		name, _, _ := strings.Cut(option, "=")
		if option == "" || slices.Contains(mountedOptions, name) {
			continue
		}
		f, ok := mountFlags[option]
		if !ok {
			return 0, fmt.Errorf("mount option %q: %w", option, unix.EINVAL)
		}
		flags = flags&^f.clear | f.set
	}
	return flags, nil
}

// parseHelperArguments reads a mount helper's command line: a device, a directory, and -sfnv, -N and -t, which change nothing
// here, and -o with the options.
func parseHelperArguments(arguments []string) (r mountRequest, err error) {
	var names []string
	for i := 0; i < len(arguments); i++ {
		switch a := arguments[i]; {
		case a == "-o" || a == "-t" || a == "-N":
			if i++; i == len(arguments) {
				return r, fmt.Errorf("%s needs a value", a)
			}
			if a == "-o" {
				r.Options = arguments[i]
			}
		case strings.HasPrefix(a, "-"):
		default:
			names = append(names, a)
		}
	}
	if len(names) != 2 {
		return r, errors.New("a device and a directory are needed")
	}
	r.Source, r.Dir = names[0], names[1]
	return r, nil
}
