package agent

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/rpc"
)

// raftStreams carries Raft over the mesh.
type raftStreams struct {
	mesh     *mesh.Mesh
	listener net.Listener
}

// Dial implements leader.Streams.
func (s raftStreams) Dial(ctx context.Context, n id.Node) (net.Conn, error) {
	return s.mesh.Dial(ctx, n, mesh.RaftProtocol)
}

// Accept implements leader.Streams.
func (s raftStreams) Accept() (net.Conn, id.Node, error) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return nil, "", fmt.Errorf("accept raft stream: %w", err)
		}
		p, ok := mesh.PeerOf(c)
		if !ok || p.Class != id.Core {
			c.Close() // only core nodes run Raft
			continue
		}
		return c, p.Node, nil
	}
}

// reach is what the coordinator can find out about a node without its own word.
type reach struct{ mesh *mesh.Mesh }

// GossipStatus implements leader.Reach.
func (r reach) GossipStatus(n id.Node) ring.Status {
	for _, m := range r.mesh.Members() {
		if m.ID == n {
			return statusOf(m)
		}
	}
	return ""
}

// statusOf is a member's status in the roster's words; a suspect is still alive there.
func statusOf(m mesh.Member) ring.Status {
	switch {
	case m.Status == mesh.Failed:
		return ring.Failed
	case m.Status == mesh.Left:
		return ring.Left
	case m.Meta.Draining:
		return ring.Draining
	}
	return ring.Alive
}

// DialBack implements leader.Reach.
func (r reach) DialBack(ctx context.Context, n id.Node) error {
	_, err := r.mesh.Ping(ctx, n)
	return err
}

// registerLeader puts the leader's methods behind the mesh's class table.
func registerLeader(m *mesh.Mesh, n *leader.Node) {
	for name, h := range n.Handlers() {
		allowed := mesh.CoreOnly
		if h.Edge {
			allowed = mesh.Everybody
		}
		var opts []rpc.Option
		if h.MaxIn > 0 {
			opts = append(opts, mesh.BodyLimit(int64(h.MaxIn)))
		}
		switch {
		case h.Long:
			opts = append(opts, mesh.AtOnce(pullsAtOnce))
		case h.Relayed:
			opts = append(opts, mesh.AtOnce(relaysAtOnce))
		}
		if h.Former {
			opts = append(opts, mesh.Former())
		}
		m.Handle(name, allowed, func(ctx context.Context, r *mesh.Request) (any, error) {
			return h.Serve(ctx, r.Peer.Node, r.Body)
		}, opts...)
	}
}

// generations refuses words of an older generation of the ring: after a recovery, who still lives in the old one must not
// be believed, and must not believe us.
type generations struct{ current func() uint64 }

var errOldGeneration = errors.New("other generation of the ring")

func (g generations) seen(p mesh.Peer, theirs uint64) error {
	ours := g.current()
	// Zero is who has not heard a coordinator yet: it knows no generation and may not be kept from learning.
	if theirs == 0 || ours == 0 || theirs >= ours {
		return nil
	}
	return mesh.Errorf(mesh.CodeStaleEpoch, "node %s is in generation %d of the ring, this one in %d: %v", p.Node, theirs, ours, errOldGeneration)
}
