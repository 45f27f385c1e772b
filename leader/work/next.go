package work

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// View is what the choice reads; *state.State is one.
type View interface {
	WorkItems() iter.Seq[ring.WorkItem]
	Member(id.Node) (ring.Member, bool)
	Members() iter.Seq[ring.Member]
	Artifact(id.Digest) (ring.Artifact, bool)
	Name(key string) (ring.Name, bool)
}

// Offer is what a node has to give.
type Offer struct {
	Node  id.Node
	Boot  id.Boot
	Free  ring.Slots // of its own ledger, now
	Types []string   // stages that it can run; empty = all
	// Configs are those that it can run; empty = all. What waits of a config that the ring's settings name no more would
	// else be given to one node after the other, and each would take itself for the cause.
	Configs []id.Config
	Holds   func(id.Digest) bool // bytes that it has, which makes an item cheaper; nil = unknown
	Now     time.Time            // the coordinator's clock; must be what the claim's command is stamped with, or earlier
	// Weights are the shares of (config, type) pairs under contention; a missing one counts 1, one of 0 or less gets work
	// only when nothing else fits.
	Weights map[Share]float64
	// Skip are items that must not be chosen, such as those that other nodes are being given at this moment.
	Skip func(workID string) bool
}

// Share is what fairness is measured over.
type Share struct {
	Config id.Config
	Type   string
}

// Types of work whose inputs depend on the champion of the moment.
const (
	selfplay = "selfplay"
	train    = "train"
	evaluate = "evaluate"
)

// Next is the item that o's node should claim, with all inputs as they are to be fixed in the claim, or ok = false.
//
// Among the items that fit, higher priority goes first; at equal priority the (config, type) that has the smallest share of
// running slots for its weight, then the item whose inputs the node holds most of, then the oldest. A node whose attempt at
// an item failed does not get it again while another live node could run it.
func Next(v View, o Offer) (item ring.WorkItem, inputs []ring.Input, ok bool) {
	m, known := v.Member(o.Node)
	if !known || !m.Live() || m.Boot != o.Boot {
		return ring.WorkItem{}, nil, false
	}
	load := running(v)
	var best candidate
	for w := range v.WorkItems() {
		if !fits(v, o, w) {
			continue
		}
		in, resolved := Resolve(v, w)
		if !resolved {
			continue
		}
		c := candidate{item: w, inputs: in, load: load.of(o, w), held: held(o, in)}
		if !ok || c.before(best) {
			best, ok = c, true
		}
	}
	return best.item, best.inputs, ok
}

type candidate struct {
	item   ring.WorkItem
	inputs []ring.Input
	load   float64
	held   int
}

// before says that c is the better choice than an older b.
func (c candidate) before(b candidate) bool {
	return cmp.Or(
		cmp.Compare(b.item.Priority, c.item.Priority),
		cmp.Compare(c.load, b.load),
		cmp.Compare(b.held, c.held),
	) < 0
}

func fits(v View, o Offer, w ring.WorkItem) bool {
	switch {
	case w.State != ring.WorkPending,
		len(o.Types) > 0 && !slices.Contains(o.Types, w.Type),
		len(o.Configs) > 0 && w.Config != "" && !slices.Contains(o.Configs, w.Config),
		!o.Free.Fits(w.Needs),
		o.Now.Before(w.NotBefore),
		!w.Deadline.IsZero() && !o.Now.Before(w.Deadline),
		o.Skip != nil && o.Skip(w.ID):
		return false
	}
	return !slices.Contains(w.FailedOn, o.Node) || !others(v, o.Node, w)
}

// others says whether a live node on which the item has not failed could run it.
func others(v View, but id.Node, w ring.WorkItem) bool {
	for m := range v.Members() {
		if m.ID != but && m.Live() && m.Slots.Fits(w.Needs) && !slices.Contains(w.FailedOn, m.ID) {
			return true
		}
	}
	return false
}

type loads map[Share]float64

// running is what the claimed items of each share use, in CPU-like units: a GPU counts as much as eight threads.
func running(v View) loads {
	l := loads{}
	for w := range v.WorkItems() {
		if w.State == ring.WorkClaimed || w.State == ring.WorkRunning {
			l[shareOf(w)] += cost(w.Needs)
		}
	}
	return l
}

