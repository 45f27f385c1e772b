package mesh_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/gossip"
	"github.com/ringagent/ringagent/mesh/meshtest"
	"github.com/ringagent/ringagent/mesh/wire"
)

// aliveMessage is memberlist's word that a node is there, as anybody can write it.
func aliveMessage(t *testing.T, node id.Node, meta mesh.Meta) []byte {
	t.Helper()
	facts, err := meta.Encode()
	must(t, err)
	text := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(s))), s...)
	}
	low, err := hex.DecodeString(string(node))
	must(t, err)
	b := []byte{4, 0x86} // alive; a map of six
	b = append(text(b, "Incarnation"), 1)
	b = text(text(b, "Node"), string(node))
	b = text(text(b, "Addr"), "\xfdring\x00\x00\x00"+string(low))
	b = append(text(b, "Port"), 1)
	b = text(text(b, "Meta"), string(facts))
	return text(text(b, "Vsn"), "\x01\x05\x02\x02\x05\x04")
}

// claim has a node of the ring gossip for a while that another boot of victim is at address.
func claim(t *testing.T, by, victim *node, address string) {
	t.Helper()
	c, err := by.mesh.Dial(t.Context(), victim.id, wire.Gossip)
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("p"))
	must(t, err)
	m := aliveMessage(t, victim.id, gossip.Meta{Class: id.Core, Boot: id.Boot("0123456789abcdef"), Address: address})
	for range 15 {
		_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m)-1)), m...))
		must(t, err)
		pass(time.Second)
	}
}

// TestGossipAloneShutsNobodyDown: a rented machine says again and again that another agent has a node's identity. Whatever
// address it names, its own or one that leads back, the node goes on.
func TestGossipAloneShutsNobodyDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(3))
		defer r.stop()
		victim := r.found()
		liar := r.join(id.Edge)
		r.whole(10 * time.Second)
		dialled := r.net.Host("10.0.0.77")
		l, err := dialled.Listen(t.Context(), "10.0.0.77:8770")
		must(t, err)
		defer l.Close()
		looked := make(chan struct{}, 64)
		go detour(r, dialled, l, victim.addr, looked)
		for _, address := range []string{"", liar.addr, "10.0.0.66:8770", "10.0.0.77:8770"} {
			claim(t, liar, victim, address)
			pass(10 * time.Second)
			if victim.didRefuse(mesh.CodeDuplicate) {
				t.Fatalf("gossip that names %q has shut a node down", address)
			}
		}
		select {
		case <-looked:
		default:
			t.Error("nobody looked at the claimed address, so the claims were not heard and nothing is proved")
		}
		must(t, echo(t.Context(), victim, liar))
	})
}

// detour leads every connection to another address.
func detour(r *ring, from *meshtest.Host, l net.Listener, to string, looked chan<- struct{}) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		looked <- struct{}{}
		out, err := from.Dial(context.Background(), to)
		if err != nil {
			_ = in.Close()
			continue
		}
		go splice(in, out)
		go splice(out, in)
	}
}

func splice(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	buf := make([]byte, 4096)
	for {
		n, err := a.Read(buf)
		if err != nil {
			return
		}
		if _, err := b.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestDoubleThatGossipNamesIsFound: where another agent with this node's key does answer at the claimed address, it is the
// proof.
func TestDoubleThatGossipNamesIsFound(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *ring) {
		original := r.nodes[1]
		double := &node{ring: r, name: original.name, dir: t.TempDir(), id: original.id}
		double.host = r.net.Host("10.0.9.9")
		double.addr = "10.0.9.9:8770"
		must(t, os.CopyFS(double.dir, os.DirFS(original.dir)))
		double.start()
		defer double.stop()
		pass(20 * time.Second)
		if original.didRefuse(mesh.CodeDuplicate) {
			t.Fatal("the one that was there first gave up")
		}
		claim(t, r.nodes[0], original, double.addr)
		eventually(t, 20*time.Second, func() error {
			if original.didRefuse(mesh.CodeDuplicate) {
				return nil
			}
			return fmt.Errorf("the double was not found")
		})
	})
}
