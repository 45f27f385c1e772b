package wire

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Network is where connections come from: TCP in an agent, meshtest's in-memory network in tests.
type Network interface {
	// Listen opens a listener at host:port; port 0 chooses one.
	Listen(ctx context.Context, address string) (net.Listener, error)
	// Dial connects to host:port within ctx.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// TCP is the real network.
type TCP struct{}

// keepAlive finds a peer that vanished without a word within half a minute, also on connections that are never written.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Listen implements Network.
func (TCP) Listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Dial implements Network.
func (TCP) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return c, nil
}
