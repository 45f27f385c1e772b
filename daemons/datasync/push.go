package datasync

import (
	"context"
	"fmt"
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func (g *gatherer) artifact(p packed) ring.Artifact {
	return ring.Artifact{Digest: p.Digest, Kind: ring.KindPack, Config: p.Config, Bytes: p.Bytes, Created: p.Made, Origin: g.self.ID,
		Holders: []id.Node{g.self.ID}, Counters: map[string]int64{kit.CounterGames: p.count()}}
}

// push makes pending packs known, has them copied, and settles those whose receipts are there.
func (g *gatherer) push(ctx context.Context) error {
	pending := g.books.pending()
	if len(pending) == 0 {
		g.courier.Want(ctx, nil, g.now())
		return nil
	}
	named := make([]id.Digest, 0, len(pending)) // a look that got no answer is no proof that nobody has a pack
	for _, p := range pending {
		named = append(named, p.Digest)
	}
	v, err := g.views.Current(ctx, named...)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	g.notice(v)
	var unknown []ring.Artifact
	for _, p := range pending {
		if _, ok := v.Library.Artifact(p.Digest); ok {
			continue
		}
		if _, here := g.store.Path(p.Digest); here { // a receipt is for what is here
			unknown = append(unknown, g.artifact(p))
		}
	}
	if len(unknown) > 0 {
		if err := g.effects.AddArtifacts(ctx, unknown...); err != nil {
			return fmt.Errorf("make packs known: %w", err)
		}
		if v, err = g.views.Current(ctx, named...); err != nil {
			return fmt.Errorf("read state: %w", err)
		}
	}
	var wanted []kit.Delivery
	var again []ring.Artifact
	short := false
	members := v.Fleet.Members()
	copies := v.Ring.CopiesOf(ring.KindPack)
	for _, p := range pending {
		a, ok := v.Library.Artifact(p.Digest)
		if ok && a.Joined != "" { // it had its receipts, and another pack has its games by now
			if err := g.settle(ctx, v, p, a); err != nil {
				return err
			}
			continue
		}
		_, here := g.store.Path(p.Digest)
		others := slices.DeleteFunc(slices.Clone(a.Holders), func(n id.Node) bool { return n == g.self.ID })
		if !here && len(others) == 0 {
			if err := g.packAgain(p); err != nil {
				return err
			}
			continue
		}
		if !ok {
			continue
		}
		announced := g.artifact(p)
		if !here { // a receipt is for what is here
			announced.Holders = others
		}
		if here && !a.Held(g.self.ID) { // it was taken back while the bytes were damaged
			again = append(again, announced)
		}
		need := min(copies, potential(members, g.self.ID))
		short = short || need < copies
		if n, core := kit.Copies(members, a, g.self.ID); n >= max(1, need) && core {
			if !a.Safe {
				// The ring has become smaller since the last receipt. Until the state agrees the games count as unsynced, or they
				// would count as nothing. A rented node speaks for its own copy only, and waits until that is back.
				if here || g.self.Class == id.Core {
					again = append(again, announced)
				}
				continue
			}
			if err := g.settle(ctx, v, p, a); err != nil {
				return err
			}
			continue
		}
		g.complain(ctx, members, p)
		targets, _ := kit.ChooseHolders(members, a, g.self.ID, copies, func(n id.Node) bool {
			return g.now().Before(g.shunned[kit.Delivery{Digest: p.Digest, Node: n}])
		})
		if len(targets) == 0 {
			// Everybody has failed: everybody is tried again.
			targets, _ = kit.ChooseHolders(members, a, g.self.ID, copies, nil)
		}
		for _, n := range targets {
			wanted = append(wanted, kit.Delivery{Digest: p.Digest, Node: n})
		}
	}
	g.gauge("copies_short", map[bool]float64{true: 1}[short])
	g.courier.Want(ctx, wanted, g.now())
	if len(again) > 0 { // last: nothing else waits for it
		if err := g.effects.AddArtifacts(ctx, again...); err != nil {
			return fmt.Errorf("have packs judged again: %w", err)
		}
	}
	return nil
}

// packAgain strikes out a pack that got lost before anybody else had it: its games are packed anew from the jobs. Those of
// jobs that are gone are nowhere any more, and stay unsynced.
func (g *gatherer) packAgain(p packed) error {
	gone := p.Games[released]
	switch {
	case len(gone) == 0:
		g.log.Warn().Str("pack", p.Digest.Short()).Msg("a pack got lost before it was copied; its games are packed again")
		return g.books.drop(p.Digest)
	case len(p.Games) == 1:
		return nil
	}
	g.log.Error().Str("pack", p.Digest.Short()).Int("games", len(gone)).Msg("a pack got lost before it was copied, with games of jobs that are gone")
	p.Games = map[string][]string{released: gone}
	return g.books.add(p)
}

// potential is how many copies the ring can have at all, in different failure domains, with the nodes that are down.
func potential(members []ring.Member, self id.Node) int {
	domains := map[string]bool{}
	for _, m := range members {
		if !m.Revoked && m.Status != ring.Left && (m.ID != self || m.Class == id.Core) {
			domains[m.Domain()] = true
		}
	}
	return len(domains)
}

// complain states that a transfer does not succeed, and shuns the target for a while so that another one is chosen.
func (g *gatherer) complain(ctx context.Context, members []ring.Member, p packed) {
	for _, m := range members {
		d := kit.Delivery{Digest: p.Digest, Node: m.ID}
		fails, err := g.courier.Failures(d)
		if fails < g.set.Patience || g.now().Before(g.shunned[d]) {
			continue
		}
		g.shunned[d] = g.now().Add(20 * g.set.Retry.D())
		_, err = g.events.Publish(ctx, event.DataSyncFailed.Type(), kit.Stamp(g.self,
			event.SyncFailed{Config: p.Config, Target: string(m.ID), Error: err.Error(), Attempts: int64(fails)}), "")
		if err != nil {
			g.log.Warn().Err(err).Msg("cannot publish")
		}
	}
}

// settle tells that a pack is safe and moves the cursor. A crash between the two tells it twice, which is a repeated hint.
func (g *gatherer) settle(ctx context.Context, v kit.View, p packed, a ring.Artifact) error {
	var total *int64
	if all := v.Library.Artifacts(ring.KindPack, p.Config); len(all) > 0 { // a rented node has no list of them
		total = new(int64)
		for _, o := range all {
			*total = ring.AddGames(*total, o.Games())
		}
	}
	about := event.About{Config: p.Config}
	cause, err := g.events.Publish(ctx, event.NewGamesAvailable.Type(), kit.Stamp(g.self,
		event.NewGames{About: about, New: p.count(), Total: total, Pack: p.Digest}), "")
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	var targets []id.Node
	for _, h := range a.Holders {
		if h != g.self.ID {
			targets = append(targets, h)
		}
	}
	if _, err = g.events.Publish(ctx, event.DataSyncCompleted.Type(), kit.Stamp(g.self,
		event.SyncDone{Config: p.Config, Games: p.count(), Bytes: p.Bytes, Targets: targets}), cause); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for d := range g.shunned {
		if d.Digest == p.Digest {
			delete(g.shunned, d)
		}
	}
	return g.books.settle(p.Digest)
}

// release lets the job's folder go: everything in it that is worth keeping is safe.
func (g *gatherer) release(ctx context.Context, job string) error {
	if err := g.jobs.Release(ctx, job); err != nil {
		return fmt.Errorf("release job %s: %w", job, err)
	}
	return g.books.forget(job)
}
