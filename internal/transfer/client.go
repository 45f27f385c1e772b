package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Dialer reaches a node's artifact server, whatever the way. The connection speaks ring-blob/1 and is authenticated.
type Dialer interface {
	DialBlob(ctx context.Context, node id.Node) (net.Conn, error)
}

// Store is where a Client puts what it has fetched.
type Store interface {
	Source
	// PartialDir is a directory for files that are still arriving, on the store's file system and for the Client alone.
	PartialDir() string
	// Adopt moves a file into the store if its bytes have the digest, and has it on disk before it returns its size. If the
	// bytes are others, the error (or one it wraps) has a method Damaged() bool that returns true; if they are right and yet
	// not wanted, one Refused() bool, and nobody else is asked for them.
	Adopt(ctx context.Context, path string, d id.Digest) (int64, error)
}

// Receipt is this node's statement that it holds an artifact: the bytes were hashed and are on disk under their name.
type Receipt struct {
	Node   id.Node
	Digest id.Digest
	Bytes  int64
	At     time.Time
}

// Reason is why a holder could not give an artifact.
type Reason struct {
	Node id.Node
	Err  error
}

// FetchError says why no holder could give an artifact. It wraps the holders' errors.
type FetchError struct {
	Digest  id.Digest
	Reasons []Reason // in the order of the attempts; empty if there was nobody to ask
}

func (e *FetchError) Error() string {
	if len(e.Reasons) == 0 {
		return fmt.Sprintf("fetch artifact %s: nobody holds it", e.Digest.Short())
	}
	parts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		parts[i] = fmt.Sprintf("%s: %v", r.Node, r.Err)
	}
	return fmt.Sprintf("fetch artifact %s: no holder could give it: %s", e.Digest.Short(), strings.Join(parts, "; "))
}

// Unwrap returns the holders' errors.
func (e *FetchError) Unwrap() []error {
	errs := make([]error, len(e.Reasons))
	for i, r := range e.Reasons {
		errs[i] = r.Err
	}
	return errs
}

// ErrNoSpace says that the disk is full, or would be by the fetch. The half-fetched file is gone.
var ErrNoSpace = errors.New("no space left for a fetch")

// Client fetches artifacts from other nodes into one store.
type Client struct {
	self    id.Node
	store   Store
	dialer  Dialer
	o       Options
	streams *lanes

	mu       sync.Mutex
	flights  map[id.Digest]chan struct{} // closed when the fetch under way ends
	received int64
	owed     int64 // bytes that the fetches under way have yet to write
}

// NewClient returns a client that signs its receipts as self.
func NewClient(self id.Node, store Store, dialer Dialer, o Options) (*Client, error) {
	o, err := o.withDefaults(4)
	if err != nil {
		return nil, err
	}
	return &Client{self: self, store: store, dialer: dialer, o: o, streams: newLanes(o.Streams),
		flights: make(map[id.Digest]chan struct{})}, nil
}

// Received is how many bytes of chunks have arrived, wrong ones included.
func (c *Client) Received() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// Fetch gets an artifact from one of the holders, trying them in order, and returns a receipt once the store has it on disk.
// One that is here already is not fetched. A size of 0 is unknown; any other must be the file's. Interrupted by its
// context, a restart or a lost connection, it goes on where it was, chunk by chunk. If no holder could give the artifact the
// error is a *FetchError.
func (c *Client) Fetch(ctx context.Context, d id.Digest, size int64, holders []id.Node) (Receipt, error) {
	if _, err := id.ParseDigest(string(d)); err != nil {
		return Receipt{}, fmt.Errorf("fetch artifact: %w", err)
	}
	if size < 0 || size > c.o.MaxBytes {
		return Receipt{}, fmt.Errorf("fetch artifact %s: %d bytes, limit %d", d.Short(), size, c.o.MaxBytes)
	}
	end, err := c.begin(ctx, d)
	if err != nil {
		return Receipt{}, fmt.Errorf("fetch artifact %s: %w", d.Short(), err)
	}
	defer end()
	if r, ok := c.present(d); ok {
		return r, nil
	}
	f := &fetch{client: c, digest: d, size: size, contributors: make(map[id.Node]bool)}
	n, err := f.run(ctx, holders)
	if err != nil {
		return Receipt{}, err
	}
	return c.receipt(d, n), nil
}

// begin waits until nobody else fetches d, and returns what lets the next one go on.
func (c *Client) begin(ctx context.Context, d id.Digest) (end func(), err error) {
	for {
		c.mu.Lock()
		running, busy := c.flights[d]
		if !busy {
			done := make(chan struct{})
			c.flights[d] = done
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.flights, d)
				c.mu.Unlock()
				close(done)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Client) present(d id.Digest) (Receipt, bool) {
	f, err := c.store.Open(d)
	if err != nil {
		return Receipt{}, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Receipt{}, false
	}
	return c.receipt(d, info.Size()), true
}

func (c *Client) receipt(d id.Digest, n int64) Receipt {
	return Receipt{Node: c.self, Digest: d, Bytes: n, At: c.o.Now().UTC()}
}
