package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
)

// bed is the clock of a machine that can be put to sleep for the rest of the ring. A broken one stands still meanwhile.
type bed struct {
	leader.Clock
	broken bool

	mu    sync.Mutex
	slept time.Duration
}

func (b *bed) sleep(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.broken {
		b.slept += d
	}
}

func (b *bed) past() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slept
}

// Elapsed implements leader.Clock.
func (b *bed) Elapsed() time.Duration { return b.Clock.Elapsed() + b.past() }

// Wall implements leader.Clock.
func (b *bed) Wall() time.Time { return b.Clock.Wall().Add(b.past()) }

// A machine falls asleep while its singleton is in mid-step, and wakes when the lease is over. What the step does next,
// under whatever context it has made of its own, does nothing: no entry, no event, no order to another node. On a machine
// whose clock does not count its sleep all three take effect, which is what the test would see.
func TestHolderThatSleptInMidStepDoesNothing(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"counts its sleep": false, "broken: a clock that stands still": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, model, tried := sleeper(t, broken)
			for range 3 {
				select {
				case o := <-tried:
					if (o.err == nil) != broken {
						t.Errorf("%s after the sleep: %v", o.what, o.err)
					}
				case <-time.After(agenttest.Patience):
					t.Fatal("the step was not begun anew")
				}
			}
			// A later attempt is heard: what the former ones had done would stand before it.
			r.Until("the next event", func(ctx context.Context) error {
				ls, err := lines(ctx, r.Node("c1"), "TRAINING_BLOCKED")
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(ls, func(l event.Line) bool {
					return conditionOf(event.Record{Draft: event.Draft{Payload: l.Payload}}) == "control"
				}) {
					return errors.New("not yet")
				}
				if slept := slices.ContainsFunc(ls, func(l event.Line) bool {
					return conditionOf(event.Record{Draft: event.Draft{Payload: l.Payload}}) == "slept"
				}); slept != broken {
					t.Errorf("event in the log: %v", slept)
				}
				return nil
			})
			holders, err := holdersOf(t.Context(), r, model)
			if err != nil || (len(holders) > 1) != broken {
				t.Errorf("the model is on %v, %v", holders, err)
			}
		})
	}
}

// outcome is how one of the things that a step tries went.
type outcome struct {
	what string
	err  error
}

// sleeper is a ring of two whose one core node falls asleep, for longer than a lease, each time before its TRAINING_TRIGGER
// tries one of three things. How they went comes through the channel; when all were tried, it publishes once more.
func sleeper(t *testing.T, broken bool) (*agenttest.Ring, id.Digest, <-chan outcome) {
	clock := &bed{Clock: leader.SystemClock(), broken: broken}
	begin, plan, tried := make(chan struct{}), make(chan string, 3), make(chan outcome, 3)
	var model id.Digest // set before begin
	publish := func(ctx context.Context, env kit.Env, condition string) error {
		b := event.Blocked{About: event.About{Config: "connect4_2p"}, Condition: condition}
		_, err := env.Events.Publish(ctx, "TRAINING_BLOCKED", kit.Stamp(env.Self, b), "")
		return err
	}
	try := func(ctx context.Context, env kit.Env, what string, other id.Node) error {
		switch what {
		case "note":
			return env.Effects.PutNote(ctx, "slept", true)
		case "event":
			return publish(ctx, env, "slept")
		}
		return env.Orders.Fetch(ctx, other, model)
	}
	step := func(ctx context.Context, env kit.Env) error {
		v, err := env.View.Current(ctx)
		if err != nil {
			return err
		}
		members := v.Fleet.Members()
		other := members[slices.IndexFunc(members, func(m ring.Member) bool { return m.ID != env.Self.ID })].ID
		own, cancel := context.WithTimeout(ctx, 2*agenttest.Patience)
		defer cancel()
		for {
			select {
			case what := <-plan:
				clock.sleep(time.Minute)
				err := try(own, env, what, other)
				tried <- outcome{what, err}
				if err != nil {
					return err
				}
				continue
			default:
			}
			if err := publish(own, env, "control"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		}
	}
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Agent: func(name string, o *agent.Options) {
		if name == "c1" {
			o.Faults.Clock = clock
		}
	}, Specs: base(singleton("TRAINING_TRIGGER", func(ctx context.Context, env kit.Env) error {
		select {
		case <-begin:
			return step(ctx, env)
		case <-ctx.Done():
			return nil
		}
	}))})
	model = uploadModel(t, r, r.Node("c1"), 1)
	for _, what := range []string{"note", "event", "order"} {
		plan <- what
	}
	close(begin)
	return r, model, tried
}

// holdersOf names the nodes that have a receipt for the bytes.
func holdersOf(ctx context.Context, r *agenttest.Ring, d id.Digest) ([]string, error) {
	var a api.Artifacts
	if err := r.Node("c1").Client().Get(ctx, "/api/v1/artifacts/"+string(d), nil, &a); err != nil || len(a.Artifacts) != 1 {
		return nil, fmt.Errorf("%d artifacts: %w", len(a.Artifacts), err)
	}
	return a.Artifacts[0].Holders, nil
}
