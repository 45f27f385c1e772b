package leader

import (
	"context"
	"errors"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/place"
	"github.com/ringagent/ringagent/leader/state"
)

// Singleton is a cluster-scope daemon as the coordinator must know it.
type Singleton struct {
	Name string
	// Eligible says why a member must not run it; "" means that it may. Nil: core nodes may.
	Eligible func(ring.Member) string
	// Enabled says whether the ring's settings want it. Nil: always.
	Enabled func(ring.Settings) bool
}

func (s Singleton) may(m ring.Member) string {
	if s.Eligible != nil {
		return s.Eligible(m)
	}
	if m.Class != id.Core {
		return "class " + string(m.Class)
	}
	return ""
}

// assignEvery is how often leases are looked at; what changes in the state is looked at once it has.
const assignEvery = 250 * time.Millisecond

// runAssignments places singletons until the term ends.
func (t *term) runAssignments() {
	if t.n.cfg.Ports.Singletons == nil {
		return
	}
	t.every(assignEvery, func() {
		for _, s := range t.n.cfg.Ports.Singletons() {
			if err := t.assign(s); err != nil && t.ctx.Err() == nil {
				t.n.log.Warn().Err(err).Str("daemon", s.Name).Msg("assignment not made")
			}
		}
	})
}

// assign looks at one singleton and moves it if it must and may.
func (t *term) assign(d Singleton) error {
	s, times := t.n.machine.View(), t.n.times()
	a, _ := s.Assignment(d.Name)
	a.Daemon = d.Name
	settings, _ := s.Settings()
	wanted := !s.DaemonOff(d.Name) && (d.Enabled == nil || d.Enabled(settings))
	if !wanted {
		if a.Node == "" {
			return nil
		}
		t.leases.withdraw(d.Name)
		if !t.leases.take(s, a, times) {
			return nil
		}
		return t.give(a, place.Choice{Reason: "not wanted"}, times)
	}
	r := place.Request{Daemon: d.Name, May: d.may, Last: a}
	nodes := t.candidates(s, times)
	if a.Node != "" {
		m, ok := s.Member(a.Node)
		able := ok && r.Fit(place.Node{Member: m, Ready: true}) == "" && m.Boot == a.Boot
		runs := able && !t.leases.givenBack(a) && t.leases.heard(a.Node, a.Boot, times.Lease+times.Margin) &&
			!t.unreached(times.Lease + times.Margin)[a.Node]
		if runs && t.leases.keep(a, times) {
			return nil
		}
		if !able {
			t.leases.withdraw(d.Name)
		}
		if !runs { // else its lease ran out while it was not answered for: it may have the daemon again, under a new epoch
			r.But = a.Node
		}
	} else {
		r.Last.Node = t.leases.lastNode(d.Name)
	}
	if !t.leases.take(s, a, times) {
		return nil
	}
	c := place.Choose(r, nodes)
	if c.Node == "" && (a.Node != "" || a.Reason == c.Reason) {
		t.leases.release(d.Name) // nobody better: who has it may go on when it comes back
		return nil
	}
	return t.give(a, c, times)
}

// give commits a decision. The daemon was taken before, so that no renewal names it meanwhile.
func (t *term) give(a ring.Assignment, c place.Choice, times ring.Times) error {
	ctx, cancel := context.WithTimeout(t.ctx, proposeLimit)
	defer cancel()
	res, err := t.propose(ctx, t.command(state.KindAssign, state.Assign{
		Daemon: a.Daemon, Node: c.Node, Boot: c.Boot, Standby: c.Standby, Reason: c.Reason, Previous: a.Epoch,
	}))
	if errors.Is(err, ErrUnknownOutcome) {
		return err // the office is being lost, or the next look tells
	}
	if err != nil {
		t.leases.release(a.Daemon)
		return err
	}
	given, ok := res.Value.(ring.Assignment)
	if !ok {
		given = ring.Assignment{Daemon: a.Daemon}
	}
	t.leases.settle(given, times)
	t.tell(a, given, c.Reason)
	return nil
}

// tell logs what was decided about a singleton.
func (t *term) tell(was, is ring.Assignment, reason string) {
	line := t.n.log.Info().Str("daemon", was.Daemon).Uint64("epoch", uint64(is.Epoch)).Str("reason", reason)
	switch {
	case is.Node != "":
		line.Str("holder", string(is.Node)).Msg("singleton assigned")
	case was.Node != "":
		line.Str("holder", string(was.Node)).Msg("singleton taken away")
	default:
		line.Msg("singleton stays with nobody")
	}
}

func (t *term) candidates(s *state.State, times ring.Times) []place.Node {
	load := make(map[id.Node]int)
	for a := range s.Assignments() {
		load[a.Node]++
	}
	var out []place.Node
	gone := t.unreached(times.Lease)
	for m := range s.Members() {
		ready := t.leases.heard(m.ID, m.Boot, times.Lease) && !gone[m.ID]
		out = append(out, place.Node{Member: m, Load: load[m.ID], Ready: ready})
	}
	return out
}
