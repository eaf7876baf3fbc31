package fusebridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtiofsd-go/virtiofsd-go/integration/frontend"
)

const (
	childVariable = "FUSEBRIDGE_CHILD" // Options of the bridge, as JSON
	childFuseFD   = 3
	childReady    = "ready\n"
	childMounted  = "mounted\n" // before that /dev/fuse is EPERM
	childAborted  = 3           // the exit status if the kernel calls the connection aborted
)

// Child does the forwarding and exits, if this process was started by Mount; else it returns at once.
func Child() {
	config := os.Getenv(childVariable)
	if config == "" {
		return
	}
	if err := child(config); err != nil {
		fmt.Fprintln(os.Stderr, "fusebridge:", err)
		if errors.Is(err, unix.ECONNABORTED) {
			os.Exit(childAborted)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

func child(config string) error {
	var o Options
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		return err
	}
	unix.CloseOnExec(childFuseFD)
	fe, err := frontend.Open(o.Socket, machine(o))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, childReady); err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, len(childMounted))); err != nil {
		return fmt.Errorf("nothing was mounted: %w", err)
	}
	// Leaving closes /dev/fuse, by which the kernel aborts what is left.
	gone := make(chan error, 3)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		gone <- fmt.Errorf("the process that mounted has ended")
	}()
	go func() {
		fe.Hangup()
		for o.Restarts && again(fe) == nil {
			fe.Hangup()
		}
		gone <- fmt.Errorf("the daemon has closed the connection")
	}()
	go func() { gone <- forward(childFuseFD, fe) }()
	err = <-gone
	for _, s := range fe.Faults() {
		fmt.Fprintln(os.Stderr, "fusebridge: fault of the daemon:", s)
		if err == nil || errors.Is(err, unix.ECONNABORTED) {
			err = fmt.Errorf("the daemon committed %d faults", len(fe.Faults()))
		}
	}
	return err
}

// machine is the guest. A request stays with its queue once it has memory, so each queue may come to have as many as are
// ever in flight at once.
func machine(o Options) frontend.Options {
	const request = linuxData + 192<<10 // with room for the arguments of the request and of the reply
	ram := uint64(max(o.Queues-1, 1)) * (inFlight + 8) * request
	return frontend.Options{Queues: o.Queues, QueueSize: 1024, Packed: o.Packed, Inflight: o.Restarts, Regions: frontend.PCRegions(ram)}
}

// again waits for the next daemon.
func again(fe *frontend.Frontend) error {
	for deadline := time.Now().Add(answerIn); ; time.Sleep(5 * time.Millisecond) {
		if err := fe.Reconnect(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
