package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/pflag"

	"github.com/virtiofsd-go/virtiofsd-go/dax"
	"github.com/virtiofsd-go/virtiofsd-go/fs"
)

// config is what the command line says.
type config struct {
	fs fs.Options

	socketPath        string
	deprecatedSocket  string
	socketFD          int // -1: none
	socketGroup       string
	controlSocket     string
	tag               string
	queues            int
	threadPoolSize    int
	busyPoll          int // microseconds
	reconnect         bool
	daxWindow         size
	daxBacking        dax.Backing
	daxMinSize        size
	daxByFlag         bool
	daxMemory         size
	daxMaxRegions     int
	rlimitNofile      int64 // -1: as high as it goes, 0: unchanged
	logLevel          logLevel
	syslog            bool
	sandbox           choice
	seccomp           choice
	compat            []string // the values of -o
	debug             bool     // -d
	foreground        bool     // -f
	printCapabilities bool
	version           bool
	help              bool
}

// choice is a string that was checked against a list.
type choice string

func defaultConfig() *config {
	return &config{
		fs: fs.Options{
			ReaddirPlus:       true,
			AnnounceSubmounts: true,
			InodeFileHandles:  fs.FileHandlesPrefer,
			KillprivV2:        fs.IfOffered,
		},
		socketFD:       -1,
		daxMaxRegions:  dax.DefaultMaxRegions,
		threadPoolSize: defaultThreadPoolSize,
		busyPoll:       defaultBusyPoll(),
		rlimitNofile:   -1,
		logLevel:       levelInfo,
		sandbox:        "none",
		seccomp:        "none",
	}
}

const (
	defaultThreadPoolSize = 16
	maxThreadPoolSize     = 1024
	// busyPollUsecs is about what it costs to go to sleep and to wake up.
	busyPollUsecs    = 20
	maxBusyPollUsecs = 1000
	// maxRequestQueues is the number of request queues the device can have
	// beside hiprio.
	maxRequestQueues = 64
	// maxTagLen is the size of the tag in virtio_fs_config.
	maxTagLen = 36
)

// defaultBusyPoll is in microseconds. On one processor the driver can't run while a
// thread looks for what it does.
func defaultBusyPoll() int {
	if runtime.NumCPU() == 1 {
		return 0
	}
	return busyPollUsecs
}

// option is one row of the table of options.
type option struct {
	name  string // without the dashes; one letter for -o, -d, -f
	short string // a second, one-letter name
	arg   string // how --help calls the value; "" for a flag
	// optional says that the value may be left out, and what it is then.
	// Such a value can only be given with an equals sign.
	optional string
	def      string // the default as --help shows it
	help     string
	value    pflag.Value
}

