package agent_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/ring"
)

// One of five voters is gone for good, and the sixth core node votes in its place: the ring can lose two again.
func TestLostVoterIsReplacedByTheSixth(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 6, Specs: base(), Settings: func(s *ring.Settings) { s.Voters = 5 }})
	ask := func(ctx context.Context, but string) (l api.Leader, err error) {
		for _, n := range r.Up() {
			if n.Name == but {
				continue
			}
			if err = n.Client().Get(ctx, "/api/v1/leader", nil, &l); err == nil && l.Coordinator != nil {
				return l, nil
			}
		}
		return l, fmt.Errorf("nobody knows a coordinator: %w", err)
	}
	var lost, spare *agenttest.Node
	r.Until("five voters", func(ctx context.Context) error {
		l, err := ask(ctx, "")
		if err != nil {
			return err
		}
		if len(l.Voters) != 5 || l.FailureTolerance != 2 {
			return fmt.Errorf("voters %v, failure tolerance %d", l.Voters, l.FailureTolerance)
		}
		for _, n := range r.Nodes() {
			switch {
			case !slices.Contains(l.Voters, n.Name):
				spare = n
			case n.Name != *l.Coordinator:
				lost = n
			}
		}
		return nil
	})
	lost.Kill()
	r.UntilIn(60*time.Second, spare.Name+" to vote in the place of "+lost.Name, func(ctx context.Context) error {
		l, err := ask(ctx, lost.Name)
		if err != nil {
			return err
		}
		if len(l.Voters) < 5 {
			t.Fatalf("voters %v: the ring gave a place up before it had another", l.Voters)
		}
		if slices.Contains(l.Voters, lost.Name) || !slices.Contains(l.Voters, spare.Name) || l.FailureTolerance != 2 {
			return fmt.Errorf("voters %v, failure tolerance %d", l.Voters, l.FailureTolerance)
		}
		return nil
	})
}
