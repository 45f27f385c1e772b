package evaluation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// Promotion is AUTO_PROMOTION.
func Promotion() kit.Spec {
	defaults := PromotionSettings{MinGames: kit.MinGames, ChampionGames: kit.MinGames, Champion: 0.55,
		First: map[string]Rates{"2": {0.85, 0.60}, "3": {0.65, 0.45}, "4": {0.60, 0.40}},
		Floor: map[string]Rates{"2": {0.70, 0.50}, "3": {0.50, 0.40}, "4": {0.45, 0.35}},
	}
	s := kit.Spec{
		Name: "AUTO_PROMOTION", Category: "evaluation", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Makes a candidate the champion when its stored matches pass every gate, and says which gate it failed otherwise.",
		DependsOn: []string{"EVENT_ROUTER", "EVALUATION"}, Every: 60 * time.Second, Settings: defaults,
		Deadline: 3 * fetchTime,
		Reads:    []event.Type{event.EvaluationCompleted.Type(), event.PipelineStageOverdue.Type()},
		Emits:    []event.Type{event.PromotionRejected.Type(), event.ModelPromoted.Type()},
	}
	// Whoever is cancelled because it reads the matches of months for the first time goes on from there when it is started again.
	book := rating.NewBook(rating.DefaultWords)
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		p := &promoter{set: set, book: book, self: env.Self, log: env.Log, now: env.Now, views: env.View, effects: env.Effects, store: env.Store,
			later:   map[id.Digest]putOff{},
			shunned: map[kit.Delivery]time.Time{},
			courier: kit.NewCourier(&kit.Courier{Orders: env.Orders, Parallel: 2, Limit: time.Minute})}
		decider := kit.NewDecider(env, kit.Decider{Types: s.Reads, Reconcile: p.step})
		return kit.Run(func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			err := decider.Run(ctx)
			cancel()
			p.courier.Wait()
			return err
		}), nil
	}
	return s
}

type promoter struct {
	set     PromotionSettings
	self    kit.Self
	log     zerolog.Logger
	now     func() time.Time
	views   kit.Views
	effects kit.Effects
	store   kit.Store
	book    *rating.Book // of all matches
	courier *kit.Courier // of matches
	later   map[id.Digest]putOff
	shunned map[kit.Delivery]time.Time // until when a node is not asked to keep a copy that it did not take
}

// putOff is until when a candidate is not looked at whose bytes could not be had.
type putOff struct {
	until time.Time
	pause time.Duration
}

const (
	// fetchTime is what a step gives to all that it has to fetch. What was half fetched is gone on with in a later one.
	fetchTime = time.Minute
	// A candidate has firstFetch of it at first. It leaves the time to others for as long as it took in vain, and for twice as long
	// each time; then it has a quarter of that.
	firstFetch = 15 * time.Second
	longestOff = 10 * time.Minute
)

// errNotHad marks what other nodes have and did not give: no failure of this daemon's, and no reason for others to wait.
var errNotHad = errors.New("cannot be had now")

func (p *promoter) step(ctx context.Context) error {
	v, err := p.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	now := p.now()
	maps.DeleteFunc(p.shunned, func(_ kit.Delivery, until time.Time) bool { return !now.Before(until) })
	maps.DeleteFunc(p.later, func(_ id.Digest, off putOff) bool { return now.Sub(off.until) > longestOff })
	fetching, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	var errs []error
	for _, c := range v.Ring.Configs {
		if err := p.config(ctx, fetching, v, c); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c, err))
		}
	}
	p.courier.Want(ctx, p.scarce(v), p.now())
	return errors.Join(errs...)
}

const (
	scarceMost  = 32 // copies of match files that are asked for at a time, besides those that failed before
	scarceTries = 3  // failures in a row before another node is chosen
	scarceLater = 10 * time.Minute
)

// shuns says that a node is passed over for a copy for a while: its disk may be full.
func (p *promoter) shuns(d kit.Delivery) bool {
	now := p.now()
	if fails, _ := p.courier.Failures(d); fails >= scarceTries {
		p.shunned[d] = now.Add(scarceLater)
	}
	return now.Before(p.shunned[d])
}