// optionTable returns every option, each storing into c.
func optionTable(c *config) []option {
	o := &c.fs
	return []option{
		{name: "shared-dir", arg: "DIR", value: text(&o.SharedDir),
			help: "The directory that the guest gets. Required."},
		{name: "socket-path", arg: "PATH", value: text(&c.socketPath),
			help: "Listen on this Unix socket. It is created with mode 0700 (0770 with --socket-group), an old one is replaced; PATH.pid is locked and holds the process id."},
		{name: "socket", arg: "PATH", value: text(&c.deprecatedSocket),
			help: "Deprecated name of --socket-path."},
		{name: "fd", arg: "N", value: number(&c.socketFD, 0, 1<<30),
			help: "Accept connections from this inherited listening socket instead of --socket-path."},
		{name: "socket-group", arg: "GROUP", value: text(&c.socketGroup),
			help: "Let the members of this group connect to the socket."},
		{name: "control-socket", arg: "PATH", value: text(&c.controlSocket),
			help: "Answer virtiofsd-go ctl on this Unix socket, which is created with mode 0600; an old one is replaced."},
		{name: "tag", arg: "TAG", value: tagValue{&c.tag},
			help: fmt.Sprintf("Offer the device's configuration space with this tag, 1 to %d bytes, for front-ends that read it from the daemon. QEMU's vhost-user-fs-pci has a tag of its own.", maxTagLen)},
		{name: "queues", arg: "N", def: fmt.Sprintf("%d; with --tag 1", maxRequestQueues), value: number(&c.queues, 1, maxRequestQueues),
			help: fmt.Sprintf("Request queues on offer, 1 to %d. The front-end uses as many of them as it is told to (num-request-queues with QEMU); with --tag the guest does, so there have to be just as many.", maxRequestQueues)},
		{name: "reconnect", value: yes(&c.reconnect),
			help: "Go on and wait for the next connection when the front-end goes away, instead of ending."},

		{name: "cache", arg: "auto|always|never|metadata", def: "auto", value: oneOfAnyCase(&o.Cache,
			pair("auto", fs.CacheAuto), pair("always", fs.CacheAlways), pair("never", fs.CacheNever), pair("metadata", fs.CacheMetadata)),
			help: "How long the guest may trust what it knows: a second for names and attributes (auto), a day (always), not at all (never), or a day for names and attributes and not at all for data (metadata)."},
		{name: "writeback", value: yes(&o.Writeback),
			help: "Let the guest cache writes. Only for a directory that nobody else writes to."},
		{name: "allow-direct-io", value: yes(&o.AllowDirectIO),
			help: "Open files with O_DIRECT on the host where the guest does."},
		{name: "no-allow-direct-io", value: no(&o.AllowDirectIO),
			help: "Drop O_DIRECT, so that the host caches the file. This is the default."},
		{name: "allow-mmap", value: yes(&o.AllowMmap),
			help: "With --cache=never or metadata: allow shared mappings of files in the guest. Only for a directory that nobody else writes to."},
		{name: "no-readdirplus", value: no(&o.ReaddirPlus),
			help: "List directories without looking up every entry. --cache=never implies it."},
		{name: "readonly", value: yes(&o.ReadOnly),
			help: "Refuse every change that the guest wants to make. Reading sets access times all the same, unless the host has the directory mounted so that it does not."},

		{name: "xattr", value: yes(&o.Xattr),
			help: "Serve extended attributes."},
		{name: "posix-acl", arg: "never|auto|always", optional: "always", def: "never", value: negotiation(&o.PosixACL),
			help: "POSIX access control lists; implies --xattr. auto uses them if the guest can, always refuses a guest that can't. Without a value: always."},
		{name: "security-label", arg: "never|auto|always", optional: "always", def: "never", value: negotiation(&o.SecurityLabel),
			help: "Store the security label (SELinux) that the guest gives a new file; implies --xattr. auto and always as for --posix-acl. Without a value: always."},
		{name: "killpriv-v2", value: autoFlag{&o.KillprivV2, fs.On},
			help: "Clear set-id bits on write, truncate and chown in place of the guest, and warn of a guest that can't leave it to us. By default it is done for guests that can. With a DAX window any user of the guest can have a file lose them while somebody has it open for writing."},
		{name: "no-killpriv-v2", value: autoFlag{&o.KillprivV2, fs.Off},
			help: "Leave clearing set-id bits to the guest. With a DAX window and --xattr it then sends a request before every write to a file there."},
		{name: "preserve-noatime", value: yes(&o.PreserveNoatime),
			help: "Refuse to open a file with O_NOATIME where the host does not let the daemon have it, which for a user who is not root are the files of others. By default it is left out then."},
		{name: "posix-lock", value: yes(&o.PosixLock),
			help: "Pass the fcntl locks of the guest on to the host, so that they hold against other guests and the host too."},
		{name: "flock", value: yes(&o.Flock),
			help: "Pass the flock locks of the guest on to the host."},
		{name: "announce-submounts", value: yes(&o.AnnounceSubmounts),
			help: "Show mounts below the shared directory as mounts in the guest. This is the default."},
		{name: "no-announce-submounts", value: no(&o.AnnounceSubmounts),
			help: "Show mounts below the shared directory as ordinary directories."},
		{name: "inode-file-handles", arg: "never|prefer|mandatory", def: "prefer", value: oneOf(&o.InodeFileHandles,
			pair("never", fs.FileHandlesNever), pair("prefer", fs.FileHandlesPrefer), pair("fallback", fs.FileHandlesPrefer), pair("mandatory", fs.FileHandlesMandatory)),
			help: "Remember inodes by file handle, which keeps no descriptor open, where the file system has them (prefer), nowhere (never), or refuse other file systems (mandatory). Needs CAP_DAC_READ_SEARCH."},

		{name: "dax-window", arg: "SIZE", def: "0", value: sizeValue{&c.daxWindow},
			help: "Offer the guest a DAX window of this many bytes (a power of two, at least 2M; K, M and G are understood), through which it maps files without a copy of its own. It needs QEMU 11.1 or later and its vhost-user-test-device-pci, and --tag."},
		{name: "dax-backing", arg: "auto|passthrough|managed|direct", def: "auto", value: oneOf(&c.daxBacking,
			pair("auto", dax.Managed), pair("managed", dax.Managed), pair("passthrough", dax.Passthrough), pair("direct", dax.Direct)),
			help: "What the window shows: pages that the daemon fills and can take back at any time (managed, and auto), the file's page cache on the host (passthrough, needs Linux 6.9), or the file itself, of which only ranges of 2M that lie wholly inside it can be mapped (direct)."},
		{name: "dax-min-size", arg: "SIZE", def: "0", value: sizeValue{&c.daxMinSize},
			help: "Let a guest that leaves the choice to the daemon (no dax mount option, or dax=inode) use the window for files of at least this size."},
		{name: "dax-files", arg: "size|flag", def: "size", value: oneOf(&c.daxByFlag, pair("size", false), pair("flag", true)),
			help: "Which files such a guest uses the window for: all that --dax-min-size lets through (size), or of these only the ones with FS_XFLAG_DAX on the host (flag; chattr +x of xfs_io sets it, in the guest too), which a new file inherits from its directory. Asking for the flag costs a system call each time the guest asks for a file's attributes."},
		{name: "dax-memory", arg: "SIZE", def: "0, no limit", value: sizeValue{&c.daxMemory},
			help: "Take pages back from the window when more than this many bytes of it are resident. Only with --dax-backing=managed."},
		{name: "dax-max-regions", arg: "N", def: fmt.Sprint(dax.DefaultMaxRegions), value: number(&c.daxMaxRegions, 32, 1<<20),
			help: "Memory regions that the front-end bears for the whole virtual machine. QEMU ends itself above 512."},

		{name: "thread-pool-size", arg: "N", def: fmt.Sprint(defaultThreadPoolSize), value: number(&c.threadPoolSize, 0, maxThreadPoolSize),
			help: "Threads for requests that may wait (a disk, fsync), shared by all queues and started when needed, beside the one such request that the thread of a queue may serve itself. Up to four more threads, fewer than there are processors, copy large answers. 0: each queue serves one request after the other."},
		{name: "busy-poll", arg: "USECS", def: fmt.Sprintf("%d; 0 on one processor", busyPollUsecs), value: number(&c.busyPoll, 0, maxBusyPollUsecs),
			help: "How many microseconds the thread of a queue looks for the next request, as long as one comes that soon, before it sleeps; after several requests as long for each of up to four. More of it costs processor time and makes single requests faster. 0: it sleeps at once."},
		{name: "rlimit-nofile", arg: "N", def: "min(1000000, /proc/sys/fs/nr_open)", value: number(&c.rlimitNofile, 0, 1<<40),
			help: "Raise the limit of open files to N; 0 leaves it as it is."},
		{name: "sandbox", arg: "none", def: "none", value: oneOfAnyCase(&c.sandbox, pair[choice]("none", "none")),
			help: "Isolation of the daemon. Only none is there: run it in a mount namespace or container of your own if the guest is not trusted."},
		{name: "seccomp", arg: "none", def: "none", value: oneOf(&c.seccomp, pair[choice]("none", "none")),
			help: "System call filter. Only none is there."},

		{name: "log-level", arg: "off|error|warn|info|debug|trace", def: "info", value: oneOfAnyCase(&c.logLevel,
			pair("off", levelOff), pair("error", levelError), pair("warn", levelWarn), pair("info", levelInfo), pair("debug", levelDebug), pair("trace", levelTrace)),
			help: "How much to log."},
		{name: "syslog", value: yes(&c.syslog),
			help: "Log to syslog instead of standard error."},
		{name: "print-capabilities", value: yes(&c.printCapabilities),
			help: "Print what the daemon can do, as JSON for management software, and exit."},

		{name: "o", arg: "OPTION[,OPTION...]", value: (*textList)(&c.compat),
			help: "Options in the format of the old C virtiofsd. Deprecated."},
		{name: "d", value: yes(&c.debug), help: "Deprecated; use --log-level=debug."},
		{name: "f", value: yes(&c.foreground), help: "Deprecated; has no effect."},
		{name: "version", short: "V", value: stop(&c.version), help: "Print the version and exit."},
		{name: "help", short: "h", value: stop(&c.help), help: "Print this text and exit."},
	}
}

