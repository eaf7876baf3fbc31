package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol. It changes when an old client would
// misunderstand an answer; new commands and new fields of answers do not count.
const Version = 1

const (
	maxRequest = 64 << 10
	maxAnswer  = 4 << 20
)

type request struct {
	Version int             `json:"version"`
	Command string          `json:"command"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// answer has a result or an error.
type answer struct {
	Version int             `json:"version"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
}

var errTooLong = errors.New("the line is too long")

// readLine reads a line of at most limit bytes, without its end. An end of the
// stream within a line is io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, errTooLong
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(line, []byte("\n")), nil
		case err == io.EOF && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

// Decode takes the arguments of a command apart; what it does not know is an
// error. No arguments leave to as it is.
func Decode(args json.RawMessage, to any) error {
	if len(args) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("wrong arguments: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("wrong arguments: more than one value")
	}
	return nil
}

func encodeLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
