package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// bootLimit is generous: software emulation next to other loads takes many times the usual 3 s.
const bootLimit = 3 * time.Minute

// Share is one virtio-fs device.
type Share struct {
	Tag           string
	Socket        string // of the daemon, which must be listening
	RequestQueues int    // 0 means 1
	QueueSize     int    // power of two; 0 means 128
	// DAX takes the generic vhost-user device, which has a window but no tag: the daemon must supply that.
	DAX bool
}

// Config describes a guest.
type Config struct {
	Shares    []Share
	MemoryMiB int      // 0 means 1024
	CPUs      int      // 0 means 2
	Packed    bool     // packed virtqueues for the shares
	Dir       string   // keeps console.log and qemu.log; must exist
	QEMUArgs  []string // more arguments for QEMU
	NoReboot  bool     // a guest that restarts ends instead
}

// VM is a running guest. Its methods may be called from several goroutines, except for Reset and Stop.
type VM struct {
	dir     string // sockets and the initramfs
	proc    *process
	log     *bytes.Buffer // QEMU's standard error; complete once the process has ended
	console *console
	monitor *qmp.SocketMonitor
	resets  chan struct{} // holds one if the machine was reset

	mu    sync.Mutex
	agent *ssh.Client
}

// Start boots a guest and returns when its agent answers. The context bounds the start only.
func Start(ctx context.Context, a *Assets, c Config) (_ *VM, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	vm := &VM{log: &bytes.Buffer{}, resets: make(chan struct{}, 1)}
	// Socket paths are short by law, those of test directories are not.
	if vm.dir, err = os.MkdirTemp("", "virtiofsd-go-vm-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			vm.Kill()
		}
	}()
	if vm.console, err = newConsole(filepath.Join(c.Dir, "console.log")); err != nil {
		return nil, err
	}
	initramfs, err := buildInitramfs(vm.dir, a.Modules)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(a.QEMU, vm.arguments(a, c, initramfs)...)
	cmd.Stdout, cmd.Stderr = vm.console, vm.log
	if vm.proc, err = startProcess(cmd); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	// QEMU answers nobody while it waits for a daemon that does not answer it.
	monitor := make(chan error, 1)
	go func() { monitor <- vm.connectMonitor(ctx) }()
	select {
	case err := <-monitor:
		if err != nil {
			return nil, vm.explain(err)
		}
	case <-ctx.Done():
		vm.proc.signal(unix.SIGKILL)
		<-monitor
		return nil, fmt.Errorf("QEMU does not answer; a daemon may not answer it: %w", ctx.Err())
	}
	if err := vm.awaitBoot(ctx); err != nil {
		return nil, vm.explain(err)
	}
	return vm, nil
}

// awaitBoot waits for the agent, and gives a kernel that an emulator has felled another chance.
func (vm *VM) awaitBoot(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := vm.connectAgent(ctx)
		if err == nil || attempt == 3 || ctx.Err() != nil || !vm.console.lostPatch() {
			return err
		}
		if err := vm.resetMachine(ctx); err != nil {
			return err
		}
	}
}

func (vm *VM) socket(name string) string { return filepath.Join(vm.dir, name) }

// An emulated processor does without what costs it most: string instructions, which are emulated byte by byte, a fifth level of page tables, and what
// SMAP makes of each copy from or to a program. Its kernel does without what guards a real machine, and without filling memory that nobody has asked
// to be zero, so that what is stale shows.
const (
	emulatedCPU    = "max,-erms,-fsrm,-fsrs,-fzrm,-la57,-smap"
	emulatedKernel = "mitigations=off init_on_alloc=0 randomize_kstack_offset=off apparmor=0 audit=0"
)

