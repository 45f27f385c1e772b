package kittest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// effects are the commands of one daemon under one epoch (0: node scope). The check of the epoch is here, in the state,
// and not in the daemon.
type effects struct {
	r      *Ring
	n      *Node
	daemon string
	epoch  id.Epoch
}

// begin locks the state and checks the right to change it; on nil the caller must unlock.
func (e effects) begin(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.r.mu.Lock()
	switch {
	case e.r.noQuorum:
		e.r.mu.Unlock()
		return kit.ErrNoCoordinator
	case e.epoch != 0 && e.r.assignments[e.daemon].Epoch != e.epoch:
		e.r.refused = append(e.r.refused, e.daemon+" "+what)
		e.r.mu.Unlock()
		return fmt.Errorf("%s: %w", what, kit.ErrStaleEpoch)
	}
	e.r.index++
	return nil
}

func (e effects) fence() ring.Fence { return ring.Fence{Daemon: e.daemon, Epoch: e.epoch} }

func (e effects) Enqueue(ctx context.Context, items ...ring.WorkItem) ([]ring.WorkItem, error) {
	if err := e.begin(ctx, "enqueue"); err != nil {
		return nil, err
	}
	defer e.r.mu.Unlock()
	var out []ring.WorkItem
	for _, w := range items {
		if old, ok := byKey(e.r.items, e.r.buried, w.Key); ok {
			out = append(out, old)
			continue
		}
		if w.Key == "" || w.Type == "" {
			return nil, fmt.Errorf("enqueue: type %q, key %q", w.Type, w.Key)
		}
		w.ID = fmt.Sprintf("w%d", len(e.r.items)+len(e.r.buried)+1)
		w.State, w.Created, w.By = ring.WorkPending, time.Now(), e.fence()
		e.r.items = append(e.r.items, w)
		out = append(out, w)
		e.r.work(event.WorkQueued, w, e.n.ID, "")
	}
	return out, nil
}

func (e effects) Cancel(ctx context.Context, workID, reason string) error {
	if err := e.begin(ctx, "cancel"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	return e.r.change(workID, func(w *ring.WorkItem) {
		w.State, w.Error, w.Finished = ring.WorkCancelled, reason, time.Now()
	})
}

func (e effects) Retry(ctx context.Context, workID string) error {
	if err := e.begin(ctx, "retry"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	return e.r.change(workID, func(w *ring.WorkItem) {
		w.State, w.Attempts, w.Claim, w.Finished = ring.WorkPending, 0, nil, time.Time{}
	})
}

func (r *Ring) change(workID string, f func(*ring.WorkItem)) error {
	for i := range r.items {
		if r.items[i].ID == workID {
			f(&r.items[i])
			return nil
		}
	}
	return fmt.Errorf("work item %s: %w", workID, kit.ErrNotFound)
}

func (e effects) AddArtifacts(ctx context.Context, as ...ring.Artifact) error {
	if err := e.begin(ctx, "artifacts"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	for _, a := range as {
		other := func(n id.Node) bool { return n != e.n.ID }
		if e.epoch == 0 && e.n.Class == id.Edge && (other(a.Origin) || slices.ContainsFunc(a.Holders, other)) {
			e.r.refused = append(e.r.refused, e.daemon+" artifacts of others")
			return fmt.Errorf("artifact %s: edge nodes speak for themselves only", a.Digest.Short()) // all of it or nothing
		}
	}
	e.r.index++
	for _, a := range as {
		e.r.addArtifact(a)
	}
	return nil
}

func (e effects) AddReceipts(ctx context.Context, ds ...id.Digest) error {
	if err := e.begin(ctx, "receipts"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	for _, d := range ds {
		if err := e.r.addReceipt(e.n.ID, d); err != nil {
			return err
		}
	}
	return nil
}

func (e effects) StateRepeats(ctx context.Context, rs ...ring.Repeat) error {
	if err := e.begin(ctx, "repeats"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	if e.n.Class == id.Edge {
		e.r.refused = append(e.r.refused, e.daemon+" repeats")
		return errors.New("only core nodes see all packs")
	}
	for _, r := range rs {
		e.r.addRepeat(r)
	}
	return nil
}

func (e effects) JoinPacks(ctx context.Context, joined id.Digest, games int64, packs ...id.Digest) error {
	if err := e.begin(ctx, "join"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	return e.r.join(joined, games, packs)
}

func (e effects) SetName(ctx context.Context, key string, expect uint64, d id.Digest, values map[string]float64, events ...kit.Statement) (ring.Name, error) {
	if err := e.begin(ctx, "name"); err != nil {
		return ring.Name{}, err
	}
	defer e.r.mu.Unlock()
	old := e.r.names[key]
	if old.Version != expect {
		return old, fmt.Errorf("set name %s: version is %d, not %d: %w", key, old.Version, expect, kit.ErrConflict)
	}
	n := ring.Name{Key: key, Version: expect + 1, Digest: d, Previous: old.Digest, At: time.Now(), By: e.fence(), Values: values, History: old.History}
	if old.Version > 0 {
		n.History = append(n.History[:len(n.History):len(n.History)],
			ring.NameVersion{Version: old.Version, Digest: old.Digest, At: old.At, Until: n.At, Values: old.Values})
	}
	if err := e.r.placeAll(event.ByState, e, events); err != nil {
		return old, err
	}
	e.r.names[key] = n
	return n, nil
}

func (e effects) PutNote(ctx context.Context, key string, value any, events ...kit.Statement) error {
	if err := e.begin(ctx, "note"); err != nil {
		return err
	}
	defer e.r.mu.Unlock()
	if e.r.notes[e.daemon] == nil {
		e.r.notes[e.daemon] = map[string]json.RawMessage{}
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode note %s: %w", key, err)
	}
	if len(raw) > 16<<10 {
		return fmt.Errorf("note %s: %d bytes, the limit is 16 KiB", key, len(raw))
	}
	if err := e.r.placeAll(event.Publisher(e.daemon), e, events); err != nil {
		return err
	}
	if value == nil {
		delete(e.r.notes[e.daemon], key)
	} else {
		e.r.notes[e.daemon][key] = raw
	}
	return nil
}

func (r *Ring) placeAll(by event.Publisher, e effects, events []kit.Statement) error {
	for _, s := range events {
		if _, err := r.place(by, event.Draft{Type: s.Type, Node: e.n.ID, Daemon: e.daemon, Epoch: e.epoch, Cause: s.Cause}, s.Payload); err != nil {
			return err
		}
	}
	return nil
}

// work places one of the WORK_* events. Called with mu held.
func (r *Ring) work(k event.Kind[event.Work], w ring.WorkItem, n id.Node, reason string) {
	_, err := r.place(event.ByState, event.Draft{Type: k.Type(), Node: n}, event.Work{
		Subject: event.Subject{NodeID: n}, Config: w.Config, WorkID: w.ID, Type: w.Type, Attempt: int64(w.Attempts), Reason: reason})
	if err != nil {
		r.T.Errorf("state %s: %v", k.Type(), err)
	}
}