// elsewhere lists options of rust virtiofsd 1.14 that this daemon does not
// have, with what to do instead.
var elsewhere = map[string]string{
	"xattrmap":                 "extended attributes reach the host under their own names; leave it out",
	"modcaps":                  "capabilities are not dropped; start the daemon with the set it shall have",
	"uid-map":                  "there is no user namespace to map into; start the daemon as root, or in a user namespace of your own (unshare --map-users)",
	"gid-map":                  "there is no user namespace to map into; start the daemon as root, or in a user namespace of your own (unshare --map-groups)",
	"translate-uid":            "user ids are not translated; use an idmapped mount of the shared directory",
	"translate-gid":            "group ids are not translated; use an idmapped mount of the shared directory",
	"migration-mode":           "the state of a guest can't be migrated; leave it out",
	"migration-on-error":       "the state of a guest can't be migrated; leave it out",
	"migration-verify-handles": "the state of a guest can't be migrated; leave it out",
	"migration-confirm-paths":  "the state of a guest can't be migrated; leave it out",
}

// explain adds to the complaint about a value of an option, where there is more
// to say than that it is wrong.
func explain(name, value string) string {
	switch {
	case name == "sandbox" && (strings.EqualFold(value, "namespace") || strings.EqualFold(value, "chroot")):
		return "the daemon can't isolate itself yet; use --sandbox=none, in a mount namespace or container of your own if the guest is not trusted"
	case name == "seccomp" && (value == "kill" || value == "log" || value == "trap"):
		return "the daemon has no system call filter yet; use --seccomp=none"
	}
	return ""
}

