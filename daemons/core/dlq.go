package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// DLQSettings are the figures of DLQ_RETRY.
type DLQSettings struct {
	First    kit.Duration `json:"first"`     // delay before the first retry, doubling
	Slowest  kit.Duration `json:"slowest"`   // its cap
	Retries  int          `json:"retries"`   // of one pair before it is abandoned (and kept)
	MaxAge   kit.Duration `json:"max_age"`   // after which a pair is abandoned
	PerCycle int          `json:"per_cycle"` // retries in one step
	Stale    int          `json:"stale"`     // waiting pairs that are worth an alarm
}

// Validate implements kit's check.
func (s DLQSettings) Validate() error {
	if s.First <= 0 || s.Slowest < s.First || s.Retries < 1 || s.MaxAge <= 0 || s.PerCycle < 1 || s.Stale < 1 {
		return errors.New("want first ≤ slowest, and everything above zero")
	}
	return nil
}

// DLQRetry is DLQ_RETRY.
func DLQRetry() kit.Spec {
	defaults := DLQSettings{First: kit.Duration(time.Minute), Slowest: kit.Duration(time.Hour), Retries: 5,
		MaxAge: kit.Duration(168 * time.Hour), PerCycle: 10, Stale: 50}
	s := kit.Spec{
		Name: "DLQ_RETRY", Category: "core", Scope: kit.ScopeNode, DependsOn: []string{"EVENT_ROUTER"}, Every: 60 * time.Second,
		Doc:      "Retries exactly the (event, handler) pairs that failed, and keeps and reports those that go on failing.",
		Settings: defaults, Deadline: 15 * time.Minute,
		Emits: []event.Type{event.DLQEventsReplayed.Type(), event.DLQStaleEvents.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		d := &dlq{set: set, self: env.Self, now: env.Now, letters: env.Letters, local: env.Local, events: env.Events}
		return kit.NewLoop(env, kit.Loop{Step: d.step}), nil
	}
	return s
}

type dlq struct {
	set     DLQSettings
	self    kit.Self
	now     func() time.Time
	letters kit.Letters
	local   kit.Local
	events  kit.Events
	alarmed bool // the number of waiting pairs was reported
}

const retryPrefix = "retries/"

func (d *dlq) step(ctx context.Context) error {
	list, err := d.letters.List(ctx)
	if err != nil {
		return fmt.Errorf("list dead letters: %w", err)
	}
	counts, err := d.counts(list)
	if err != nil {
		return err
	}
	retry, abandon, waiting := d.set.triage(list, counts, d.now())
	var errs []error
	var recovered, given []ring.DeadLetter
	for _, l := range abandon {
		if err := d.letters.Abandon(ctx, l.ID); err != nil {
			errs = append(errs, fmt.Errorf("abandon %s: %w", l.ID, err))
			continue
		}
		given = append(given, l)
	}
	for _, l := range retry {
		// Counted before it is tried, so that a handler that takes the process down is not tried for ever.
		if err := d.local.Put(retryPrefix+l.ID, []byte(strconv.Itoa(counts[l.ID]+1))); err != nil {
			return fmt.Errorf("count retry: %w", err)
		}
		if d.letters.Retry(ctx, l.ID) == nil {
			recovered = append(recovered, l)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	if len(recovered) > 0 {
		errs = append(errs, d.publish(ctx, event.DLQEventsReplayed.Type(), event.Replayed{Recovered: int64(len(recovered)), Types: types(recovered)}))
	}
	crowd := len(waiting) >= d.set.Stale
	if len(given) > 0 || crowd && !d.alarmed {
		all := slices.Concat(waiting, given)
		errs = append(errs, d.publish(ctx, event.DLQStaleEvents.Type(), event.StaleLetters{Count: int64(len(all)), Types: types(all),
			MaxHours: oldest(all, d.now()).Hours()}))
	}
	d.alarmed = crowd
	return errors.Join(errs...)
}

// counts reads how often each pair was retried here, and forgets those that are gone.
func (d *dlq) counts(list []ring.DeadLetter) (map[string]int, error) {
	keys, err := d.local.Keys(retryPrefix)
	if err != nil {
		return nil, fmt.Errorf("read retries: %w", err)
	}
	out := map[string]int{}
	for _, k := range keys {
		id := k[len(retryPrefix):]
		if !slices.ContainsFunc(list, func(l ring.DeadLetter) bool { return l.ID == id }) {
			if err := d.local.Delete(k); err != nil {
				return nil, fmt.Errorf("forget retries: %w", err)
			}
			continue
		}
		raw, _, err := d.local.Get(k)
		if err != nil {
			return nil, fmt.Errorf("read retries: %w", err)
		}
		n, _ := strconv.Atoi(string(raw)) // not a number: as if never tried
		out[id] = n
	}
	return out, nil
}

// triage says which pairs are tried now, which are given up, and which wait.
func (s DLQSettings) triage(list []ring.DeadLetter, retries map[string]int, now time.Time) (retry, abandon, waiting []ring.DeadLetter) {
	for _, l := range list {
		n := retries[l.ID]
		delay := min(s.First.D()<<min(n, 20), s.Slowest.D())
		switch {
		case l.Abandoned:
		case n >= s.Retries, now.Sub(l.FirstFailed) > s.MaxAge.D():
			abandon = append(abandon, l)
		default:
			waiting = append(waiting, l)
			if len(retry) < s.PerCycle && now.Sub(l.LastFailed) >= delay {
				retry = append(retry, l)
			}
		}
	}
	return retry, abandon, waiting
}

func (d *dlq) publish(ctx context.Context, t event.Type, payload any) error {
	if _, err := d.events.Publish(ctx, t, kit.Stamp(d.self, payload), ""); err != nil {
		return fmt.Errorf("publish %s: %w", t, err)
	}
	return nil
}

func types(list []ring.DeadLetter) []event.Type {
	var out []event.Type
	for _, l := range list {
		out = append(out, l.Type)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func oldest(list []ring.DeadLetter, now time.Time) time.Duration {
	var age time.Duration
	for _, l := range list {
		age = max(age, now.Sub(l.FirstFailed))
	}
	return age
}
