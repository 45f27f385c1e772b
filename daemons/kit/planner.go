package kit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// Planner asks for work: a pure function of the state says which items, notes and events there ought to be, and the shape
// brings them about. Items come first and notes after them, so that a crash in between repeats items, which their keys
// make harmless, instead of losing them.
type Planner struct {
	Wake []event.Type
	// Plan decides; it must not change v. Now is the time of the decision.
	Plan func(v View, now time.Time) (Plan, error)
	// Prepare completes an item just before it is added, where that takes I/O. Optional.
	Prepare func(ctx context.Context, w *ring.WorkItem) error
}

// Plan is what a planner wants to happen, in this order.
type Plan struct {
	Items  []ring.WorkItem // those whose key is in the queue already are left alone
	Retry  []string        // work ids
	Cancel []Cancel
	Notes  []NoteChange
	Events []Statement // published when no note carries them

	Known []ring.WorkItem // items of the plan that were there already; filled by the planner
}

// Cancel ends a work item.
type Cancel struct{ WorkID, Reason string }

// NoteChange writes (or with a nil value removes) a note; its events are placed in the log by the same entry.
type NoteChange struct {
	Key    string
	Value  any
	Events []Statement
}

// NewPlanner makes a daemon of p.
func NewPlanner(env Env, p Planner) Daemon {
	x := &planner{Planner: p, self: env.Self, now: env.Now, views: env.View, do: Executor{env.Self, env.Effects, env.Events}}
	return NewLoop(env, Loop{Step: x.step, Wake: p.Wake, Rest: thoughtful})
}

type planner struct {
	Planner
	self  Self
	now   func() time.Time
	views Views
	do    Executor
}

func (p *planner) step(ctx context.Context) error {
	v, err := p.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	plan, err := p.Plan(v, p.now())
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	fresh := plan.Items[:0:0]
	for _, w := range plan.Items {
		if known, ok := v.Queue.ByKey(w.Key); ok {
			plan.Known = append(plan.Known, known)
			continue
		}
		if p.Prepare != nil {
			if err := p.Prepare(ctx, &w); err != nil {
				return fmt.Errorf("prepare %s: %w", w.Key, err)
			}
		}
		fresh = append(fresh, w)
	}
	plan.Items = fresh
	return p.do.Do(ctx, plan)
}

// Executor brings plans about.
type Executor struct {
	Self    Self
	Effects Effects
	Events  Events
}

// Do carries plan out in its order and stops at the first failure; every part may be repeated.
func (x Executor) Do(ctx context.Context, plan Plan) error {
	ids := map[string]string{}
	for _, w := range plan.Known {
		ids[w.Key] = w.ID
	}
	if len(plan.Items) > 0 {
		added, err := x.Effects.Enqueue(ctx, plan.Items...)
		if err != nil {
			return fmt.Errorf("add work: %w", err)
		}
		for _, w := range added {
			ids[w.Key] = w.ID
		}
	}
	complete := func(events []Statement) []Statement {
		return stamp(x.Self, func(key string) string { return ids[key] }, events)
	}
	// What is not kept any more can be neither tried again nor ended; that must not keep the rest of the plan from happening.
	for _, w := range plan.Retry {
		if err := x.Effects.Retry(ctx, w); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("retry work %s: %w", w, err)
		}
	}
	for _, c := range plan.Cancel {
		if err := x.Effects.Cancel(ctx, c.WorkID, c.Reason); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("cancel work %s: %w", c.WorkID, err)
		}
	}
	for _, n := range plan.Notes {
		if err := x.Effects.PutNote(ctx, n.Key, n.Value, complete(n.Events)...); err != nil {
			return fmt.Errorf("keep note %s: %w", n.Key, err)
		}
	}
	for _, s := range complete(plan.Events) {
		if _, err := x.Events.Publish(ctx, s.Type, s.Payload, s.Cause); err != nil {
			return fmt.Errorf("publish %s: %w", s.Type, err)
		}
	}
	return nil
}

// Lazy is a Payload that needs the id of an item which the same plan adds or has added: workID finds it by the item's key.
type Lazy func(workID func(key string) string) any

func stamp(self Self, workID func(string) string, events []Statement) []Statement {
	out := make([]Statement, len(events))
	for i, s := range events {
		if lazy, ok := s.Payload.(Lazy); ok {
			s.Payload = lazy(workID)
		}
		s.Payload = Stamp(self, s.Payload)
		out[i] = s
	}
	return out
}

// Stamp completes an event's payload: node_id is self's where the payload leaves it empty, and lists that are nil become
// empty ones. Anything but a struct passes through.
func Stamp(self Self, payload any) any {
	v := reflect.ValueOf(payload)
	if v.Kind() != reflect.Struct {
		return payload
	}
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	if f := out.FieldByName("NodeID"); f.IsValid() && f.Kind() == reflect.String && f.Len() == 0 {
		f.SetString(string(self.ID))
	}
	for i := range out.NumField() {
		switch f := out.Field(i); {
		case f.Kind() == reflect.Slice && f.IsNil():
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
		case f.Kind() == reflect.Map && f.IsNil():
			f.Set(reflect.MakeMap(f.Type()))
		}
	}
	return out.Interface()
}

// ReadNote decodes one of the daemon's notes into a T; the zero T if there is none.
func ReadNote[T any](n Notes, key string) (T, error) {
	raw, ok := n.Note(key)
	return readNote[T](raw, ok, key)
}

// ReadNoteOf decodes another daemon's note.
func ReadNoteOf[T any](n Notes, daemon, key string) (T, error) {
	raw, ok := n.Of(daemon, key)
	return readNote[T](raw, ok, daemon+"/"+key)
}

func readNote[T any](raw json.RawMessage, ok bool, key string) (T, error) {
	var v T
	if !ok {
		return v, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("read note %s: %w", key, err)
	}
	return v, nil
}
