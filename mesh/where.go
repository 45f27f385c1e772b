package mesh

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/pace"
)

// methodWhere tells under which addresses a node knows others.
const methodWhere = "mesh.where"

const (
	whereLook  = 2 * time.Second // from one look for lost nodes to the next
	whereMost  = time.Minute     // between two questions while asking is of no use
	whereCall  = 5 * time.Second
	whereAsked = 2   // peers at a time
	whereNodes = 256 // nodes in one question
	whereHints = 4   // addresses of one node in an answer
)

type whereAsk struct {
	Nodes []id.Node `json:"nodes"`
}

type whereAnswer struct {
	Addresses map[id.Node][]string `json:"addresses,omitempty"`
}

// findLost asks peers for nodes that cannot be dialled from here. A node that advertises no address is known only to those
// that it has dialled itself: without this, those who came in through one seed would know nobody but that seed.
func (m *Mesh) findLost(ctx context.Context) {
	tick := time.NewTimer(pace.Until(whereLook))
	defer tick.Stop()
	var before []id.Node
	var next, eager time.Time // eager: from when somebody who is newly lost is a reason to ask at once; some come and go
	for pause := whereLook; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Reset(pace.Until(whereLook))
		}
		lost := m.endpoint.Lost(slices.DeleteFunc(m.known(), func(n id.Node) bool { return n == m.ID() }))
		now := time.Now()
		if !now.Before(eager) && slices.ContainsFunc(lost, func(n id.Node) bool { return !slices.Contains(before, n) }) {
			pause, next, eager = whereLook, now.Add(rand.N(whereLook)), now.Add(whereMost/4) //nolint:gosec // jitter
		}
		before = slices.Clone(lost)
		if len(lost) == 0 || time.Now().Before(next) {
			continue
		}
		if m.askWhere(ctx, lost) {
			pause = whereLook
		} else {
			pause = min(2*pause, whereMost)
		}
		next = time.Now().Add(pause/2 + rand.N(pause)) //nolint:gosec // jitter
	}
}

// askWhere asks a few members about lost nodes and says whether it has learned anything.
func (m *Mesh) askWhere(ctx context.Context, lost []id.Node) (news bool) {
	var peers []id.Node
	for _, p := range m.gossip.Members() {
		if p.Status == Alive && p.ID != m.ID() && !slices.Contains(lost, p.ID) {
			peers = append(peers, p.ID)
		}
	}
	for _, list := range [][]id.Node{peers, lost} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] }) //nolint:gosec // order
	}
	lost = lost[:min(len(lost), whereNodes)]
	for _, p := range peers[:min(len(peers), whereAsked)] {
		var answer whereAnswer
		call, cancel := context.WithTimeout(ctx, whereCall)
		err := m.Call(call, p, methodWhere, whereAsk{Nodes: lost}, &answer)
		cancel()
		if err != nil {
			m.cfg.Log.Debug().Err(err).Str("peer", string(p)).Msg("not told where others are")
			continue
		}
		for _, n := range lost {
			addresses := answer.Addresses[n]
			news = m.book.Told(n, addresses[:min(len(addresses), whereHints)]) || news
		}
	}
	return news
}

func (m *Mesh) answerWhere(_ context.Context, r *Request) (any, error) {
	var ask whereAsk
	if err := r.Decode(&ask); err != nil {
		return nil, err
	}
	if len(ask.Nodes) > whereNodes {
		return nil, Errorf(CodeInvalid, "more than %d nodes", whereNodes)
	}
	answer := whereAnswer{Addresses: make(map[id.Node][]string)}
	for _, n := range ask.Nodes {
		// What did not answer here is of no use there.
		if entry, ok := m.cfg.Roster.Lookup(n); !ok || entry.Revoked || n == m.ID() || len(m.endpoint.Lost([]id.Node{n})) > 0 {
			continue
		}
		hints := slices.DeleteFunc(m.endpoint.Whereabouts(n), func(a string) bool { return loopback(a) && !loopback(r.Peer.Addr) })
		if len(hints) > 0 {
			answer.Addresses[n] = hints[:min(len(hints), whereHints)]
		}
	}
	return answer, nil
}

// loopback says whether an address means another machine wherever it is used.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
