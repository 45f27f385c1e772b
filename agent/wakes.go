package agent

import (
	"context"
	"slices"
	"sync"

	"github.com/ringagent/ringagent/eventlog/event"
)

// wakes tells daemons that an event of a type they care about has come. A wake is a hint: the newest one waits for a daemon
// that is busy, the others are dropped.
type wakes struct {
	mu sync.Mutex
	by map[event.Type][]waker
}

type waker chan event.Record

// subscribe implements kit.Events.Wake.
func (w *wakes) subscribe(ctx context.Context, types []event.Type) <-chan event.Record {
	s := make(waker, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[event.Type][]waker{}
	}
	for _, t := range types {
		if !slices.Contains(w.by[t], s) {
			w.by[t] = append(w.by[t], s)
		}
	}
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, t := range types {
			w.by[t] = slices.DeleteFunc(w.by[t], func(o waker) bool { return o == s })
		}
	})
	return s
}

// observe passes placed records on. Stale ones wake nobody.
func (w *wakes) observe(records []event.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range records {
		r := &records[i]
		if r.Stale() {
			continue
		}
		for _, s := range w.by[r.Type] {
			select {
			case s <- *r:
			default:
			}
		}
	}
}
