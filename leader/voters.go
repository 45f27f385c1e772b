package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// pairDead is how long two of five voters must be gone before they are removed without substitutes.
const pairDead = 10 * time.Minute

// roll is what the planner of voters sees.
type roll struct {
	Self   id.Node
	Target int // of voters: 1, 3 or 5
	Dead   time.Duration
	Stable time.Duration
	Seats  []chair   // who is in Raft's configuration
	Spares []id.Node // live core nodes that are not
}

// chair is a server in Raft's configuration.
type chair struct {
	Node   id.Node
	Voter  bool
	Domain string
	// Silent is how long it has given no sign of life.
	Silent time.Duration
	// Gone says that it left, was revoked or is no core node any more.
	Gone bool
	// Ready is how long a non-voter has been caught up, with its event replica complete.
	Ready time.Duration
}

type changeKind string

const (
	addNonvoter changeKind = "add"
	promote     changeKind = "promote"
	remove      changeKind = "remove"
)

// change is one step; the steps of a plan are made in order, and the plan is made anew after a failure.
type change struct {
	Kind changeKind
	Node id.Node
}

// planVoters says what to change. A ring rests at 1, 3 or 5 voters: promotions that would leave an even number come in
// pairs, a dead voter goes in the step after its substitute came, and a ring that was interrupted at an even number is
// brought on. It never removes whom the majority of the remaining voters would miss.
func planVoters(r roll) []change {
	var plan []change
	for _, n := range r.Spares {
		plan = append(plan, change{addNonvoter, n})
	}
	var voters, dead, ready []chair
	for _, c := range r.Seats {
		lost := c.Gone || c.Silent >= r.Dead
		switch {
		case c.Voter:
			voters = append(voters, c)
			if lost && c.Node != r.Self {
				dead = append(dead, c)
			}
		case lost:
			plan = append(plan, change{remove, c.Node})
		case c.Ready >= r.Stable && c.Silent < r.Dead:
			ready = append(ready, c)
		}
	}
	target := r.Target
	if len(voters) >= 3 { // never below once there
		target = max(target, 3)
	}
	// Those who left go before those who are only silent, and those before whoever has been silent for a shorter time.
	slices.SortFunc(dead, func(a, b chair) int {
		return cmp.Or(-boolInt(a.Gone, b.Gone), -cmp.Compare(a.Silent, b.Silent), cmp.Compare(a.Node, b.Node))
	})
	keep := slices.DeleteFunc(slices.Clone(voters), func(c chair) bool {
		return slices.ContainsFunc(dead, func(d chair) bool { return d.Node == c.Node })
	})
	ready = spread(ready, keep)

	count := len(voters)
	take := func() { plan, ready, count = append(plan, change{promote, ready[0].Node}), ready[1:], count+1 }
	drop := func() { plan, dead, count = append(plan, change{remove, dead[0].Node}), dead[1:], count-1 }

	for len(dead) > 0 && len(ready) > 0 && count <= target+1 { // substitutes
		if count <= target {
			take()
		}
		drop()
	}
	if count%2 == 0 { // interrupted: on to the next odd number, up if there is somebody, else down
		switch {
		case len(ready) > 0 && count < target:
			take()
		case len(dead) > 0 && count-1 >= min(target, 3):
			drop()
		case count > target && len(dead) == 0:
			plan, count = append(plan, change{remove, leastNeeded(keep, r.Self)}), count-1
		}
	}
	for len(dead) == 0 && count+2 <= target && len(ready) >= 2 {
		take()
		take()
	}
	if len(ready) == 0 && len(dead) >= 2 && count == 5 && (dead[1].Gone || dead[1].Silent >= pairDead) {
		drop()
		drop()
	}
	if count%2 == 1 && count > target { // the settings want fewer: a pair, the dead first
		for range 2 {
			if len(dead) > 0 {
				drop()
				continue
			}
			a := leastNeeded(keep, r.Self)
			keep = slices.DeleteFunc(keep, func(c chair) bool { return c.Node == a })
			plan, count = append(plan, change{remove, a}), count-1
		}
	}
	return safe(plan, voters, dead)
}

// safe cuts the plan before the first removal after which the living voters would be no majority.
func safe(plan []change, voters, _ []chair) []change {
	alive := make(map[id.Node]bool)
	for _, v := range voters {
		alive[v.Node] = !v.Gone && v.Silent < 10*time.Second
	}
	for i, c := range plan {
		switch c.Kind {
		case promote:
			alive[c.Node] = true
		case remove:
			if _, voter := alive[c.Node]; !voter {
				continue
			}
			delete(alive, c.Node)
		}
		n := 0
		for _, a := range alive {
			if a {
				n++
			}
		}
		if c.Kind == remove && n < len(alive)/2+1 {
			return plan[:i]
		}
	}
	return plan
}

// spread orders candidates so that each one taken brings a failure domain that the voters before it lack, if any does.
func spread(ready, voters []chair) []chair {
	used := make(map[string]int)
	for _, v := range voters {
		used[v.Domain]++
	}
	rest := slices.Clone(ready)
	var out []chair
	for len(rest) > 0 {
		best := slices.MinFunc(rest, func(a, b chair) int {
			return cmp.Or(cmp.Compare(used[a.Domain], used[b.Domain]), cmp.Compare(a.Node, b.Node))
		})
		used[best.Domain]++
		out = append(out, best)
		rest = slices.DeleteFunc(rest, func(c chair) bool { return c.Node == best.Node })
	}
	return out
}

// leastNeeded is the voter, other than self, whose failure domain has most voters.
func leastNeeded(voters []chair, self id.Node) id.Node {
	used := make(map[string]int)
	for _, v := range voters {
		used[v.Domain]++
	}
	var best chair
	for _, v := range voters {
		if v.Node == self {
			continue
		}
		if best.Node == "" || cmp.Or(cmp.Compare(used[v.Domain], used[best.Domain]), cmp.Compare(v.Node, best.Node)) > 0 {
			best = v
		}
	}
	return best.Node
}

func boolInt(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
