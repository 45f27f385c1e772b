package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// One handler fails twice and then succeeds, fails for ever, and blocks; each time the delivery goes on in order, what
// failed for good is a dead letter that can be retried, and another subscriber on the same node never waits.
func TestSickHandlers(t *testing.T) {
	t.Parallel()
	var sick, well book
	var failures, blocked atomic.Int32
	var cured atomic.Bool
	handle := func(ctx context.Context, r event.Record) error {
		switch text := textOf(r); {
		case text == "twice" && failures.Add(1) <= 2:
			return errors.New("not yet")
		case text == "ever" && !cured.Load():
			return errors.New("never")
		case text == "block" && blocked.Add(1) == 1:
			<-ctx.Done() // until the deadline
			return ctx.Err()
		default:
			sick.add("%s", text)
			return nil
		}
	}
	consume := func(h func(context.Context, event.Record) error) func(context.Context, kit.Env) error {
		return func(ctx context.Context, env kit.Env) error {
			return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: h})
		}
	}
	r := agenttest.Start(t, agenttest.Options{Specs: base(
		everywhere("TEST_SICK", consume(handle)),
		everywhere("TEST_WELL", consume(func(_ context.Context, r event.Record) error {
			well.add("%s", textOf(r))
			return nil
		})),
	)})
	n := r.Node("c1")
	order := []string{"a", "twice", "b", "block", "c", "ever", "d"}
	for _, text := range order {
		mustNote(t, r, n, text)
	}
	r.UntilIn(5*time.Second, "the other subscriber has everything at once", func(context.Context) error {
		if got := well.list(); !slices.Equal(got, order) {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
	if got := sick.list(); slices.Contains(got, "d") {
		t.Errorf("the sick handler is through already: %v; the test shows nothing", got)
	}
	letters := func(ctx context.Context) ([]ring.DeadLetter, error) {
		var d api.DeadLetters
		err := n.Client().Get(ctx, "/api/v1/dlq", nil, &d)
		return d.DeadLetters, err
	}
	r.UntilIn(2*agenttest.Patience, "delivery goes on behind the dead letter", func(context.Context) error {
		if got := sick.list(); len(got) < len(order)-1 {
			return fmt.Errorf("handled %v", got)
		}
		return nil
	})
	if diff := cmp.Diff([]string{"a", "twice", "b", "block", "c", "d"}, sick.list()); diff != "" {
		t.Errorf("handled (-want +got):\n%s", diff)
	}
	ls, err := letters(t.Context())
	if err != nil || len(ls) != 1 || ls[0].Handler != "TEST_SICK" || ls[0].Attempts < 5 {
		t.Fatalf("dead letters %+v, %v; want one of TEST_SICK after 5 attempts", ls, err)
	}
	retry := "/api/v1/dlq/" + ls[0].ID + "/retry"
	if err := n.Client().Post(t.Context(), retry, struct{}{}, nil); err == nil {
		t.Error("a retry that failed again was reported as a success")
	}
	cured.Store(true)
	if err := n.Client().Post(t.Context(), retry, struct{}{}, nil); err != nil {
		t.Errorf("retry of a handler that is well: %v", err)
	}
	if ls, err := letters(t.Context()); err != nil || len(ls) != 0 {
		t.Errorf("dead letters after the retry: %+v, %v", ls, err)
	}
	if got := sick.list(); got[len(got)-1] != "ever" || len(got) != len(order) {
		t.Errorf("the retry delivered %v", got)
	}
	if got := well.list(); !slices.Equal(got, order) {
		t.Errorf("the other subscriber was given the retry too: %v", got)
	}
}

// A handler that does not return even when its deadline has passed costs its own daemon a restart: then delivery goes on with
// the same event, and the other subscriber has never waited.
func TestHandlerThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	var deafened, well book
	var caught atomic.Int32
	free := make(chan struct{})
	t.Cleanup(func() { close(free) })
	consume := func(h func(event.Record)) func(context.Context, kit.Env) error {
		return func(ctx context.Context, env kit.Env) error {
			return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(_ context.Context, r event.Record) error {
				h(r)
				return nil
			}})
		}
	}
	r := agenttest.Start(t, agenttest.Options{Specs: base(
		everywhere("TEST_DEAF", consume(func(r event.Record) {
			if textOf(r) == "trap" && caught.Add(1) == 1 {
				<-free // whatever its context says
				return
			}
			deafened.add("%s", textOf(r))
		})),
		everywhere("TEST_WELL", consume(func(r event.Record) { well.add("%s", textOf(r)) })),
	)})
	n := r.Node("c1")
	order := []string{"a", "trap", "b"}
	for _, text := range order {
		mustNote(t, r, n, text)
	}
	r.UntilIn(5*time.Second, "the other subscriber has everything at once", func(context.Context) error {
		if got := well.list(); !slices.Equal(got, order) {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
	if got := deafened.list(); slices.Contains(got, "b") {
		t.Errorf("the trapped subscriber is through already: %v; the test shows nothing", got)
	}
	r.UntilIn(2*agenttest.Patience, "delivery goes on", func(context.Context) error {
		if got := deafened.list(); !slices.Equal(got, order) {
			return fmt.Errorf("handled %v", got)
		}
		return nil
	})
	rows, err := daemonRows(t.Context(), n)
	if err != nil || rows["TEST_DEAF"].Restarts == 0 || rows["TEST_WELL"].Restarts != 0 {
		t.Errorf("restarts %d and %d, %v; want some and none", rows["TEST_DEAF"].Restarts, rows["TEST_WELL"].Restarts, err)
	}
	if got := well.list(); !slices.Equal(got, order) {
		t.Errorf("the other subscriber heard %v", got)
	}
}
