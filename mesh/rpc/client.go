package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

const (
	// DefaultTimeout bounds a call whose context has no deadline.
	DefaultTimeout = 10 * time.Second

	dialTimeout = 10 * time.Second
	pingAfter   = 15 * time.Second // of silence on a held connection
	pingTimeout = 5 * time.Second
	stuckWrite  = 10 * time.Second
	heldIdle    = 5 * time.Minute
)

// Dial reaches a peer with the protocol of calls.
type Dial func(ctx context.Context, node id.Node) (net.Conn, wire.Peer, error)

// Client calls other agents over one held connection each, made on first use and again after it broke.
type Client struct {
	self  wire.Peer
	local *Server
	dial  Dial
	hooks Hooks
	http2 *http2.Transport

	ctx    context.Context //nolint:containedctx // the client's own life: held connections outlive the call that made them
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu    sync.Mutex
	held  map[id.Node]*held
	sweep int // how many may be held before the broken ones are let go
}

// held is the connection to one peer: being made, ready, or broken.
type held struct {
	ready chan struct{} // closed when conn or err is set
	conn  *http2.ClientConn
	peer  wire.Peer
	err   error

	probing bool // guarded by Client.mu
}

// NewClient makes a client. Calls to self are answered by local without a network.
func NewClient(self wire.Peer, local *Server, dial Dial, hooks Hooks) *Client {
	c := &Client{
		self: self, local: local, dial: dial, hooks: hooks.withDefaults(), held: make(map[id.Node]*held), sweep: sweepFrom,
		http2: &http2.Transport{
			DisableCompression: true,
			ReadIdleTimeout:    pingAfter,
			PingTimeout:        pingTimeout,
			WriteByteTimeout:   stuckWrite,
			IdleConnTimeout:    heldIdle,
			// A call that is one too many waits: over a second connection it would be refused.
			StrictMaxConcurrentStreams: true,
		},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends all held connections and the calls on them, and waits for its goroutines.
func (c *Client) Close() {
	c.cancel()
	c.mu.Lock()
	open := make([]*held, 0, len(c.held))
	for _, h := range c.held {
		open = append(open, h)
	}
	c.mu.Unlock()
	for _, h := range open {
		<-h.ready
		if h.conn != nil {
			_ = h.conn.Close()
		}
	}
	c.group.Wait()
}

// Call asks node for method with in as JSON and decodes the answer into out; out may be nil. Errors are *wire.Error: what
// the handler returned, CodeUnavailable if the node cannot be reached or went away (Detail["sent"] is "no" when it
// certainly never saw the call), CodeTimeout if ctx or DefaultTimeout ended first.
func (c *Client) Call(ctx context.Context, node id.Node, method string, in, out any) error {
	return c.CallWithin(ctx, node, method, in, out, MaxBody)
}

// CallWithin is Call for an answer of at most so many bytes: what another node says of itself, and is kept here, may be anything.
func (c *Client) CallWithin(ctx context.Context, node id.Node, method string, in, out any, most int) error {
	body, err := json.Marshal(in)
	if err != nil {
		return wire.Errorf(wire.CodeInvalid, "encode call of %s: %v", method, err)
	}
	answer, err := c.callRaw(ctx, node, method, body, most)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return wire.Errorf(wire.CodeInternal, "decode answer of %s: %v", method, err)
	}
	return nil
}

// CallRaw is Call with bytes both ways, each up to MaxBody.
func (c *Client) CallRaw(ctx context.Context, node id.Node, method string, body []byte) ([]byte, error) {
	return c.callRaw(ctx, node, method, body, MaxBody)
}

func (c *Client) callRaw(ctx context.Context, node id.Node, method string, body []byte, most int) ([]byte, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if node == c.self.Node {
		answer, err := c.callSelf(ctx, method, body)
		if err == nil && len(answer) > most {
			return nil, wire.Errorf(wire.CodeInvalid, "answer of %s is more than %d bytes", method, most)
		}
		return answer, err
	}
	resp, err := c.roundTrip(ctx, node, method, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	if err != nil {
		return nil, lost(ctx, node, method, err)
	}
	if len(answer) > most {
		return nil, wire.Errorf(wire.CodeInvalid, "answer of %s is more than %d bytes", method, most)
	}
	if text := resp.Trailer.Get(headerError); text != "" {
		return nil, trailerError(node, method, text)
	}
	return answer, nil
}

// Stream opens a server stream; it lives as long as ctx. The last Read returns io.EOF after a stream that ended well, else
// the *wire.Error with which the handler ended or the connection broke.
func (c *Client) Stream(ctx context.Context, node id.Node, method string, in any) (io.ReadCloser, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "encode call of %s: %v", method, err)
	}
	if node == c.self.Node {
		return c.streamSelf(ctx, method, body)
	}
	resp, err := c.roundTrip(ctx, node, method, body)
	if err != nil {
		return nil, err
	}
	return &stream{ctx: ctx, node: node, method: method, resp: resp}, nil
}

