package datasync

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// DistributionSettings are the figures of NPZ_DISTRIBUTION and MODEL_DISTRIBUTION.
type DistributionSettings struct {
	Parallel int          `json:"parallel"` // transfers at once
	Retry    kit.Duration `json:"retry"`    // after the first failure, doubling up to ten times it
	Patience int          `json:"patience"` // failures in a row before a node is reported
	Limit    kit.Duration `json:"limit"`    // of one transfer
}

// Validate implements kit's check.
func (s DistributionSettings) Validate() error {
	if s.Parallel < 1 || s.Patience < 1 || s.Retry <= 0 || s.Limit <= 0 {
		return errors.New("parallel, patience, retry and limit must be above zero")
	}
	return nil
}

func (s DistributionSettings) courier() *kit.Courier {
	return &kit.Courier{Parallel: s.Parallel, First: s.Retry.D(), Slowest: 10 * s.Retry.D(), Limit: s.Limit.D()}
}

// distribution is what the two daemons share: they differ in what they want where, and in the names of their events.
func distribution(s kit.Spec, defaults DistributionSettings, complete, failed event.Kind[event.Distribution], wants func(kit.View) []kit.Want) kit.Spec {
	s.Category, s.Scope, s.Classes, s.Settings = "datasync", kit.ScopeCluster, []id.Class{id.Core}, defaults
	s.Emits = []event.Type{complete.Type(), failed.Type()}
	s.Deadline = 10 * time.Minute
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		return kit.NewSpread(env, kit.Spread{
			Wake: s.Reads, Wants: wants, Courier: set.courier(), Patience: set.Patience,
			Done: func(w kit.Want, ok, missing []id.Node) kit.Statement {
				return kit.Statement{Type: complete.Type(), Payload: event.Distribution{About: event.About{Config: w.Config},
					Digest: w.Digest, Version: w.Version, OK: ok, Missing: missing}}
			},
			Failed: func(w kit.Want, n id.Node, attempts int, err error) kit.Statement {
				return kit.Statement{Type: failed.Type(), Payload: event.Distribution{About: event.About{Config: w.Config},
					Digest: w.Digest, Version: w.Version, Missing: []id.Node{n}, Reason: fmt.Sprintf("%d attempts: %v", attempts, err)}}
			},
		}), nil
	}
	return s
}

// NPZDistribution is NPZ_DISTRIBUTION.
func NPZDistribution() kit.Spec {
	return distribution(kit.Spec{
		Name: "NPZ_DISTRIBUTION", DependsOn: []string{"EVENT_ROUTER"}, Every: 60 * time.Second,
		Doc: "Brings the newest dataset of every config to the nodes that train before training is asked for there.",
		Reads: []event.Type{event.NPZExportComplete.Type(), event.HostOnline.Type(), event.HostOffline.Type(),
			event.PipelineStageOverdue.Type()},
	}, DistributionSettings{Parallel: 5, Retry: kit.Duration(30 * time.Second), Patience: 4, Limit: kit.Duration(10 * time.Minute)},
		event.NPZDistributionComplete, event.NPZDistributionFailed, datasets)
}

// ModelDistribution is MODEL_DISTRIBUTION.
func ModelDistribution() kit.Spec {
	return distribution(kit.Spec{
		Name: "MODEL_DISTRIBUTION", DependsOn: []string{"EVENT_ROUTER", "EVALUATION", "AUTO_PROMOTION"}, Every: 60 * time.Second,
		Doc: "Brings every config's champion to all live nodes, late joiners too.",
		Reads: []event.Type{event.ModelPromoted.Type(), event.HostOnline.Type(), event.HostOffline.Type(),
			event.PipelineStageOverdue.Type()},
	}, DistributionSettings{Parallel: 4, Retry: kit.Duration(30 * time.Second), Patience: 4, Limit: kit.Duration(10 * time.Minute)},
		event.ModelDistributionComplete, event.ModelDistributionFailed, champions)
}

// champions wants each config's current champion on every node. A superseded version is wanted nowhere, so that two
// promotions in quick order end with the newer one everywhere.
func champions(v kit.View) []kit.Want {
	var out []kit.Want
	for _, c := range v.Ring.Configs {
		n, ok := v.Library.Name(ring.ModelName(c))
		if !ok {
			continue
		}
		w := kit.Want{Ledger: "model/" + string(c), Key: fmt.Sprintf("%d/%s", n.Version, n.Digest), Digest: n.Digest, Config: c, Version: n.Version}
		for _, m := range v.Fleet.Members() {
			add(&w, m)
		}
		out = append(out, w)
	}
	return out
}

// datasets wants each config's newest dataset on the nodes with a GPU. A ring without any trains on ordinary nodes, and
// which of them is only known when the item is claimed: there the dataset gets its copies.
func datasets(v kit.View) []kit.Want {
	var out []kit.Want
	for _, c := range v.Ring.Configs {
		sets := v.Library.Artifacts(ring.KindDataset, c)
		if len(sets) == 0 {
			continue
		}
		a := sets[len(sets)-1]
		w := kit.Want{Ledger: "dataset/" + string(c), Key: string(a.Digest), Digest: a.Digest, Config: c}
		gpus := slices.ContainsFunc(v.Fleet.Members(), func(m ring.Member) bool { return m.Slots.GPU > 0 && m.Live() })
		for _, m := range v.Fleet.Members() {
			if gpus && m.Slots.GPU > 0 || !gpus && m.Live() && a.Held(m.ID) {
				add(&w, m)
			}
		}
		if !gpus {
			more, _ := kit.ChooseHolders(v.Fleet.Members(), a, "", v.Ring.CopiesOf(ring.KindDataset), nil)
			w.Targets = append(w.Targets, more...)
		}
		out = append(out, w)
	}
	return out
}

// add puts a member among the targets, or among those that should hold it and cannot now.
func add(w *kit.Want, m ring.Member) {
	switch {
	case m.Live():
		w.Targets = append(w.Targets, m.ID)
	case !m.Revoked && m.Status != ring.Left:
		w.Absent = append(w.Absent, m.ID)
	}
}