// scarce is which nodes should hold match files that have too few copies. All ratings rest on all matches, for ever: a file
// whose only copy is lost would leave those of its config unknown.
func (p *promoter) scarce(v kit.View) []kit.Delivery {
	var out []kit.Delivery
	members, copies := v.Fleet.Members(), v.Ring.CopiesOf(ring.KindMatches)
	room := scarceMost
	for _, c := range v.Ring.Configs {
		for _, a := range v.Library.Artifacts(ring.KindMatches, c) {
			if n, core := kit.Copies(members, a, ""); n >= copies && core || !served(v, a) {
				continue
			}
			targets, _ := kit.ChooseHolders(members, a, "", copies, func(n id.Node) bool { return p.shuns(kit.Delivery{Digest: a.Digest, Node: n}) })
			for _, n := range targets {
				d := kit.Delivery{Digest: a.Digest, Node: n}
				if fails, _ := p.courier.Failures(d); fails == 0 {
					room--
				}
				out = append(out, d)
			}
			if room <= 0 || len(out) >= 8*scarceMost {
				return out
			}
		}
	}
	return out
}

// config decides on the candidates of a config that are measured and have no verdict, in the order in which that was done: there may
// be more of them than the note keeps verdicts.
func (p *promoter) config(ctx, fetching context.Context, v kit.View, c id.Config) error {
	note := kit.DecidedNote + string(c)
	decided, err := kit.ReadNote[kit.Decided](v.Notes, note)
	if err != nil {
		return err
	}
	name, _ := v.Library.Name(ring.ModelName(c))
	var errs []error
	done := append(forgotten(v, c, name), v.Queue.Items(kit.StageEvaluate, c)...)
	slices.SortStableFunc(done, func(a, b ring.WorkItem) int { return a.Finished.Compare(b.Finished) })
	for _, w := range done {
		candidate, ok := kit.InputOf(w, kit.RoleCandidate)
		if !ok || w.State != ring.WorkDone || decided.Has(candidate, w.Finished) || p.waits(v, w, candidate, name) {
			continue
		}
		began := p.now()
		one, cancel := context.WithTimeout(fetching, max(firstFetch, p.later[candidate].pause/4))
		verdict, statements, moved, err := p.judge(ctx, one, v, w, candidate, name)
		cancel()
		if errors.Is(err, errNotHad) && ctx.Err() == nil {
			off := p.later[candidate]
			if took := p.now().Sub(began); took > time.Second { // what fails at once, as where the time is used up, costs nothing
				off.pause = min(longestOff, max(took, 2*off.pause))
			}
			off.until = p.now().Add(off.pause)
			p.later[candidate] = off
			p.log.Warn().Err(err).Str("candidate", candidate.Short()).Msg("not judged yet")
			continue
		}
		delete(p.later, candidate)
		if err != nil {
			// The next candidate may be judged all the same; this one stays open.
			errs = append(errs, fmt.Errorf("judge %s: %w", candidate.Short(), err))
			continue
		}
		name, verdict.Finished = moved, w.Finished
		decided = with(decided, candidate, verdict)
		if err := p.effects.PutNote(ctx, note, decided, statements...); err != nil {
			return errors.Join(append(errs, fmt.Errorf("keep verdict on %s: %w", candidate.Short(), err))...)
		}
	}
	return errors.Join(errs...)
}

// waits says that a candidate cannot be judged now because nobody who could give them has its matches or itself. Its machine may
// come back; until then it is no failure, and nobody dials for it.
func (p *promoter) waits(v kit.View, w ring.WorkItem, candidate id.Digest, name ring.Name) bool {
	if name.Digest == candidate || formerly(name, candidate) {
		return false
	}
	if p.now().Before(p.later[candidate].until) {
		return true
	}
	for _, d := range []id.Digest{candidate, outputOf(w)} {
		if a, known := v.Library.Artifact(d); known && !served(v, a) {
			p.log.Debug().Str("candidate", candidate.Short()).Str("artifact", d.Short()).Msg("not judged: nobody has it now")
			return true
		}
	}
	return false
}

func outputOf(w ring.WorkItem) id.Digest {
	d, _ := kit.OutputOf(w, ring.KindMatches)
	return d
}

// verdicts is how many verdicts the note keeps: well within its 16 KiB.
const verdicts = 72

// with adds a verdict and drops the one on the candidate that was measured first when there are too many. When the verdicts were
// given says nothing: many may have waited for theirs, and all of them were measured before the first is given.
func with(d kit.Decided, candidate id.Digest, v kit.Verdict) kit.Decided {
	out := kit.Decided{Before: d.Before, Verdicts: map[id.Digest]kit.Verdict{candidate: v}}
	maps.Copy(out.Verdicts, d.Verdicts)
	for len(out.Verdicts) > verdicts {
		drop := candidate
		for k, o := range out.Verdicts {
			if o.Order().Before(out.Verdicts[drop].Order()) {
				drop = k
			}
		}
		if past := out.Verdicts[drop].Order().Add(time.Nanosecond); past.After(out.Before) {
			out.Before = past
		}
		delete(out.Verdicts, drop)
	}
	return out
}

