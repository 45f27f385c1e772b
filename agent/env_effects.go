package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// proposer changes the replicated state.
type proposer interface {
	Propose(ctx context.Context, c state.Command) (state.Result, error)
}

// effects are one daemon's commands, with its fence on every one of them.
type effects struct {
	self   id.Node
	daemon string
	fence  *ring.Fence // nil for node scope
	now    func() time.Time
	leader proposer
	view   func() *state.State
	needs  func(stage string) ring.Slots // what the workload says that a stage takes; nil: nothing is known
}

func (e effects) propose(ctx context.Context, what string, kind state.Kind, body any, events ...kit.Statement) (state.Result, error) {
	if err := supervise.Entitled(ctx); err != nil {
		return state.Result{}, fmt.Errorf("%s: %w", what, err)
	}
	c := state.Command{Kind: kind, At: e.now().UTC(), By: e.self, Fence: e.fence, Body: body}
	for _, s := range events {
		d, err := e.draft(s)
		if err != nil {
			return state.Result{}, fmt.Errorf("%s: %w", what, err)
		}
		c.Events = append(c.Events, d)
	}
	r, err := e.leader.Propose(ctx, c)
	return r, kitError(what, err)
}

func (e effects) draft(s kit.Statement) (event.Draft, error) {
	payload, err := json.Marshal(s.Payload)
	if err != nil {
		return event.Draft{}, fmt.Errorf("encode %s: %w", s.Type, err)
	}
	d := event.Draft{Type: s.Type, Node: e.self, Daemon: e.daemon, Time: e.now().UTC(), Cause: s.Cause, Payload: payload}
	if e.fence != nil {
		d.Epoch = e.fence.Epoch
	}
	by := event.Publisher(e.daemon)
	if state.OwnedByState(s.Type) {
		// A fact of the state machine may ride on the command of its effect; the machine holds it against the effect.
		by = event.ByState
	}
	return event.Catalogue().Prepare(d, by)
}

func (e effects) Enqueue(ctx context.Context, items ...ring.WorkItem) ([]ring.WorkItem, error) {
	for i := range items {
		if items[i].Needs == (ring.Slots{}) && e.needs != nil {
			items[i].Needs = e.needs(items[i].Type)
		}
	}
	r, err := e.propose(ctx, "enqueue work", state.KindEnqueue, state.Enqueue{Items: items})
	if err != nil {
		return nil, err
	}
	return valueAs[[]ring.WorkItem](r)
}

func (e effects) Cancel(ctx context.Context, workID, reason string) error {
	_, err := e.propose(ctx, "cancel work", state.KindCancel, state.CancelWork{Work: workID, Reason: reason})
	return err
}

func (e effects) Retry(ctx context.Context, workID string) error {
	_, err := e.propose(ctx, "retry work", state.KindRetry, state.RetryWork{Work: workID})
	return err
}

// atOnce is how many artifacts or receipts one command takes. A node that saw no coordinator for an hour has a thousand packs to make
// known, and they are more than a command may hold.
const atOnce = 200

// AddArtifacts is several commands where there are many: an error says that some may be known and others not.
func (e effects) AddArtifacts(ctx context.Context, as ...ring.Artifact) error {
	for some := range slices.Chunk(as, atOnce) {
		if _, err := e.propose(ctx, "add artifacts", state.KindArtifacts, state.AddArtifacts{Artifacts: some}); err != nil {
			return err
		}
	}
	return nil
}

// AddReceipts is several commands where there are many, as AddArtifacts is.
func (e effects) AddReceipts(ctx context.Context, ds ...id.Digest) error {
	for some := range slices.Chunk(ds, atOnce) {
		body := state.AddReceipts{}
		for _, d := range some {
			body.Receipts = append(body.Receipts, ring.Receipt{Node: e.self, Digest: d})
		}
		if _, err := e.propose(ctx, "state receipts", state.KindReceipts, body); err != nil {
			return err
		}
	}
	return nil
}

// StateRepeats waits for the last core node that does not know the command: it would have to end at it.
func (e effects) StateRepeats(ctx context.Context, rs ...ring.Repeat) error {
	if e.view().CoreCommands() < state.VersionRepeats {
		return nil
	}
	_, err := e.propose(ctx, "state repeated games", state.KindRepeats, state.StateRepeats{Repeats: rs})
	return err
}

func (e effects) JoinPacks(ctx context.Context, joined id.Digest, games int64, packs ...id.Digest) error {
	_, err := e.propose(ctx, "join packs", state.KindJoin, state.JoinPacks{Joined: joined, Games: games, Packs: packs})
	return err
}

func (e effects) SetName(ctx context.Context, key string, expect uint64, d id.Digest, values map[string]float64, events ...kit.Statement) (ring.Name, error) {
	body := state.SetName{Key: key, Expect: expect, Digest: d, Values: values}
	r, err := e.propose(ctx, "set name", state.KindName, body, events...)
	if err != nil {
		return ring.Name{}, err
	}
	return valueAs[ring.Name](r)
}

func (e effects) PutNote(ctx context.Context, key string, value any, events ...kit.Statement) error {
	body := state.PutNote{Key: key}
	if value != nil {
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode note %q: %w", key, err)
		}
		body.Value = b
	}
	_, err := e.propose(ctx, "put note", state.KindNote, body, events...)
	return err
}

// valueAs is a result's value in its type. A result that crossed the wire has lost it and is decoded again.
func valueAs[T any](r state.Result) (T, error) {
	if v, ok := r.Value.(T); ok {
		return v, nil
	}
	var out T
	b, err := json.Marshal(r.Value)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return out, fmt.Errorf("read result: %w", err)
	}
	return out, nil
}