// arguments is QEMU's command line.
func (vm *VM) arguments(a *Assets, c Config, initramfs string) []string {
	memory, cpus := orDefault(c.MemoryMiB, 1024), orDefault(c.CPUs, 2)
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,usb=off,vmport=off", "-smp", strconv.Itoa(cpus),
		// The back-end maps the guest's memory.
		"-m", fmt.Sprintf("%dM", memory), "-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", memory), "-numa", "node,memdev=mem",
		"-kernel", a.Kernel, "-initrd", initramfs,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:" + vm.socket("monitor") + ",server=on,wait=off",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + vm.socket("agent"), "-device", "virtserialport,chardev=agent,name=agent",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + a.Root, "-device", "virtio-blk-pci,drive=root",
	}
	// Watchdogs measure the load of the host where the CPUs are emulated, and so does the kernel's test of the timer interrupt. A hung task
	// they do not.
	kernel := "console=ttyS0 loglevel=5 panic=0 nosoftlockup nowatchdog rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable no_timer_check"
	if kvmWorks() {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		// The kernel measures its time stamp counter against the PIT, and where the emulator gets too little time it may be wrong by far: by
		// a factor of 13 it was, and without a PIT still by a fifth. The HPET's rate needs no measuring.
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", emulatedCPU, "-machine", "pit=off")
		kernel += " clocksource=hpet " + emulatedKernel
	}
	args = append(args, "-append", kernel)
	if c.NoReboot {
		args = append(args, "-no-reboot")
	}
	for i, s := range c.Shares {
		id := fmt.Sprintf("fs%d", i)
		queues, size := orDefault(s.RequestQueues, 1), orDefault(s.QueueSize, 128)
		device := fmt.Sprintf("vhost-user-fs-pci,chardev=%s,tag=%s,num-request-queues=%d,queue-size=%d", id, s.Tag, queues, size)
		if s.DAX {
			const idFS, configSize = 26, 40 // VIRTIO_ID_FS, sizeof(struct virtio_fs_config)
			device = fmt.Sprintf("vhost-user-test-device-pci,chardev=%s,virtio-id=%d,num_vqs=%d,vq_size=%d,config_size=%d", id, idFS, 1+queues, size, configSize)
		}
		if c.Packed {
			device += ",packed=on"
		}
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,path=%s", id, s.Socket), "-device", device)
	}
	return append(args, c.QEMUArgs...)
}

func orDefault(n, unset int) int {
	if n == 0 {
		return unset
	}
	return n
}

// kvmWorks goes by the CPU's flags too: the device node alone opens on machines that cannot run a kernel with it.
func kvmWorks() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	flags := strings.Fields(string(info))
	for _, f := range flags {
		if f == "vmx" || f == "svm" {
			return unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
		}
	}
	return false
}

// explain adds what is known to an error that may only be a consequence of it.
func (vm *VM) explain(err error) error {
	if vm.proc.wait(100 * time.Millisecond) {
		return fmt.Errorf("QEMU has ended (%s): %s\n%w", vm.proc.cmd.ProcessState, strings.TrimSpace(vm.log.String()), err)
	}
	return errors.Join(vm.Fault(), err)
}

// Fault returns the first sign of trouble that the guest's kernel printed, or nil.
func (vm *VM) Fault() error { return vm.console.err() }

// PID is QEMU's process, for looking at it under /proc.
func (vm *VM) PID() int { return vm.proc.cmd.Process.Pid }

// Done is closed when QEMU has ended, as it does when the guest powers off.
func (vm *VM) Done() <-chan struct{} { return vm.proc.done }

// Stop powers the guest off, with its file systems unmounted in order. It always ends QEMU; the error says that the
// guest could not do it by itself, or what its kernel complained about.
func (vm *VM) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	refused := make(chan error, 1)
	go func() {
		if err := vm.powerOff(); err != nil {
			refused <- err
		}
	}()
	var err error
	select {
	case <-vm.proc.done:
	case <-ctx.Done():
		err = errors.New("the guest did not power off")
	case <-vm.console.ended():
	case err = <-refused:
		// Broken by the end of the guest, or for a reason.
		if vm.proc.wait(lastWords) {
			err = nil
		}
	}
	if fault := vm.Fault(); fault != nil {
		err = fault
	} else if err != nil {
		err = vm.explain(err)
	}
	vm.Kill()
	return err
}

// Kill ends QEMU at once. It may be called more than once and after Stop.
func (vm *VM) Kill() {
	if vm.proc != nil {
		vm.proc.signal(unix.SIGKILL)
		<-vm.proc.done
	}
	if vm.monitor != nil {
		vm.monitor.Disconnect() // the other end is gone
	}
	vm.dropAgent()
	os.RemoveAll(vm.dir)
}