func shareOf(w ring.WorkItem) Share { return Share{w.Config, w.Type} }

func cost(s ring.Slots) float64 { return max(1, float64(s.CPU)+8*float64(s.GPU)) }

// of is the load of an item's share per weight.
func (l loads) of(o Offer, w ring.WorkItem) float64 {
	weight, ok := o.Weights[shareOf(w)]
	if !ok {
		weight = 1
	}
	if weight <= 0 {
		return 1e18 + l[shareOf(w)]
	}
	return l[shareOf(w)] / weight
}

func held(o Offer, inputs []ring.Input) int {
	if o.Holds == nil {
		return 0
	}
	n := 0
	for _, in := range inputs {
		if o.Holds(in.Digest) {
			n++
		}
	}
	return n
}

// Resolve is an item's inputs as a claim now would fix them: those it was added with, and the champion where the stage
// wants one and has none: self-play as "model", training and evaluation as "champion". ok is false while an input is
// unknown or nobody who could give it holds it, since the run could only fail.
func Resolve(v View, w ring.WorkItem) (inputs []ring.Input, ok bool) {
	inputs = slices.Clone(w.Inputs)
	role := ""
	switch w.Type {
	case selfplay:
		role = "model"
	case train, evaluate:
		role = "champion"
	}
	if role != "" && !slices.ContainsFunc(inputs, func(in ring.Input) bool { return in.Role == role }) {
		if n, found := v.Name(ring.ModelName(w.Config)); found {
			inputs = append(inputs, ring.Input{Role: role, Digest: n.Digest})
		}
	}
	for _, in := range inputs {
		if !available(v, in.Digest) {
			return nil, false
		}
	}
	return inputs, true
}

// available says whether somebody who could give them holds the bytes.
func available(v View, d id.Digest) bool {
	a, known := v.Artifact(d)
	return known && slices.ContainsFunc(a.Holders, func(n id.Node) bool {
		m, ok := v.Member(n)
		return ok && m.Serves()
	})
}

// Beat is when the coordinator, by its own monotonic clock, last heard from a claim.
type Beat map[string]time.Time // by claim id

// Over is a claim that has run out.
type Over struct {
	Work   string
	Claim  string
	Reason string
}

// Expired is the claims whose lease has passed since their last heartbeat. A claim without one is not judged: a new
// coordinator first gives each claim one full lease by entering it into the beats with its own time (see Adopt).
func Expired(v View, beats Beat, now time.Time) []Over {
	var out []Over
	for w := range v.WorkItems() {
		if w.State != ring.WorkClaimed && w.State != ring.WorkRunning {
			continue
		}
		last, heard := beats[w.Claim.ID]
		if heard && now.Sub(last) > time.Duration(w.Claim.Lease) {
			out = append(out, Over{w.ID, w.Claim.ID, "claim was not renewed within its lease"})
		}
	}
	return out
}

// Adopt is beats for exactly the live claims of v: known ones keep their time, new ones get now.
func Adopt(v View, beats Beat, now time.Time) Beat {
	out := Beat{}
	for w := range v.WorkItems() {
		if w.State != ring.WorkClaimed && w.State != ring.WorkRunning {
			continue
		}
		out[w.Claim.ID] = now
		if t, ok := beats[w.Claim.ID]; ok {
			out[w.Claim.ID] = t
		}
	}
	return out
}

// Overdue is the pending items whose deadline has passed, for the coordinator to cancel.
func Overdue(v View, now time.Time) []string {
	var out []string
	for w := range v.WorkItems() {
		if w.State == ring.WorkPending && !w.Deadline.IsZero() && !now.Before(w.Deadline) {
			out = append(out, w.ID)
		}
	}
	return out
}

// Shares is the (config, type) pairs that have pending items, in order, for whoever shows or weighs them.
func Shares(v View) []Share {
	set := map[Share]bool{}
	for w := range v.WorkItems() {
		if w.State == ring.WorkPending {
			set[shareOf(w)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b Share) int {
		return cmp.Or(cmp.Compare(a.Config, b.Config), cmp.Compare(a.Type, b.Type))
	})
}
