package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// sequencer gives an outbox's batches their places, by the coordinator.
type sequencer struct{ leader placer }

// placer is what a sequencer needs of the leader. It is no more than that, since each of its calls is made by every node
// again when the coordinator changes: none may carry the whole state.
type placer interface {
	ProposeEvents(ctx context.Context, b state.EventBatch) (state.AppendResult, error)
	Origin(ctx context.Context, o event.Origin) (ring.OriginPos, bool, error)
}

// Append implements eventlog.Sequencer.
func (s sequencer) Append(ctx context.Context, b eventlog.Batch) <-chan eventlog.Answer {
	out := make(chan eventlog.Answer, 1)
	go func() {
		r, err := s.leader.ProposeEvents(ctx, state.EventBatch{
			Origin: b.Origin, Node: b.Node, First: b.First, Before: b.Before, Drafts: b.Drafts, Lost: b.Lost,
		})
		out <- eventlog.Answer{Err: err, Next: r.Next, Seqs: r.Seqs, Hash: r.Hash, Altered: r.Altered, Refused: r.Refused}
	}()
	return out
}

// Origin implements eventlog.Sequencer.
func (s sequencer) Origin(ctx context.Context, o event.Origin) (eventlog.OriginState, error) {
	p, ok, err := s.leader.Origin(ctx, o)
	if err != nil || !ok {
		return eventlog.OriginState{}, err
	}
	return eventlog.OriginState{Known: true, Next: p.Last + 1, Hash: p.Hash}, nil
}

// Methods between replicas.
const (
	methodEventsFetch  = "events.fetch"
	methodEventsStream = "events.stream"
	methodTail         = "events.tail"
	methodReplica      = "events.replica"
)

// sources is where this node's replica gets what it missed.
type sources struct{ a *Agent }

// Near implements eventlog.Sources: core nodes first, since they are complete and stay.
func (s sources) Near(context.Context) ([]eventlog.Puller, error) {
	var core, edge []eventlog.Puller
	for _, m := range s.a.mesh.Members() {
		if st := statusOf(m); m.ID == s.a.node.ID || st != ring.Alive && st != ring.Draining {
			continue
		}
		p := puller{a: s.a, node: m.ID}
		if m.Class == id.Core {
			core = append(core, p)
		} else {
			edge = append(edge, p)
		}
	}
	return append(core, edge...), nil
}

// Head implements eventlog.Sources.
func (s sources) Head(ctx context.Context) (eventlog.Head, error) {
	if s.a.node.Class == id.Core && s.a.leader.Freshness().Known {
		h := s.a.leader.View().LogHead()
		return eventlog.Head{Seq: h.Seq, Hash: h.Hash}, nil
	}
	return highestHead(ctx, s.a.likelyCores(), func(ctx context.Context, n id.Node) (h replicaState, err error) {
		err = s.a.mesh.Call(ctx, n, methodReplica, struct{}{}, &h)
		return h, err
	})
}

// headWait is what a core node that is there takes at most, far away and under load.
const headWait = 300 * time.Millisecond

// highestHead asks all at once and takes the highest word of a voter: the state of one that the coordinator does not reach stands
// still. Once one has answered the others are waited for only for a moment: every pull of an edge node waits for this, and a core node
// that is gone for good would make each of them slower.
func highestHead(ctx context.Context, nodes []id.Node, ask func(context.Context, id.Node) (replicaState, error)) (eventlog.Head, error) {
	type word struct {
		replicaState
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	words := make(chan word, len(nodes))
	for _, n := range nodes {
		go func() {
			h, err := ask(ctx, n)
			words <- word{h, err}
		}()
	}
	var out eventlog.Head
	var enough <-chan time.Time
	err := errors.New("no core node answers")
	for range nodes {
		select {
		case w := <-words:
			if w.err != nil {
				err = w.err
			} else if w.Voter {
				if w.HeadSeq >= out.Seq {
					out = eventlog.Head{Seq: w.HeadSeq, Hash: w.HeadHash}
				}
				if enough == nil {
					enough = time.After(headWait)
				}
			}
		case <-enough:
			return out, nil
		}
	}
	if enough == nil {
		return out, fmt.Errorf("ask for the log's head: %w", err)
	}
	return out, nil
}

// replicaState is what a node says of its log.
type replicaState struct {
	Durable  uint64     `json:"durable"`
	Oldest   uint64     `json:"oldest"`
	HeadSeq  uint64     `json:"head_seq"` // of its replicated state
	HeadHash event.Hash `json:"head_hash"`
	// Authority says that it holds the ring's signing key.
	Authority bool `json:"authority"`
	Voter     bool `json:"voter"` // its state is a voter's, and a coordinator has spoken
}

type fetchCall struct {
	After uint64 `json:"after"`
	Limit int    `json:"limit"`
}

type fetchAnswer struct {
	Records   []eventlog.Encoded  `json:"records,omitempty"`
	Compacted *eventlog.Compacted `json:"compacted,omitempty"`
}

// puller reads another node's replica.
type puller struct {
	a    *Agent
	node id.Node
}

// Fetch implements eventlog.Puller.
func (p puller) Fetch(ctx context.Context, after uint64, limit int) ([]eventlog.Encoded, error) {
	if f := p.a.opts.Faults.Fetch; f != nil {
		if err := f(); err != nil {
			return nil, err
		}
	}
	body, err := p.a.mesh.CallRaw(ctx, p.node, methodEventsFetch, encodeFetch(fetchCall{After: after, Limit: limit}))
	if err != nil {
		return nil, fmt.Errorf("fetch events from %s: %w", p.node, err)
	}
	records, gap, err := decodeRecords(body)
	if err != nil {
		return nil, fmt.Errorf("fetch events from %s: %w", p.node, err)
	}
	if gap != nil {
		return nil, gap
	}
	return records, nil
}

// follow streams the log from a near core node into this node's replica, so that an event is here within milliseconds. Core
// nodes have it from Raft; for them, and whenever the stream breaks, pulling fills the holes.
func (a *Agent) follow(ctx context.Context) {
	if a.node.Class == id.Core {
		a.followState(ctx)
		return
	}
	go a.followState(ctx)
	for ctx.Err() == nil {
		for _, n := range a.likelyCores() {
			if err := a.followNode(ctx, n); err != nil && ctx.Err() == nil {
				a.log.Debug().Err(err).Str("peer", string(n)).Msg("event stream ended")
			}
		}
		if !pause(ctx, 300*time.Millisecond) {
			return
		}
	}
}

// followState tells the replica how far the log reaches by the state.
func (a *Agent) followState(ctx context.Context) {
	for {
		changed := a.leader.Changes()
		a.replica.Expect(a.leader.View().LogHead().Seq)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) followNode(ctx context.Context, n id.Node) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := a.mesh.Stream(ctx, n, methodEventsStream, fetchCall{After: a.replica.Durable()})
	if err != nil {
		return err
	}
	defer body.Close()
	return readRecords(body, func(batch []eventlog.Encoded) { a.replica.Offer(batch) })
}

// pause waits, or says false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
