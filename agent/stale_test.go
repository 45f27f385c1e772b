package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// A holder that was cut off leaves an event in its outbox. It arrives when the successor has long been running: marked
// stale, heard by nobody.
func TestFormerHolderIsNotHeard(t *testing.T) {
	t.Parallel()
	var holders attempts
	var heard book
	listener := everywhere("TEST_LISTENER", func(ctx context.Context, env kit.Env) error {
		wake := env.Events.Wake(ctx, "TRAINING_BLOCKED")
		go func() {
			for {
				select {
				case r := <-wake:
					heard.add("woken %s", conditionOf(r))
				case <-ctx.Done():
					return
				}
			}
		}()
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"TRAINING_BLOCKED"}, Handle: func(_ context.Context, r event.Record) error {
			heard.add("handled %s", conditionOf(r))
			return nil
		}})
	})
	r := agenttest.Start(t, agenttest.Options{Core: 3, Specs: base(listener, singleton("TRAINING_TRIGGER", holders.run))})
	var old attempt
	r.Until("a holder", func(context.Context) (err error) {
		var ok bool
		if old, ok = holders.live(""); !ok {
			err = errors.New("none")
		}
		return err
	})
	blocked := func(condition string) event.Blocked {
		return event.Blocked{About: event.About{Config: "connect4_2p"}, Condition: condition}
	}
	r.Partition(old.env.Self.Name)
	if _, err := old.env.Events.Publish(t.Context(), "TRAINING_BLOCKED", kit.Stamp(old.env.Self, blocked("late")), ""); err != nil {
		t.Fatalf("publish while cut off: %v", err)
	}
	var next attempt
	r.Until("a successor", func(context.Context) (err error) {
		var ok bool
		if next, ok = holders.live(old.env.Self.Name); !ok {
			err = errors.New("none")
		}
		return err
	})
	if old.ctx.Err() == nil {
		t.Error("the successor runs while the former holder's context still lives")
	}
	r.Heal()
	r.Until("the late event on all nodes, stale", func(ctx context.Context) error {
		for _, n := range r.Nodes() {
			ls, err := lines(ctx, n, "TRAINING_BLOCKED")
			if err != nil {
				return err
			}
			if len(ls) != 1 || !ls[0].Stale {
				return fmt.Errorf("%s: %+v", n.Name, ls)
			}
		}
		return nil
	})
	// The control: the same event of the present holder is heard, woken by and handled, on all three nodes.
	if _, err := next.env.Events.Publish(t.Context(), "TRAINING_BLOCKED", kit.Stamp(next.env.Self, blocked("now")), ""); err != nil {
		t.Fatal(err)
	}
	r.Until("the present holder is heard", func(context.Context) error {
		got := map[string]int{}
		for _, l := range heard.list() {
			got[l]++
		}
		if got["woken late"]+got["handled late"] > 0 {
			t.Fatalf("somebody acted on the stale event: %v", got)
		}
		if got["handled now"] < 3 || got["woken now"] < 3 {
			return fmt.Errorf("heard %v", got)
		}
		return nil
	})
}

// A holder is cut off with a promotion in hand, and goes on trying it as one would that has not noticed the end of its lease.
// The promotion reaches the coordinator when a successor has long been running, and the state machine refuses it: the name
// has not moved and nobody hears of a promotion. The control is the very same promotion by the successor, which is taken.
func TestPromotionInHandOfAFormerHolderIsRefused(t *testing.T) {
	t.Parallel()
	var holders attempts
	r := agenttest.Start(t, agenttest.Options{Core: 3, Specs: base(singleton("AUTO_PROMOTION", holders.run))})
	candidate := uploadModel(t, r, r.Node("c1"), 1)
	promote := func(by attempt) (ring.Name, error) {
		// Not under the context of the daemon, which ends with its lease: what is shown here is what happens past it.
		return by.env.Effects.SetName(t.Context(), ring.ModelName("connect4_2p"), 0, candidate, map[string]float64{"elo": 1})
	}
	holder := func(except string) (found attempt) {
		r.Until("a holder other than "+except, func(context.Context) error {
			var ok bool
			if found, ok = holders.live(except); !ok {
				return errors.New("none")
			}
			return nil
		})
		return found
	}
	old := holder("")
	r.Partition(old.env.Self.Name)
	tried, verdict := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(verdict)
		for first := true; t.Context().Err() == nil; first = false {
			_, err := promote(old)
			if first {
				close(tried)
			}
			// Anything else means that nobody has decided; where the holder coordinated itself, its entry dies with its term.
			if err == nil || errors.Is(err, kit.ErrStaleEpoch) {
				verdict <- err
				return
			}
		}
	}()
	next := holder(old.env.Self.Name)
	if old.ctx.Err() == nil {
		t.Error("the successor runs while the former holder's context still lives")
	}
	<-tried
	select {
	case err := <-verdict:
		t.Fatalf("a node that is cut off has its promotion answered: %v", err)
	default:
	}
	r.Heal()
	if err := <-verdict; !errors.Is(err, kit.ErrStaleEpoch) {
		t.Fatalf("promotion under the old epoch: %v, want %v", err, kit.ErrStaleEpoch)
	}
	moved, err := promote(next)
	if err != nil || moved.Version != 1 || moved.Digest != candidate || moved.By.Daemon != "AUTO_PROMOTION" {
		t.Fatalf("the same promotion by the successor: %+v, %v; want version 1 of %s", moved, err, candidate.Short())
	}
	if _, err := promote(old); !errors.Is(err, kit.ErrStaleEpoch) {
		t.Errorf("promotion under the old epoch after the successor's: %v, want %v", err, kit.ErrStaleEpoch)
	}
	r.Until("one promotion on all nodes", func(ctx context.Context) error {
		for _, n := range r.Nodes() {
			ls, err := lines(ctx, n, "MODEL_PROMOTED")
			if err != nil {
				return err
			}
			if len(ls) > 1 {
				t.Fatalf("%s: promoted %d times: %+v", n.Name, len(ls), ls)
			}
			if len(ls) != 1 || ls[0].Epoch != moved.By.Epoch || ls[0].Stale {
				return fmt.Errorf("%s: %+v", n.Name, ls)
			}
		}
		return nil
	})
}
