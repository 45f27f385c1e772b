package kit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Spread brings artifacts to the nodes that should hold them, late joiners too, and states once per artifact and set of
// nodes that they do. Who holds what is the state's receipts, never what this daemon believes to have sent.
type Spread struct {
	Wake    []event.Type
	Wants   func(v View) []Want // pure
	Courier *Courier            // nil: the defaults
	// Done makes the event that says that every live target holds the artifact; ok grows, missing are those not live.
	Done func(w Want, ok, missing []id.Node) Statement
	// Failed makes the event for a live target that failed Patience times in a row, once. Nil: none.
	Failed   func(w Want, n id.Node, attempts int, err error) Statement
	Patience int // default 4
}

// Want is one artifact and the nodes that should hold it.
type Want struct {
	Ledger  string // note in which is kept who was reported; the config as a rule
	Key     string // in that note; a new version has a new key
	Digest  id.Digest
	Config  id.Config
	Version uint64
	Targets []id.Node // live nodes
	Absent  []id.Node // nodes that should hold it and are not live now
}

// NewSpread makes a daemon of s.
func NewSpread(env Env, s Spread) Daemon {
	if s.Courier == nil {
		s.Courier = &Courier{}
	}
	if s.Courier.Orders == nil {
		s.Courier.Orders = env.Orders
	}
	if s.Patience <= 0 {
		s.Patience = 4
	}
	s.Courier = NewCourier(s.Courier)
	x := &spread{Spread: s, now: env.Now, views: env.View, do: Executor{env.Self, env.Effects, env.Events}, told: map[Delivery]bool{}}
	inner := NewLoop(env, Loop{Step: x.step, Wake: s.Wake, Poke: s.Courier.Poked()})
	return Run(func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		err := inner.Run(ctx)
		cancel()
		s.Courier.Wait()
		return err
	})
}

type spread struct {
	Spread
	now   func() time.Time
	views Views
	do    Executor
	told  map[Delivery]bool // failures that were stated
}

type ledger map[string][]id.Node // want key → nodes reported

func (s *spread) step(ctx context.Context) error {
	v, err := s.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	wants := s.Wants(v)
	var due []Delivery
	open := map[Delivery]bool{}
	for _, w := range wants {
		a, known := v.Library.Artifact(w.Digest)
		for _, n := range w.Targets {
			if known && !a.Held(n) {
				d := Delivery{w.Digest, n}
				due = append(due, d)
				open[d] = true
			}
		}
	}
	s.Courier.Want(ctx, due, s.now())
	for d := range s.told {
		if !open[d] {
			delete(s.told, d)
		}
	}
	plan, err := s.report(v, wants)
	if err != nil {
		return err
	}
	return s.do.Do(ctx, plan)
}

// mostMissing is how many nodes an event names that lack what was distributed: machines that vanished stay in the roster.
const mostMissing = 50

// report says what is to be stated now: completions by way of the ledger, failures once each.
func (s *spread) report(v View, wants []Want) (Plan, error) {
	var plan Plan
	groups := map[string][]Want{}
	var order []string
	for _, w := range wants {
		if _, ok := groups[w.Ledger]; !ok {
			order = append(order, w.Ledger)
		}
		groups[w.Ledger] = append(groups[w.Ledger], w)
	}
	for _, name := range order {
		old, err := ReadNote[ledger](v.Notes, name)
		if err != nil {
			return plan, err
		}
		fresh := ledger{}
		var events []Statement
		for _, w := range groups[name] {
			if reported, ok := old[w.Key]; ok {
				fresh[w.Key] = reported
			}
			a, known := v.Library.Artifact(w.Digest)
			if !known || len(w.Targets) == 0 {
				continue
			}
			ok, lacking := split(a, w.Targets)
			for _, n := range lacking {
				d := Delivery{w.Digest, n}
				fails, err := s.Courier.Failures(d)
				if fails >= s.Patience && s.Failed != nil && !s.told[d] {
					s.told[d] = true
					plan.Events = append(plan.Events, s.Failed(w, n, fails, err))
				}
			}
			if len(lacking) > 0 || !grown(ok, old[w.Key]) {
				continue
			}
			missing := slices.DeleteFunc(slices.Clone(w.Absent), a.Held)
			missing = missing[:min(len(missing), mostMissing)]
			fresh[w.Key] = union(ok, old[w.Key])
			events = append(events, s.Done(w, ok, missing))
		}
		if len(events) > 0 {
			plan.Notes = append(plan.Notes, NoteChange{Key: name, Value: fresh, Events: events})
		}
	}
	return plan, nil
}

func split(a ring.Artifact, nodes []id.Node) (held, lacking []id.Node) {
	for _, n := range nodes {
		if a.Held(n) {
			held = append(held, n)
		} else {
			lacking = append(lacking, n)
		}
	}
	return held, lacking
}

func grown(now, before []id.Node) bool {
	return slices.ContainsFunc(now, func(n id.Node) bool { return !slices.Contains(before, n) })
}

func union(a, b []id.Node) []id.Node {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// ChooseHolders picks up to n more nodes for copies of a, so that with those that count already there are n in different
// failure domains and at least one of them on a core node. Self never counts when it is an edge node: what it has played
// dies with it. Ties are broken by the artifact's digest, so that the load spreads. Short is how many copies the ring, as
// it is, cannot give.
func ChooseHolders(members []ring.Member, a ring.Artifact, self id.Node, n int, avoid func(id.Node) bool) (targets []id.Node, short int) {
	domains, core := map[string]bool{}, false
	var pool []ring.Member
	for _, m := range members {
		counts := m.ID != self || m.Class == id.Core
		if m.Revoked || m.Status == ring.Left || m.Status == ring.Failed {
			continue
		}
		switch {
		case a.Held(m.ID):
			if counts {
				domains[m.Domain()] = true
				core = core || m.Class == id.Core
			}
		case counts && m.ID != self && m.Live() && (avoid == nil || !avoid(m.ID)):
			pool = append(pool, m)
		}
	}
	rank := func(m ring.Member) string { return string(id.DigestOf([]byte(string(a.Digest) + string(m.ID)))) }
	slices.SortFunc(pool, func(x, y ring.Member) int {
		if x.Class != y.Class {
			if x.Class == id.Core {
				return -1
			}
			return 1
		}
		if rank(x) < rank(y) {
			return -1
		}
		return 1
	})
	for _, m := range pool {
		if len(domains) >= n && core {
			break
		}
		if domains[m.Domain()] || (len(domains) >= n && m.Class != id.Core) {
			continue
		}
		targets = append(targets, m.ID)
		domains[m.Domain()] = true
		core = core || m.Class == id.Core
	}
	return targets, max(0, n-len(domains))
}

// Copies counts the copies of a that count for self's promise: one a failure domain, an edge node's own not at all; core
// says whether one of them is on a core node. Copies on nodes that left or failed do not count.
func Copies(members []ring.Member, a ring.Artifact, self id.Node) (n int, core bool) {
	domains := map[string]bool{}
	for _, m := range members {
		if !a.Held(m.ID) || m.Revoked || m.Status == ring.Left || m.Status == ring.Failed {
			continue
		}
		if m.ID == self && m.Class != id.Core {
			continue
		}
		domains[m.Domain()] = true
		core = core || m.Class == id.Core
	}
	return len(domains), core
}
