package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
)

// everybody is a roster without secrets.
type everybody struct{}

func (everybody) Admits(id.Node, id.Class) error { return nil }

// lines counts what is written to a log.
type lines struct{ n atomic.Int64 }

func (l *lines) Write(b []byte) (int, error) {
	l.n.Add(int64(bytes.Count(b, []byte{'\n'})))
	return len(b), nil
}

// TestGarbageOfAPeer is a member of the ring that sends nonsense: it must neither end the agent nor fill its disk with
// complaints.
func TestGarbageOfAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written lines
		self, peer := id.NewNode(), id.NewNode()
		g, err := New(Config{
			Self: self, Meta: Meta{Class: id.Core, Boot: id.NewBoot()}, Profile: LAN, Roster: everybody{},
			Dial:  func(context.Context, id.Node) (net.Conn, error) { return nil, net.ErrClosed },
			Known: func() []id.Node { return nil }, Double: func(id.Boot, string) {},
			Log: zerolog.New(&written).Level(zerolog.InfoLevel),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); g.Run(ctx) }()
		near, far := net.Pipe()
		go g.Receive(far, peer)
		go func() {
			for b := make([]byte, 64); ; {
				if _, err := near.Read(b); err != nil {
					return
				}
			}
		}()
		random := rand.New(rand.NewPCG(1, 2))
		_, err = near.Write([]byte{kindPackets})
		if err != nil {
			t.Fatal(err)
		}
		const packets = 20_000
		for i := range packets {
			b := make([]byte, 1+random.IntN(200))
			for j := range b {
				b[j] = byte(random.Uint32())
			}
			b[0] = byte(i % 16)
			frame := binary.BigEndian.AppendUint16(nil, uint16(len(b)-1))
			if _, err := near.Write(append(frame, b...)); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 {
				<-time.After(100 * time.Millisecond)
			}
		}
		// Streams of its own are no better.
		for i := range 300 {
			near, far := net.Pipe()
			go g.Receive(far, peer)
			_, _ = near.Write([]byte{kindStream, byte(i)})
			_ = near.SetDeadline(time.Now().Add(time.Second))
			_, _ = near.Write(bytes.Repeat([]byte{byte(i)}, 100))
			_ = near.Close()
		}
		if n := written.n.Load(); n == 0 || n > 2*logBurst {
			t.Errorf("%d lines in the log for %d packets", n, packets)
		}
		_ = near.Close()
		cancel()
		<-done
		<-time.After(time.Minute)
	})
}
