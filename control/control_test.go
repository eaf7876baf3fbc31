package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// plain listens without anything that the server does not need.
type plain struct{ *net.UnixListener }

func (l plain) Accept(context.Context) (*net.UnixConn, error) { return l.AcceptUnix() }

func testServer(t *testing.T, commands map[string]Command) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(plain{ln}, commands, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	return s, path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

type sum struct{ A, B int }

var testCommands = map[string]Command{
	"add": func(_ context.Context, args json.RawMessage) (any, error) {
		var s sum
		if err := Decode(args, &s); err != nil {
			return nil, err
		}
		return s.A + s.B, nil
	},
	"fail": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("it went wrong") },
	"odd":  func(context.Context, json.RawMessage) (any, error) { return make(chan int), nil },
}

func TestClientsGetTheirOwnResults(t *testing.T) {
	_, path := testServer(t, testCommands)
	var wg sync.WaitGroup
	for i := range maxClients {
		c := dial(t, path)
		wg.Go(func() {
			for j := range 50 {
				var got int
				if err := c.Call(t.Context(), "add", sum{i, j}, &got); err != nil || got != i+j {
					t.Errorf("%d and %d make %d, %v", i, j, got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestErrorsReachTheClient(t *testing.T) {
	_, path := testServer(t, testCommands)
	c := dial(t, path)
	for command, says := range map[string]string{"fail": "it went wrong", "no such": `there is no command "no such"`, "": "there is no command", "odd": "internal error"} {
		err := c.Call(t.Context(), command, nil, nil)
		if !errors.As(err, new(Error)) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", command, err)
		}
	}
	if err := c.Call(t.Context(), "add", map[string]int{"C": 1}, nil); err == nil || !strings.Contains(err.Error(), "unknown field") {
		t.Errorf("unknown argument: %v", err)
	}
	if err := c.Call(t.Context(), "add", sum{1, 2}, nil); err != nil {
		t.Errorf("after errors: %v", err)
	}
}

// TestBrokenRequestsGetErrors sends lines that are no requests; the connection goes on where the next line can be found.
func TestBrokenRequestsGetErrors(t *testing.T) {
	_, path := testServer(t, testCommands)
	for _, tt := range []struct{ line, says string }{
		{"", "there is no command"},
		{"hello", "not a request"},
		{"[]", "not a request"},
		{"null", "version 0"},
		{"{}", "version 0"},
		{`{"version":1}{"version":1}`, "more than one value"},
		{`{"version":2,"command":"add"}`, "version 2 of the protocol, and this daemon speaks 1"},
		{`{"version":"1"}`, "not a request"},
		{`{"version":1,"command":"add","arg":1}`, "unknown field"},
		{`{"version":1,"command":"add","args":[1]}`, "wrong arguments"},
		{`{"version":1,"command":"add","args":{"A":"x"}}`, "wrong arguments"},
		{`{"version":1,"command":"add","args":{"A":99999999999999999999}}`, "wrong arguments"},
		{"\x00\xff\xfe", "not a request"},
		{strings.Repeat("[", 60000), "not a request"},
	} {
		if tt.line == "" {
			tt.line = `{"version":1,"command":""}`
		}
		c := dial(t, path)
		fmt.Fprintf(c.conn, "%s\n", tt.line)
		var a answer
		line, err := bufio.NewReader(c.conn).ReadBytes('\n')
		if err != nil || json.Unmarshal(line, &a) != nil || a.Version != Version || !strings.Contains(a.Error, tt.says) || a.Result != nil {
			t.Errorf("%.40q: %q, %v", tt.line, line, err)
		}
		var got int
		if err := c.Call(t.Context(), "add", sum{1, 2}, &got); err != nil || got != 3 {
			t.Errorf("after %.40q: %d, %v", tt.line, got, err)
		}
	}
}

func TestEndlessLineEndsTheConnection(t *testing.T) {
	_, path := testServer(t, testCommands)
	c := dial(t, path)
	go io.Copy(c.conn, strings.NewReader(strings.Repeat("x", 1<<20)))
	line, err := bufio.NewReader(c.conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "longer than") {
		t.Errorf("%q, %v", line, err)
	}
	if err := dial(t, path).Call(t.Context(), "add", sum{1, 2}, nil); err != nil {
		t.Error(err)
	}
}

func TestHalfARequestIsNone(t *testing.T) {
	called := make(chan struct{}, 1)
	_, path := testServer(t, map[string]Command{"order": func(context.Context, json.RawMessage) (any, error) {
		called <- struct{}{}
		return nil, nil
	}})
	c := dial(t, path)
	fmt.Fprint(c.conn, `{"version":1,"command":"order"}`) // no end of the line
	c.conn.(*net.UnixConn).CloseWrite()
	if b, err := io.ReadAll(c.conn); err != nil || len(b) != 0 {
		t.Errorf("answer %q, %v", b, err)
	}
	select {
	case <-called:
		t.Error("the order was carried out")
	default:
	}
}

func TestClientsAreBounded(t *testing.T) {
	_, path := testServer(t, testCommands)
	var all []*Client
	for range maxClients {
		c := dial(t, path)
		if err := c.Call(t.Context(), "add", sum{1, 2}, nil); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if err := dial(t, path).Call(t.Context(), "add", sum{1, 2}, nil); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("one too many: %v", err)
	}
	all[0].Close()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if dial(t, path).Call(t.Context(), "add", sum{1, 2}, nil) == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no place after one has gone")
		}
	}
}

// TestCloseEndsWhatRuns closes with a command running and a client that says nothing.
func TestCloseEndsWhatRuns(t *testing.T) {
	running := make(chan struct{})
	ended := false
	s, path := testServer(t, map[string]Command{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
		close(running)
		<-ctx.Done()
		ended = true
		return nil, ctx.Err()
	}})
	silent, c := dial(t, path), dial(t, path)
	failed := make(chan error, 1)
	go func() { failed <- c.Call(context.Background(), "wait", nil, nil) }()
	<-running
	s.Close()
	if !ended {
		t.Error("Close did not wait for the command")
	}
	if err := <-failed; err == nil {
		t.Error("the call succeeded")
	}
	if err := silent.Call(t.Context(), "wait", nil, nil); err == nil {
		t.Error("a call after the end succeeded")
	}
	if _, err := Dial(t.Context(), path); err == nil {
		t.Error("the socket is still there")
	}
	s.Close()
}

func TestCallEndsWithItsContext(t *testing.T) {
	_, path := testServer(t, map[string]Command{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := dial(t, path).Call(ctx, "wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestClientDistrustsAnswers talks to servers that are something else.
func TestClientDistrustsAnswers(t *testing.T) {
	for says, send := range map[string]string{
		"none of a control socket":    "HTTP/1.1 400 Bad Request\n",
		"version 2 of the protocol":   `{"version":2,"result":1}` + "\n",
		"without an answer":           "",
		"unexpected EOF":              `{"version":1,`,
		"too long":                    strings.Repeat("x", maxAnswer+1),
		"cannot unmarshal string":     `{"version":1,"result":"text"}` + "\n",
		"unexpected end of JSON inpu": `{"version":1}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "c")
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			bufio.NewReader(c).ReadString('\n')
			io.WriteString(c, send)
			c.Close()
		}()
		var n int
		if err := dial(t, path).Call(t.Context(), "x", nil, &n); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
		ln.Close()
	}
}
