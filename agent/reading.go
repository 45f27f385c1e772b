package agent

import (
	"context"
	"slices"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
)

// near is this node's copy as it is. A voter that has just started has an empty one, or a part of it, which says nothing of the
// ring: what is shown of it, somebody has to look at fresh.Known for.
func (a *Agent) near() reading {
	f := a.leader.Freshness() // first: what was known then is in the view
	return reading{a.leader.View(), f, a.roster}
}

// heardWait is for how long a read waits for the first word of a coordinator. One that restarts alone elects itself meanwhile.
const heardWait = 3 * time.Second

// read is the view that answers are made of: the near copy, or on a node that holds no whole state the coordinator's. A core node
// that has heard no coordinator since it started waits for one a little, and then says so: it knows nothing of the ring, which is
// not to say that there is nothing.
func (a *Agent) read(ctx context.Context) (reading, error) {
	if a.node.Class != id.Core {
		r, err := a.confirmed(ctx)
		return r, decided(err)
	}
	if r := a.near(); r.fresh.Known {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, heardWait)
	defer cancel()
	r, err := a.confirmed(ctx)
	if err == nil {
		return r, nil
	}
	if e := api.AsError(decided(err)); e.Code != api.CodeNoQuorum && e.Code != api.CodeTimeout {
		return r, e
	}
	return r, unknownState()
}

// unknownState is the answer of a core node that cannot know.
func unknownState() *api.Error {
	return api.Errorf(api.CodeNoQuorum, "no coordinator was heard since this node started, so the state of the ring is not known here").
		WithHint("a majority of the voters must be up; see: ringagent leader; a core node that has run longer may know more")
}

// confirmed is a reading as new as the coordinator's.
func (a *Agent) confirmed(ctx context.Context) (reading, error) {
	asked := time.Now()
	s, err := a.leader.Read(ctx)
	if err != nil {
		return reading{}, err
	}
	return reading{s, known(a.leader.Freshness(), asked), a.roster}, nil
}

// known is what a state is worth that a coordinator has shown to be current at a moment: the node's own copy may be older.
func known(f leader.Freshness, at time.Time) leader.Freshness {
	f.Known = true
	if f.AsOf.Before(at) {
		f.AsOf = at
	}
	return f
}

// newest is a reading as new as the coordinator's, or the one at hand where nobody coordinates.
func (a *Agent) newest(ctx context.Context, at reading) reading {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if r, err := a.confirmed(ctx); err == nil {
		return r
	}
	return at
}

func (a *Agent) asOf(r reading) api.AsOf {
	s, _ := r.s.Settings()
	return r.asOf(time.Now(), s.Timing.Times().HealthExpires)
}

// asOfWith is asOf where it is known whether there is a coordinator: without one every view is as old as its last word.
func (a *Agent) asOfWith(r reading, st leader.Stats) api.AsOf {
	out := a.asOf(r)
	if st.Coordinator == nil && out.AsOf.IsZero() {
		out.AsOf = api.ConfirmedAt(r.fresh.AsOf)
	}
	return out
}

// find is the node that a person means. Where the state is not known, the roster that this node knew last must do.
func (a *Agent) find(who string) (ring.Member, error) {
	r := a.near()
	if r.fresh.Known {
		return r.find(who)
	}
	m, ok := writtenDown(a.roster.file().Members, who)
	if !ok {
		return m, unknownState()
	}
	return m, nil
}

// belonging is the roster; where the state is not known, as this node knew it last.
func (a *Agent) belonging(r reading) []ring.Member {
	if r.fresh.Known {
		return slices.Collect(r.s.Members())
	}
	return a.roster.file().Members
}