func (c *Client) roundTrip(ctx context.Context, node id.Node, method string, body []byte) (*http.Response, error) {
	h, err := c.connect(ctx, node)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{
		Method: http.MethodPost,
		URL:    &url.URL{Scheme: "https", Host: string(node), Path: "/" + method},
		Header: http.Header{
			headerGeneration: {strconv.FormatUint(c.hooks.Generation(), 10)},
		},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}).WithContext(ctx)
	if len(body) == 0 {
		req.Body = http.NoBody
	}
	if until, ok := ctx.Deadline(); ok {
		req.Header[headerTimeout] = []string{strconv.FormatInt(max(1, time.Until(until).Milliseconds()), 10)}
	}
	resp, err := h.conn.RoundTrip(req)
	if err != nil {
		c.suspect(node, h, ctx.Err() != nil)
		return nil, lost(ctx, node, method, err)
	}
	generation, err := strconv.ParseUint(resp.Header.Get(headerGeneration), 10, 64)
	if err == nil {
		err = c.hooks.Seen(h.peer, generation)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = remoteError(ctx, node, method, resp)
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, c.local.coded(err)
	}
	return resp, nil
}

// connect gives the held connection to node, and makes it if there is none. One dial serves all who wait for it, and is
// not cut short by the first of them to give up.
func (c *Client) connect(ctx context.Context, node id.Node) (*held, error) {
	c.mu.Lock()
	h := c.held[node]
	if h != nil && h.broken() {
		h = nil
	}
	if h == nil {
		if c.ctx.Err() != nil {
			c.mu.Unlock()
			return nil, wire.Errorf(wire.CodeUnavailable, "this node is shutting down")
		}
		if len(c.held) >= c.sweep {
			c.letGo()
		}
		h = &held{ready: make(chan struct{})}
		c.held[node] = h
		c.group.Go(func() { c.open(node, h) })
	}
	c.mu.Unlock()
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, wire.Errorf(wire.CodeTimeout, "call node %s: not reached in time", node).WithUnsent()
	}
	if h.err != nil {
		e := c.local.coded(h.err)
		if e.Code == wire.CodeInternal {
			e = wire.Errorf(wire.CodeUnavailable, "%s", e.Message)
		}
		return nil, e.WithUnsent()
	}
	return h, nil
}

func (c *Client) open(node id.Node, h *held) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	defer close(h.ready)
	conn, peer, err := c.dial(ctx, node)
	if err != nil {
		h.err = err
		return
	}
	h.peer = peer
	h.conn, err = c.http2.NewClientConn(conn)
	if err != nil {
		_ = conn.Close()
		h.err = fmt.Errorf("begin HTTP/2: %w", err)
	}
}

// sweepFrom is how many connections are held before those to nodes that are gone are looked for.
const sweepFrom = 64

// letGo forgets broken connections: nodes that never come back are not called again, and each would stay with its buffers. Called with
// mu held.
func (c *Client) letGo() {
	maps.DeleteFunc(c.held, func(_ id.Node, h *held) bool { return h.broken() })
	c.sweep = max(sweepFrom, 2*len(c.held))
}

// broken says whether a connection that is ready can take no more calls.
func (h *held) broken() bool {
	select {
	case <-h.ready:
		return h.err != nil || !h.conn.CanTakeNewRequest()
	default:
		return false
	}
}

// suspect looks after a connection on which a call failed. If it only timed out, the peer may just be slow: a ping tells,
// and a path that died without a word is not waited for by the next call.
func (c *Client) suspect(node id.Node, h *held, timedOut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[node] != h || h.probing || c.ctx.Err() != nil {
		return
	}
	if !timedOut {
		return // HTTP/2 knows itself whether the connection is still good
	}
	h.probing = true
	c.group.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, pingTimeout)
		defer cancel()
		if h.conn.Ping(ctx) != nil {
			_ = h.conn.Close()
		}
		c.mu.Lock()
		h.probing = false
		c.mu.Unlock()
	})
}

func remoteError(ctx context.Context, node id.Node, method string, resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return lost(ctx, node, method, err)
	}
	e := new(wire.Error)
	if err := json.Unmarshal(text, e); err != nil || e.Code == "" {
		return wire.Errorf(wire.CodeInternal, "unreadable refusal, status %d", resp.StatusCode)
	}
	return e
}

func lost(ctx context.Context, node id.Node, method string, err error) *wire.Error {
	var e *wire.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return wire.Errorf(wire.CodeTimeout, "%s on node %s: no answer in time", method, node)
	case ctx.Err() != nil:
		return wire.Errorf(wire.CodeTimeout, "%s on node %s: given up", method, node)
	}
	return wire.Errorf(wire.CodeUnavailable, "%s on node %s: %v", method, node, err)
}
