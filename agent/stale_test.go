package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
)

// A holder that was cut off leaves an event in its outbox. It arrives when the successor has long been running: marked
// stale, heard by nobody. And nothing that the former holder tries takes effect.
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
	_, err := old.env.Effects.SetName(t.Context(), "model/connect4_2p", 0, digest('a'), nil)
	if !errors.Is(err, kit.ErrStaleEpoch) {
		t.Errorf("promotion under the old epoch: %v, want %v", err, kit.ErrStaleEpoch)
	}
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
