package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

// stream reads the body of an answer and turns its end into the handler's error.
type stream struct {
	ctx    context.Context //nolint:containedctx // the stream's life, as given to Stream
	node   id.Node
	method string
	resp   *http.Response
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.resp.Body.Read(b)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, lost(s.ctx, s.node, s.method, err)
	}
	text := s.resp.Trailer.Get(headerError)
	if text == "" {
		return n, io.EOF
	}
	return n, trailerError(s.node, s.method, text)
}

func trailerError(node id.Node, method, text string) *wire.Error {
	e := new(wire.Error)
	if json.Unmarshal([]byte(text), e) != nil || e.Code == "" {
		return wire.Errorf(wire.CodeInternal, "%s on node %s ended with an unreadable error", method, node)
	}
	return e
}

// Close implements io.Closer; the handler's context ends.
func (s *stream) Close() error {
	return s.resp.Body.Close() //nolint:wrapcheck // nothing to add
}

// callSelf answers a call of this node to itself: same handlers, same errors, no network.
func (c *Client) callSelf(ctx context.Context, name string, body []byte) ([]byte, error) {
	m, err := c.local.find(name, c.self, true)
	if err != nil {
		return nil, err
	}
	if m.Stream {
		return nil, wire.Errorf(wire.CodeInvalid, "%s answers with a stream", name)
	}
	return c.local.invoke(ctx, m, &Request{Peer: c.self, Method: name, Body: body})
}

func (c *Client) streamSelf(ctx context.Context, name string, body []byte) (io.ReadCloser, error) {
	m, err := c.local.find(name, c.self, true)
	if err != nil {
		return nil, err
	}
	if !m.Stream {
		return nil, wire.Errorf(wire.CodeInvalid, "%s does not answer with a stream", name)
	}
	ctx, cancel := context.WithCancel(ctx)
	write, err := m.stream(ctx, &Request{Peer: c.self, Method: name, Body: body})
	if err != nil {
		cancel()
		return nil, c.local.coded(err)
	}
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { _ = w.CloseWithError(lost(ctx, c.self.Node, name, ctx.Err())) })
	c.group.Go(func() {
		defer stop()
		err := write(ctx, w)
		if err != nil {
			_ = w.CloseWithError(c.local.coded(err))
			return
		}
		_ = w.Close()
	})
	return selfStream{PipeReader: r, cancel: cancel}, nil
}

type selfStream struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (s selfStream) Close() error {
	s.cancel()
	return s.PipeReader.Close() //nolint:wrapcheck // nothing to add
}