// check finds what is wrong with the options as a whole.
func (c *config) check() error {
	if c.socketPath == "" {
		c.socketPath = c.deprecatedSocket
	}
	switch {
	case c.fs.SharedDir == "":
		return usageError("--shared-dir is missing; it names the directory that the guest gets")
	case c.socketPath == "" && c.socketFD < 0:
		return usageError("--socket-path is missing; it names the socket to listen on (or --fd an inherited one)")
	case c.socketPath != "" && c.socketFD >= 0:
		return usageError("--fd and --socket-path exclude each other; give one of them")
	case c.controlSocket != "" && c.controlSocket == c.socketPath:
		return usageError("--control-socket and --socket-path are the same; give each a path of its own")
	case c.socketGroup != "" && c.socketFD >= 0:
		return usageError("--socket-group has no effect on an inherited socket; leave it out with --fd")
	}
	if c.queues == 0 {
		// The guest reads the number where the daemon owns the configuration
		// space; otherwise the front-end does not use more than it was told to.
		c.queues = maxRequestQueues
		if c.tag != "" {
			c.queues = 1
		}
	}
	switch {
	case c.daxWindow%dax.RangeSize != 0 || c.daxWindow&(c.daxWindow-1) != 0:
		return usageError("--dax-window must be a power of two, and at least 2M: QEMU ends itself at the start with any other")
	case c.daxWindow != 0 && c.tag == "":
		return usageError("--dax-window needs --tag: the QEMU device that has a window reads its configuration from the daemon")
	case c.daxWindow != 0 && c.fs.ReadOnly && c.daxBacking != dax.Managed:
		return usageError("--readonly needs --dax-backing=managed: QEMU makes every mapping writable, so with passthrough or direct a guest could change the files")
	case c.daxWindow == 0 && (c.daxMemory != 0 || c.daxMinSize != 0 || c.daxByFlag):
		return usageError("--dax-memory, --dax-min-size and --dax-files=flag have no effect without --dax-window")
	}
	if c.fs.Cache == fs.CacheNever {
		c.fs.ReaddirPlus = false
	}
	if c.fs.PosixACL != fs.Off || c.fs.SecurityLabel != fs.Off {
		c.fs.Xattr = true
	}
	if c.debug {
		c.logLevel = levelDebug
	}
	return nil
}

// deprecated returns a warning for each deprecated option in use.
func (c *config) deprecated(args []string) []string {
	var w []string
	if c.deprecatedSocket != "" {
		w = append(w, "--socket is deprecated; use --socket-path")
	}
	if len(c.compat) > 0 {
		w = append(w, "-o is deprecated; give the options by themselves, as --cache=auto for -o cache=auto")
	}
	if c.debug {
		w = append(w, "-d is deprecated; use --log-level=debug")
	}
	if c.foreground {
		w = append(w, "-f is deprecated and has no effect; leave it out")
	}
	for i, a := range args {
		if a == "--inode-file-handles=fallback" || a == "fallback" && i > 0 && args[i-1] == "--inode-file-handles" {
			w = append(w, "--inode-file-handles=fallback is deprecated; use prefer")
		}
	}
	return w
}

// usageError is a fault of the command line: exit status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, a ...any) error {
	return usageError(strings.TrimSpace(fmt.Sprintf(format, a...)))
}
