package datasync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// EphemeralSync is EPHEMERAL_SYNC.
func EphemeralSync() kit.Spec {
	s := gathering(kit.Spec{
		Name: "EPHEMERAL_SYNC", Classes: []id.Class{id.Edge}, Every: 5 * time.Second,
		Doc: "Brings every finished game off an edge node, with receipts, before the machine vanishes.",
	})
	defaults := gatherDefaults()
	s.Settings = defaults
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		return newSyncer(env, set)
	}
	return s
}

// AutoSync is AUTO_SYNC.
func AutoSync() kit.Spec {
	s := gathering(kit.Spec{
		Name: "AUTO_SYNC", Classes: []id.Class{id.Core}, Every: 60 * time.Second,
		Doc: "Copies a core node's own games with receipts, merges every pack of the ring into its game databases and joins old packs into larger ones.",
		// While an export reads packs they are not joined.
		Reads: []event.Type{event.NewGamesAvailable.Type(), event.HostOnline.Type(), event.NPZExportComplete.Type()},
	})
	defaults := AutoSyncSettings{gatherDefaults(), JoinSettings{After: kit.Duration(time.Hour), Packs: 64}}
	s.Settings = defaults
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		d, err := newSyncer(env, set.GatherSettings)
		if err != nil {
			return nil, err
		}
		m := newMerger(env, set.JoinSettings)
		d.discards.waits = m.join.waiting
		d.couriers = append(d.couriers, m.join.courier)
		// The books of progress belong to the loop that games depend on.
		env.Progress = nil
		d.loops = append(d.loops, kit.NewLoop(env, kit.Loop{Step: m.step, Wake: s.Reads}),
			kit.NewLoop(env, kit.Loop{Step: m.join.step, Wake: s.Reads, Poke: m.join.courier.Poked()}))
		return d, nil
	}
	return s
}

// AutoSyncSettings are the figures of AUTO_SYNC.
type AutoSyncSettings struct {
	GatherSettings
	JoinSettings
}

// Validate implements kit's check.
func (s AutoSyncSettings) Validate() error {
	return errors.Join(s.GatherSettings.Validate(), s.JoinSettings.Validate())
}

func gatherDefaults() GatherSettings {
	return GatherSettings{Batch: 10, MinGap: kit.Duration(2 * time.Second), MaxGames: 500, Parallel: 4, Retry: kit.Duration(2 * time.Second), Patience: 3}
}

func gathering(s kit.Spec) kit.Spec {
	s.Category, s.Scope, s.DependsOn, s.Critical = "datasync", kit.ScopeNode, []string{"EVENT_ROUTER"}, true
	s.Emits = []event.Type{event.NewGamesAvailable.Type(), event.DataSyncCompleted.Type(), event.DataSyncFailed.Type()}
	s.Deadline = 5 * time.Minute
	return s
}

func newSyncer(env kit.Env, set GatherSettings) (*syncer, error) {
	g, err := newGatherer(env, set)
	if err != nil {
		return nil, err
	}
	d := &syncer{g: g, gate: make(chan struct{}, 1), couriers: []*kit.Courier{g.courier}, discards: newDiscarder(env, g.books.open)}
	fast := env
	fast.Every = min(poll, env.Every)
	d.loops = []kit.Daemon{kit.NewLoop(fast, kit.Loop{Step: d.gather, Poke: g.courier.Poked(), Quiet: 50 * time.Millisecond, Slowest: 10 * time.Second})}
	slow := env
	slow.Progress, slow.Every = nil, discardEvery
	d.loops = append(d.loops, kit.NewLoop(slow, kit.Loop{Step: d.discards.step}))
	return d, nil
}

// syncer runs the loops of one node's sync daemon.
type syncer struct {
	gate     chan struct{} // of g: Drain's steps and the loop's
	g        *gatherer
	loops    []kit.Daemon
	couriers []*kit.Courier
	discards *discarder
}

// Run implements kit.Daemon.
func (d *syncer) Run(ctx context.Context) error {
	defer d.g.jobs.Hold(0)
	ctx, cancel := context.WithCancel(ctx)
	err := kit.Both(d.loops...).Run(ctx)
	cancel()
	for _, c := range d.couriers {
		c.Wait()
	}
	return err
}

func (d *syncer) gather(ctx context.Context) error { return d.inTurn(ctx, d.g.step) }

func (d *syncer) inTurn(ctx context.Context, do func(context.Context) error) error {
	select {
	case d.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.gate }()
	return do(ctx)
}

// Drain implements kit.Drainer: nothing waits for a batch any more, the newest games go first, and it returns when every
// game that was finished when it was called is safe. A departure may be called off: afterwards all is as it was before.
func (d *syncer) Drain(ctx context.Context) error {
	d.g.drains.Add(1)
	defer d.g.drains.Add(-1)
	// One look from here so that the count, and what is waited for, is no older than this call.
	err := d.inTurn(ctx, func(ctx context.Context) error {
		d.g.owed = nil
		return d.g.step(ctx)
	})
	for {
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("drain games: %w", ctx.Err()), err)
		case left := <-d.g.empty:
			if left == 0 && err == nil {
				return nil
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			err = d.gather(ctx)
		}
	}
}
