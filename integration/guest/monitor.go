package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// connectMonitor connects to QEMU's monitor as soon as there is one, and takes its events from then on: the monitor
// answers no command while an event waits.
func (vm *VM) connectMonitor(ctx context.Context) error {
	for {
		monitor, err := qmp.NewSocketMonitor("unix", vm.socket("monitor"), time.Second)
		if err == nil {
			if err = monitor.Connect(); err == nil {
				vm.monitor = monitor
				return vm.takeEvents()
			}
		}
		if err := vm.pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("connect to QEMU's monitor: %w", err)
		}
	}
}

func (vm *VM) takeEvents() error {
	events, err := vm.monitor.Events(context.Background())
	if err != nil {
		return err
	}
	go func() {
		// It ends with the connection.
		for e := range events {
			if e.Event == "RESET" {
				select {
				case vm.resets <- struct{}{}:
				default:
				}
			}
		}
	}()
	return nil
}

// pause waits, unless there is nothing left to wait for.
func (vm *VM) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-vm.proc.done:
		return errEnded
	case <-vm.console.ended():
		return vm.Fault()
	case <-time.After(d):
		return nil
	}
}

// QMP runs a command of QEMU's monitor and returns its answer. arguments may be nil.
func (vm *VM) QMP(command string, arguments map[string]any) (json.RawMessage, error) {
	request, err := json.Marshal(struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return nil, err
	}
	reply, err := vm.monitor.Run(request)
	if err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	var answer struct {
		Return json.RawMessage `json:"return"`
	}
	if err := json.Unmarshal(reply, &answer); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	return answer.Return, nil
}

// Reset resets the machine as its reset button would, and returns when the guest has booted again.
func (vm *VM) Reset(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := vm.Fault(); err != nil {
		return err
	}
	if err := vm.resetMachine(ctx); err != nil {
		return vm.explain(err)
	}
	if err := vm.awaitBoot(ctx); err != nil {
		return vm.explain(err)
	}
	return nil
}

func (vm *VM) resetMachine(ctx context.Context) error {
	select {
	case <-vm.resets: // one that was not asked for here
	default:
	}
	vm.dropAgent()
	if _, err := vm.QMP("system_reset", nil); err != nil {
		return err
	}
	select {
	case <-vm.resets:
	case <-vm.proc.done:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	vm.console.forgive()
	return nil
}
