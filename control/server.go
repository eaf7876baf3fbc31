package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Command does what a request asks for. Its result is encoded as JSON; its error
// is told to the client. It may be called from several goroutines at once, and
// should give up when ctx ends.
type Command func(ctx context.Context, args json.RawMessage) (any, error)

// Listener gives connections of clients.
type Listener interface {
	Accept(ctx context.Context) (*net.UnixConn, error)
	Close() error
}

const (
	// maxClients is the number of connections at the same time.
	maxClients = 16
	// idleLimit is how long a client may take for its next request. There are
	// few connections, and a client that wants to keep one asks for something.
	idleLimit = time.Minute
	// writeLimit is how long a client may take to read an answer.
	writeLimit = 10 * time.Second
	// acceptPause is for a listener out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// Server answers clients.
type Server struct {
	ln       Listener
	commands map[string]Command
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.UnixConn]struct{}
}

// Serve begins to answer the clients of ln, which it takes.
func Serve(ln Listener, commands map[string]Command, log *slog.Logger) *Server {
	s := &Server{ln: ln, commands: commands, log: log, conns: map[*net.UnixConn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Add(1)
	go s.accept()
	return s
}

// Close stops listening, ends all connections and waits for the commands that
// run. It may be called more than once.
func (s *Server) Close() {
	s.cancel()
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	defer s.running.Done()
	for s.ctx.Err() == nil {
		c, err := s.ln.Accept(s.ctx)
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Warn("the control socket cannot take a client", "err", err)
				select {
				case <-s.ctx.Done():
				case <-time.After(acceptPause):
				}
			}
			continue
		}
		if err := s.admit(c); err != nil {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			s.write(c, answer{Error: err.Error()})
			c.Close()
			continue
		}
		go func() {
			defer s.running.Done()
			s.serve(c)
			s.dismiss(c)
		}()
	}
}

// admit counts c in, unless there are too many. The caller starts its goroutine.
func (s *Server) admit(c *net.UnixConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return errors.New("the daemon is ending")
	case len(s.conns) >= maxClients:
		return fmt.Errorf("there are %d clients already; try again", maxClients)
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	return nil
}

func (s *Server) dismiss(c *net.UnixConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.Close()
}

func (s *Server) serve(c *net.UnixConn) {
	r := bufio.NewReader(c)
	for {
		c.SetReadDeadline(time.Now().Add(idleLimit))
		line, err := readLine(r, maxRequest)
		if errors.Is(err, errTooLong) {
			// Where the next request begins is not known.
			s.write(c, answer{Error: fmt.Sprintf("the request is longer than %d bytes", maxRequest)})
			return
		}
		if err != nil {
			return
		}
		if !s.write(c, s.answer(line)) {
			return
		}
	}
}

func (s *Server) answer(line []byte) answer {
	var q request
	if err := Decode(line, &q); err != nil {
		return answer{Error: "not a request: " + err.Error()}
	}
	if q.Version != Version {
		return answer{Error: fmt.Sprintf("the request is of version %d of the protocol, and this daemon speaks %d", q.Version, Version)}
	}
	command, ok := s.commands[q.Command]
	if !ok {
		return answer{Error: fmt.Sprintf("there is no command %q", q.Command)}
	}
	result, err := command(s.ctx, q.Args)
	if err != nil {
		return answer{Error: err.Error()}
	}
	b, err := json.Marshal(result)
	if err != nil {
		s.log.Error("a result of the control socket cannot be encoded", "command", q.Command, "err", err)
		return answer{Error: "internal error: " + err.Error()}
	}
	return answer{Result: b}
}

func (s *Server) write(c *net.UnixConn, a answer) bool {
	a.Version = Version
	line, err := encodeLine(a)
	if err != nil {
		return false
	}
	c.SetWriteDeadline(time.Now().Add(writeLimit))
	_, err = c.Write(line)
	return err == nil
}
