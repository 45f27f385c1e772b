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
	mu  sync.Mutex
	all map[*waker]bool
}

type waker struct {
	types []event.Type
	ch    chan event.Record
}

// subscribe implements kit.Events.Wake.
func (w *wakes) subscribe(ctx context.Context, types []event.Type) <-chan event.Record {
	s := &waker{types: types, ch: make(chan event.Record, 1)}
	w.mu.Lock()
	if w.all == nil {
		w.all = map[*waker]bool{}
	}
	w.all[s] = true
	w.mu.Unlock()
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		delete(w.all, s)
		w.mu.Unlock()
	})
	return s.ch
}

// observe passes placed records on. Stale ones wake nobody.
func (w *wakes) observe(records []event.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.all {
		for _, r := range records {
			if r.Stale() || !slices.Contains(s.types, r.Type) {
				continue
			}
			select {
			case s.ch <- r:
			default:
			}
		}
	}
}
