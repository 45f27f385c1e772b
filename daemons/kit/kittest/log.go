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

// Log is everything placed so far.
func (r *Ring) Log(types ...event.Type) []event.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.log), func(e event.Record) bool {
		return len(types) > 0 && !slices.Contains(types, e.Type)
	})
}

// Letters are the dead letters.
func (r *Ring) Letters() []ring.DeadLetter {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.letters)
}

// place puts an event into the log, or fails as the catalogue says. Called with mu held.
func (r *Ring) place(by event.Publisher, d event.Draft, payload any) (string, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", d.Type, err)
	}
	d.Payload, d.Time = raw, time.Now()
	d, err = event.Catalogue().Prepare(d, by)
	if err != nil {
		return "", err
	}
	seq := uint64(len(r.log) + 1)
	rec := event.Record{Seq: seq, Origin: event.StateOrigin, Number: seq, Draft: d}
	if r.withheld[d.Type] {
		return rec.ID(), nil
	}
	if d.Epoch != 0 && r.assignments[d.Daemon].Epoch != d.Epoch {
		rec.Marks |= event.MarkStale
	}
	r.log = append(r.log, rec)
	close(r.changed)
	r.changed = make(chan struct{})
	return rec.ID(), nil
}

// State places an event that the state machine states.
func (r *Ring) State(t event.Type, payload any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.place(event.ByState, event.Draft{Type: t}, payload); err != nil {
		r.T.Errorf("state %s: %v", t, err)
	}
}

// next waits for the first record after seq that is of types; ok is false when ctx has ended.
func (r *Ring) next(ctx context.Context, seq uint64, types []event.Type) (event.Record, bool) {
	for {
		r.mu.Lock()
		for _, rec := range r.log[min(seq, uint64(len(r.log))):] {
			if slices.Contains(types, rec.Type) {
				r.mu.Unlock()
				return rec, ctx.Err() == nil
			}
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return event.Record{}, false
		case <-changed:
		}
	}
}

type events struct {
	r      *Ring
	n      *Node
	daemon string
	epoch  id.Epoch
}

func (e events) Publish(_ context.Context, t event.Type, payload any, cause string) (string, error) {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	return e.r.place(event.Publisher(e.daemon), event.Draft{Type: t, Node: e.n.ID, Daemon: e.daemon, Epoch: e.epoch, Cause: cause}, payload)
}

func (e events) Wake(ctx context.Context, types ...event.Type) <-chan event.Record {
	out := make(chan event.Record, 1)
	e.r.mu.Lock()
	from := uint64(len(e.r.log))
	e.r.mu.Unlock()
	go func() {
		defer close(out)
		for {
			rec, ok := e.r.next(ctx, from, types)
			if !ok {
				return
			}
			from = rec.Seq
			select {
			case out <- rec:
			default: // a wake-up is waiting already
			}
		}
	}()
	return out
}

// tries is how often a handler gets an event before the pair goes to the dead letters.
const tries = 5

func (e events) Consume(ctx context.Context, c kit.Consumer) error {
	name := c.Name
	if name == "" {
		name = e.daemon
	}
	limit := e.r.settings.Timing.Times().HandlerLimit
	for {
		e.r.mu.Lock()
		seq := e.r.positions[name]
		e.r.mu.Unlock()
		rec, ok := e.r.next(ctx, seq, c.Types)
		if !ok {
			return nil
		}
		var err error
		for n, delay := 0, time.Second; n < tries; n, delay = n+1, min(2*delay, time.Minute) {
			if n > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(delay):
				}
			}
			if err = handle(ctx, c, rec, limit); err == nil || ctx.Err() != nil || errors.Is(err, kit.ErrStaleEpoch) {
				break
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, kit.ErrStaleEpoch) {
			return err
		}
		e.r.mu.Lock()
		if err != nil {
			letter := ring.DeadLetter{ID: fmt.Sprintf("L%d", len(e.r.letters)+1), EventID: rec.ID(), Seq: rec.Seq, Type: rec.Type, Handler: name,
				Node: e.n.ID, Error: err.Error(), Attempts: tries, FirstFailed: time.Now(), LastFailed: time.Now()}
			e.r.letters = append(e.r.letters, letter)
			e.r.handlers[letter.ID] = func(rec event.Record) error { return c.Handle(context.Background(), rec) }
		}
		e.r.positions[name] = max(e.r.positions[name], rec.Seq)
		e.r.mu.Unlock()
	}
}

func handle(ctx context.Context, c kit.Consumer, rec event.Record, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- kit.Guard(ctx, func(ctx context.Context) error { return c.Handle(ctx, rec) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("handler of %s: %w", rec.ID(), context.Cause(ctx))
	}
}

type letters struct {
	r *Ring
	n *Node
}

func (l letters) List(context.Context) ([]ring.DeadLetter, error) { return l.r.Letters(), nil }

func (l letters) Retry(_ context.Context, letterID string) error {
	l.r.mu.Lock()
	i := slices.IndexFunc(l.r.letters, func(d ring.DeadLetter) bool { return d.ID == letterID })
	if i < 0 {
		l.r.mu.Unlock()
		return fmt.Errorf("no dead letter %s", letterID)
	}
	rec, h := l.r.log[l.r.letters[i].Seq-1], l.r.handlers[letterID]
	l.r.mu.Unlock()
	err := h(rec)
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	i = slices.IndexFunc(l.r.letters, func(d ring.DeadLetter) bool { return d.ID == letterID })
	if i < 0 {
		return err // somebody else has retried it meanwhile
	}
	if err != nil {
		l.r.letters[i].Attempts++
		l.r.letters[i].LastFailed, l.r.letters[i].Error = time.Now(), err.Error()
		return err
	}
	l.r.letters = slices.Delete(l.r.letters, i, i+1)
	return nil
}

func (l letters) Abandon(_ context.Context, letterID string) error {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	for i := range l.r.letters {
		if l.r.letters[i].ID == letterID {
			l.r.letters[i].Abandoned = true
			return nil
		}
	}
	return fmt.Errorf("no dead letter %s", letterID)
}
