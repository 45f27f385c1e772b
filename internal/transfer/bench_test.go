package transfer

import (
	"context"
	"net"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
)

const benchSize = 64 << 20

// BenchmarkCopy is the floor: the same bytes moved in memory once.
func BenchmarkCopy(b *testing.B) {
	from, to := noise(benchSize, 1), make([]byte, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		copy(to, from)
	}
}

// BenchmarkFetch moves 64 MiB over loopback TCP, hashes them twice and writes them, without fsync.
func BenchmarkFetch(b *testing.B) {
	from := newStore(b)
	d := from.put(b, noise(benchSize, 1))
	server, err := NewServer(from, Options{})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = server.Serve(b.Context(), other, conn) }()
		}
	}()
	dial := dialFunc(func(ctx context.Context, _ id.Node) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
	})
	b.SetBytes(benchSize)
	for b.Loop() {
		c := newClient(b, newStore(b), dial, Options{})
		if _, err := c.Fetch(b.Context(), d, benchSize, []id.Node{good}); err != nil {
			b.Fatal(err)
		}
	}
}
