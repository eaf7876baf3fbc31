package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Client is a connection to a control socket. It is for one goroutine at a time.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
}

// Error is what the server answered instead of a result.
type Error string

func (e Error) Error() string { return string(e) }

// Dial connects to the control socket at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return &Client{c, bufio.NewReader(c)}, nil
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("no daemon listens on %s", path)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return nil, fmt.Errorf("connecting to %s: %w", path, err)
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call runs a command and decodes its result into result, unless that is nil. An
// answer that is an error is of type Error. After any other error, and after the
// end of ctx, the connection is of no more use.
func (c *Client) Call(ctx context.Context, command string, args, result any) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := c.call(command, args, result)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) call(command string, args, result any) error {
	q := request{Version: Version, Command: command}
	if args != nil {
		var err error
		if q.Args, err = json.Marshal(args); err != nil {
			return err
		}
	}
	line, err := encodeLine(q)
	if err != nil {
		return err
	}
	// A server that refuses a client answers without reading what it asks.
	_, sent := c.conn.Write(line)
	line, err = readLine(c.r, maxAnswer)
	switch {
	case err == io.EOF || errors.Is(err, unix.ECONNRESET):
		return errors.New("the daemon ended the connection without an answer")
	case err != nil:
		return fmt.Errorf("no answer: %w", errors.Join(sent, err))
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("the answer is none of a control socket: %w", err)
	}
	switch {
	case a.Version != Version:
		return fmt.Errorf("the daemon speaks version %d of the protocol, not %d", a.Version, Version)
	case a.Error != "":
		return Error(a.Error)
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Result, result)
}
