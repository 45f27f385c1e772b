package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
)

// A fresh core node of a ring whose log has been cut gets its state from a snapshot, which holds no event's body. It must
// have pulled all of them before it votes: the others may be lost any moment after.
func TestFreshVoterHasEveryEventBehindASnapshot(t *testing.T) {
	t.Parallel()
	if missing := votesBehindASnapshot(t, false); missing != "" {
		t.Fatal(missing)
	}
}

// The broken variant: a coordinator that asks nobody for his events.
func TestVoterWithoutEventsIsSeen(t *testing.T) {
	t.Parallel()
	if votesBehindASnapshot(t, true) == "" {
		t.Fatal("no node voted without its events: the test sees nothing")
	}
}

// votesBehindASnapshot says who voted without which events, "" if nobody did. While the fresh nodes are caught up with Raft they are
// kept from pulling for longer than it takes to become a voter.
func votesBehindASnapshot(t *testing.T, anyVoter bool) (missing string) {
	const notes, tail = 60, 8
	var held atomic.Bool
	held.Store(true)
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base(), Agent: func(name string, o *agent.Options) {
		o.Snapshots = leader.Snapshots{Entries: 16, Trailing: tail, Every: 50 * time.Millisecond}
		o.Faults.AnyVoter = anyVoter
		o.Faults.Fetch = func() error {
			if held.Load() && name != "c1" {
				return errors.New("held by the test")
			}
			return nil
		}
	}})
	c1 := r.Node("c1")
	for i := range notes {
		mustNote(t, r, c1, fmt.Sprintf("note-%d", i))
	}
	r.Until("the log to be cut behind the notes", func(context.Context) error { return cut(c1, notes-2*tail) })

	fresh := []*agenttest.Node{r.Add("c2", id.Core), r.Add("c3", id.Core)}
	// vote says whether both vote, and notes who does so without everything.
	vote := func(ctx context.Context) (both bool, err error) {
		var l api.Leader
		if err := c1.Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil {
			return false, err
		}
		both = true
		for _, n := range fresh {
			if !slices.Contains(l.Voters, n.Name) {
				both = false
				continue
			}
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			if err != nil {
				return false, err
			}
			if len(ls) != notes {
				missing = fmt.Sprintf("%s votes with %d of %d notes", n.Name, len(ls), notes)
			}
		}
		return both, nil
	}
	var caughtUp time.Time
	r.Until("the newcomers to be caught up for longer than a voter must be", func(ctx context.Context) error {
		if _, err := vote(ctx); err != nil || missing != "" {
			return err
		}
		for _, n := range fresh {
			if err := caught(ctx, c1, n); err != nil && caughtUp.IsZero() {
				return err
			}
			if ls, err := lines(ctx, n, "OPERATOR_NOTE"); err != nil || len(ls) > 2*tail {
				return fmt.Errorf("%s got %d notes without pulling: the log was not cut (%w)", n.Name, len(ls), err)
			}
		}
		if caughtUp.IsZero() {
			caughtUp = time.Now()
		}
		if since := time.Since(caughtUp); since < 6*time.Second {
			return fmt.Errorf("for %s", since.Truncate(time.Second))
		}
		return nil
	})
	if missing != "" {
		return missing
	}
	held.Store(false)
	r.Until("the newcomers to vote", func(ctx context.Context) error {
		both, err := vote(ctx)
		if err == nil && !both && missing == "" {
			err = errors.New("not yet")
		}
		return err
	})
	return missing
}

// cut says whether a snapshot lies behind so many entries; the library cuts the log as soon as it is written.
func cut(n *agenttest.Node, entries int) error {
	names, err := os.ReadDir(filepath.Join(n.Dir, "raft", "snapshots"))
	if err != nil {
		return err
	}
	for _, name := range names {
		var term, index, at int
		if _, err := fmt.Sscanf(name.Name(), "%d-%d-%d", &term, &index, &at); err == nil && index > entries && !strings.HasSuffix(name.Name(), ".tmp") {
			return nil
		}
	}
	return fmt.Errorf("%d snapshots, none behind %d entries", len(names), entries)
}

// caught says whether a core node in Raft's configuration has all that the coordinator has had a moment ago.
func caught(ctx context.Context, coordinator, n *agenttest.Node) error {
	var l api.Leader
	if err := coordinator.Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil {
		return err
	}
	if !slices.Contains(append(l.Nonvoters, l.Voters...), n.Name) {
		return fmt.Errorf("%s is not in the configuration", n.Name)
	}
	var all, own api.Members
	if err := coordinator.Client().Get(ctx, "/api/v1/members", nil, &all); err != nil {
		return err
	}
	if err := n.Client().Get(ctx, "/api/v1/members", nil, &own); err != nil {
		return err
	}
	if own.Index < all.Index {
		return fmt.Errorf("%s is at %d of %d", n.Name, own.Index, all.Index)
	}
	return nil
}
