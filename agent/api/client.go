package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"
)

// Client asks one agent over its Unix socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for the agent that listens on socket. Nothing is dialled yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
	}}}
}

// Get fills out with the answer to GET path?query.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

// Post sends in as JSON and fills out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, nil, bytes.NewReader(b), out)
}

// Upload posts a body of any length and fills out.
func (c *Client) Upload(ctx context.Context, path string, query url.Values, body io.Reader, out any) error {
	return c.do(ctx, http.MethodPost, path, query, body, out)
}

// Stream opens GET path?query for reading as it comes; the caller closes it.
func (c *Client) Stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// answer is a body as it comes. An agent that ends in the middle of one is out of reach from then on, as one that never answered.
type answer struct {
	io.ReadCloser
	broken func(error) error
}

// Read implements io.Reader.
func (a answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = a.broken(err)
	}
	return n, err
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) error {
	resp, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	switch err := json.NewDecoder(resp.Body).Decode(out); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.explain(ctx, err)
	case err != nil:
		return fmt.Errorf("decode answer of %s: %w", path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	plain, err := url.PathUnescape(path) // callers escape what people name
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	u := url.URL{Scheme: "http", Host: "agent", Path: plain, RawPath: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	resp.Body = answer{resp.Body, func(err error) error { return c.explain(ctx, err) }}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var env Envelope
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(b, &env) == nil && env.Error != nil {
		return nil, env.Error
	}
	return nil, Errorf(CodeFailed, "agent answered %s to %s %s", resp.Status, method, path)
}

// explain tells an agent that is not there from one that did not answer in time.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return absent{Errorf(CodeUnreachable, "no agent answers on %s", c.socket).
			WithHint("is it running? start it with: ringagent agent; another data dir: --data-dir")}
	case errors.Is(err, os.ErrPermission):
		return Errorf(CodeUnauthorised, "not allowed to use %s", c.socket).WithHint("run as the user that runs the agent")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Errorf(CodeTimeout, "the agent did not answer in time; what became of the request is unknown")
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return Errorf(CodeUnreachable, "the agent on %s went away before its answer was whole: %v", c.socket, err).
			WithHint("it may have been stopped; what became of the request is unknown")
	}
	return Errorf(CodeUnreachable, "asking the agent on %s: %v", c.socket, err)
}

// absent is the error of a client whose socket has nobody behind it.
type absent struct{ e *Error }

func (a absent) Error() string { return a.e.Error() }
func (a absent) Unwrap() error { return a.e }

// Absent says whether err means that no agent runs, in contrast to somebody whom a running agent cannot reach.
func Absent(err error) bool { return errors.As(err, new(absent)) }
