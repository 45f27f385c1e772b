package kit

import (
	"context"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Decider folds the events that concern it, in order and with a durable cursor, and decides from state: after each event,
// and on a timer in case one never came. Fold and Reconcile never run at once.
type Decider struct {
	Types []event.Type
	// Fold takes one event; it must be idempotent. Nil: the event only wakes Reconcile.
	Fold      func(ctx context.Context, r event.Record) error
	Reconcile func(ctx context.Context) error
}

// NewDecider makes a daemon of d.
func NewDecider(env Env, d Decider) Daemon {
	// A channel and not a mutex: whoever waits behind a handler that hangs still ends with its context.
	gate := make(chan struct{}, 1)
	alone := func(ctx context.Context, f func() error) error {
		select {
		case gate <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-gate }()
		return f()
	}
	poke := make(chan struct{}, 1)
	wake := func() {
		select {
		case poke <- struct{}{}:
		default:
		}
	}
	loop := NewLoop(env, Loop{Poke: poke, Rest: thoughtful, Step: func(ctx context.Context) error {
		return alone(ctx, func() error { return d.Reconcile(ctx) })
	}})
	consumer := Consumer{
		Types: d.Types,
		Handle: func(ctx context.Context, r event.Record) error {
			defer wake()
			// A record that carries an older epoch is in the log for people; nobody acts on it.
			if d.Fold == nil || r.Stale() {
				return nil
			}
			return alone(ctx, func() error { return d.Fold(ctx, r) })
		},
		Gap: func(uint64, uint64) { wake() },
	}
	return Both(loop, Run(func(ctx context.Context) error { return env.Events.Consume(ctx, consumer) }))
}

// Both runs daemons together: when one ends early, all end, with its error.
func Both(daemons ...Daemon) Daemon {
	return Run(func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		errs := make(chan error, len(daemons))
		for _, d := range daemons {
			go func() { errs <- Guard(ctx, d.Run) }()
		}
		var first error
		for range daemons {
			err := <-errs
			if first == nil {
				first = err
			}
			cancel()
		}
		return first
	})
}
