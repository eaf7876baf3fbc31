package main

import (
	"strings"

	"github.com/virtiofsd-go/virtiofsd-go/fs"
)

// applyCompat applies the options of every -o, in the format of the old C
// virtiofsd, over those given by name.
func (c *config) applyCompat() error {
	for _, line := range c.compat {
		for opt := range strings.SplitSeq(line, ",") {
			if err := c.applyCompatOption(opt); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *config) applyCompatOption(opt string) error {
	if key, val, found := strings.Cut(opt, "="); found {
		return c.applyCompatPair(key, val)
	}
	o := &c.fs
	switch opt {
	case "xattr", "no_xattr":
		o.Xattr = opt == "xattr"
	case "readdirplus", "no_readdirplus":
		o.ReaddirPlus = opt == "readdirplus"
	case "writeback", "no_writeback":
		o.Writeback = opt == "writeback"
	case "allow_direct_io", "no_allow_direct_io":
		o.AllowDirectIO = opt == "allow_direct_io"
	case "announce_submounts":
		o.AnnounceSubmounts = true
	case "killpriv_v2":
		o.KillprivV2 = fs.On
	case "no_killpriv_v2":
		o.KillprivV2 = fs.Off
	case "posix_acl":
		o.PosixACL = fs.On
	case "no_posix_acl":
		o.PosixACL = fs.Off
	case "security_label":
		o.SecurityLabel = fs.On
	case "no_security_label":
		o.SecurityLabel = fs.Off
	case "posix_lock", "no_posix_lock":
		o.PosixLock = opt == "posix_lock"
	case "flock", "no_flock":
		o.Flock = opt == "flock"
	default:
		return usagef("-o %s: there is no such option", opt)
	}
	return nil
}

func (c *config) applyCompatPair(key, val string) error {
	var option string
	switch key {
	case "source":
		option = "shared-dir"
	case "cache":
		option = "cache"
		switch val {
		case "none":
			val = "never"
		case "never":
			return usagef("-o cache=never: the old name is cache=none")
		}
	case "loglevel":
		option = "log-level"
		if val == "err" {
			val = "error"
		} else if val == "error" || val == "off" || val == "trace" {
			return usagef("-o loglevel=%s: %q is not one of err, warn, info, debug", val, val)
		}
	case "sandbox":
		option = "sandbox"
	case "xattrmap", "modcaps":
		return usagef("-o %s is not supported: %s", key, elsewhere[key])
	default:
		return usagef("-o %s=%s: there is no such option", key, val)
	}
	for _, row := range optionTable(c) {
		if row.name != option {
			continue
		}
		if err := row.value.Set(val); err != nil {
			if why := explain(option, val); why != "" {
				return usagef("-o %s=%s: %s", key, val, why)
			}
			return usagef("-o %s=%s: %v", key, val, err)
		}
	}
	return nil
}