// judge measures a candidate and moves the name if it passed. The verdict is repeatable: a successor that finds the name
// moved already only writes the verdict down.
func (p *promoter) judge(ctx, fetching context.Context, v kit.View, w ring.WorkItem, candidate id.Digest, name ring.Name) (kit.Verdict, []kit.Statement, ring.Name, error) {
	if name.Digest == candidate || formerly(name, candidate) {
		return kit.Verdict{Promoted: true, At: p.now()}, nil, name, nil
	}
	stored, ok := kit.OutputOf(w, ring.KindMatches)
	var matches []rating.Match
	if ok {
		var err error
		if matches, err = p.matches(ctx, fetching, stored); err != nil {
			return kit.Verdict{}, nil, name, err
		}
	}
	for _, g := range p.set.gates(w.Config, candidate, name.Digest, matches) {
		if g.OK() {
			continue
		}
		p.log.Info().Str("candidate", candidate.Short()).Str("gate", g.Name).Float64("actual", g.Actual).Float64("threshold", g.Threshold).
			Msg("candidate rejected")
		return kit.Verdict{Gate: g.Name, At: p.now()}, []kit.Statement{{Type: event.PromotionRejected.Type(), Payload: kit.Stamp(p.self,
			event.Rejection{About: event.About{Config: w.Config}, Digest: candidate, Gate: g.Name, Actual: g.Actual, Threshold: g.Threshold})}}, name, nil
	}
	// The files that the ring names must not count it a second time, so it goes by the digest that they go by.
	own := rating.File{Digest: stored, Tally: p.book.Add(stored, matches), Matches: matches}
	moved, err := p.promote(ctx, fetching, v, w, candidate, name, own)
	if err != nil {
		return kit.Verdict{}, nil, name, err
	}
	return kit.Verdict{Promoted: true, At: p.now()}, nil, moved, nil
}

func (p *promoter) promote(ctx, fetching context.Context, v kit.View, w ring.WorkItem, candidate id.Digest, name ring.Name, own rating.File) (ring.Name, error) {
	if err := p.secure(ctx, fetching, v, candidate); err != nil {
		return name, fmt.Errorf("get the model: %w", err)
	}
	ratings := p.rate(ctx, v, w.Config, own)
	elo := ratings[string(candidate)].Elo
	promoted := event.Promotion{About: event.About{Config: w.Config}, Version: name.Version + 1, Digest: candidate, Elo: elo}
	if name.Version > 0 {
		previous := name.Digest
		promoted.Previous = &previous
		if r, ok := ratings[string(previous)]; ok {
			delta := elo - r.Elo
			promoted.Delta = &delta
		}
	}
	moved, err := p.effects.SetName(ctx, ring.ModelName(w.Config), name.Version, candidate,
		map[string]float64{"elo": elo, "games": float64(ratings[string(candidate)].Games)},
		kit.Statement{Type: event.ModelPromoted.Type(), Payload: kit.Stamp(p.self, promoted)})
	if err != nil {
		return name, fmt.Errorf("set name: %w", err)
	}
	p.log.Info().Str("model", candidate.Short()).Uint64("version", moved.Version).Float64("elo", elo).Msg("promoted")
	return moved, nil
}

// secure sees to it that a core node has the model: the name is what everybody plays with and trains from, and never points to bytes
// that one rented machine has. A copy here is hashed now, so that one that was altered since it was measured does not get the name.
// Of a copy on another core node the receipt is believed: to fetch it first may take as long as it likes on a slow link, or have no
// room here. Should it be altered, and be the only one, that is found out when it is used.
func (p *promoter) secure(ctx, fetching context.Context, v kit.View, d id.Digest) error {
	if _, here := p.store.Path(d); here {
		err := p.store.Verify(ctx, d)
		if err == nil {
			return nil
		}
		if _, still := p.store.Path(d); still { // not damaged, but this machine cannot read it
			return fmt.Errorf("check it: %w", err)
		}
		p.log.Warn().Err(err).Str("model", d.Short()).Msg("the copy of a candidate here is no good")
	}
	if p.onOtherCore(v, d) {
		return nil
	}
	_, err := p.ensure(ctx, fetching, d)
	return err
}

// onOtherCore says that another core node that can serve it has an artifact.
func (p *promoter) onOtherCore(v kit.View, d id.Digest) bool {
	a, _ := v.Library.Artifact(d)
	return slices.ContainsFunc(a.Holders, func(n id.Node) bool {
		m, ok := v.Fleet.Member(n)
		return ok && n != p.self.ID && m.Class == id.Core && m.Serves()
	})
}

func formerly(n ring.Name, d id.Digest) bool {
	for _, h := range n.History {
		if h.Digest == d {
			return true
		}
	}
	return false
}
