package agent

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// reading is one state with what it is worth; the shapes of the API are pure functions of it.
type reading struct {
	s      *state.State
	fresh  leader.Freshness
	roster *roster // the copy on disk, for names where the state is not known yet; may be nil
}

// asOf is set when nobody confirms the copy now.
func (r reading) asOf(now time.Time, limit time.Duration) api.AsOf {
	out := api.AsOf{Index: r.s.Index()}
	switch {
	case !r.fresh.Known:
		out.AsOf.Unknown = true
	case r.fresh.Coordinator == "" || now.Sub(r.fresh.AsOf) > limit:
		out.AsOf = api.ConfirmedAt(r.fresh.AsOf)
	}
	return out
}

// name is what people call a node: its name, or its id where the roster has forgotten it.
func (r reading) name(n id.Node) string {
	if m, ok := r.s.Member(n); ok && m.Name != "" {
		return m.Name
	}
	if r.roster != nil && !r.fresh.Known {
		if m, ok := r.roster.Lookup(n); ok && m.Name != "" {
			return m.Name
		}
	}
	return string(n)
}

func (r reading) names(ns []id.Node) []string {
	out := make([]string, 0, len(ns))
	for _, n := range ns {
		out = append(out, r.name(n))
	}
	slices.Sort(out)
	return out
}

// find is the node that a person means: a name's newest bearer, or an id.
func (r reading) find(who string) (ring.Member, error) {
	if m, ok := r.s.MemberByName(who); ok {
		return m, nil
	}
	if m, ok := r.s.Member(id.Node(who)); ok {
		return m, nil
	}
	return ring.Member{}, api.Errorf(api.CodeNotFound, "no node %q in the ring", who).WithHint("list them with: ringagent members")
}

func (r reading) workRow(w ring.WorkItem) api.WorkRow {
	row := api.WorkRow{
		ID: w.ID, Type: w.Type, Config: w.Config, State: w.State, Priority: w.Priority, Attempts: w.Attempts, Created: w.Created,
		Error: w.Error, Result: w.Result, Key: w.Key, Params: w.Params, Inputs: w.Inputs,
	}
	if w.Claim != nil {
		name, claim := r.name(w.Claim.Node), w.Claim.ID
		row.ClaimedBy, row.ClaimID = &name, &claim
	}
	if w.By.Epoch != 0 {
		e := uint64(w.By.Epoch)
		row.Epoch = &e
	}
	if !w.Deadline.IsZero() {
		d := w.Deadline
		row.Deadline = &d
	}
	return row
}

// recentWork is how many finished items `work list` shows without --all.
const recentWork = 100

func (r reading) work(all bool, wantState, wantType string) []api.WorkRow {
	var open, done []api.WorkRow
	for w := range r.s.WorkItems() {
		if wantState != "" && string(w.State) != wantState || wantType != "" && w.Type != wantType {
			continue
		}
		if w.State.Finished() {
			done = append(done, r.workRow(w))
		} else {
			open = append(open, r.workRow(w))
		}
	}
	if !all && len(done) > recentWork {
		done = done[len(done)-recentWork:]
	}
	out := append(done, open...)
	if out == nil {
		out = []api.WorkRow{}
	}
	return out
}

func (r reading) artifact(a ring.Artifact, named map[id.Digest][]string) api.Artifact {
	settings, _ := r.s.Settings()
	names := named[a.Digest]
	if names == nil {
		names = []string{}
	}
	return api.Artifact{
		SHA256: a.Digest, Kind: a.Kind, Config: a.Config, Bytes: a.Bytes, Created: &a.Created, Origin: new(r.name(a.Origin)),
		Holders: r.names(a.Holders), Names: names, Wanted: new(settings.CopiesOf(a.Kind)), Counters: a.Counters, Parents: a.Parents, Labels: a.Labels, Joined: a.Joined,
	}
}

func (r reading) named() map[id.Digest][]string {
	out := map[id.Digest][]string{}
	for n := range r.s.Names() {
		out[n.Digest] = append(out[n.Digest], n.Key)
	}
	return out
}

func (r reading) artifacts(kind ring.Kind, config id.Config, keep func(ring.Artifact) bool) []api.Artifact {
	named := r.named()
	out := []api.Artifact{}
	for a := range r.s.Artifacts(kind, config, 0) {
		if keep == nil || keep(a) {
			out = append(out, r.artifact(a, named))
		}
	}
	return out
}

// prefixed is the one artifact that a prefix means.
func (r reading) prefixed(prefix string) (ring.Artifact, error) {
	var found []ring.Artifact
	for a := range r.s.ArtifactsByPrefix(prefix) {
		if found = append(found, a); len(found) > 1 {
			return ring.Artifact{}, api.Errorf(api.CodeInvalid, "sha256 prefix %q means more than one artifact", prefix).WithHint("give more digits")
		}
	}
	if len(found) == 0 {
		return ring.Artifact{}, api.Errorf(api.CodeNotFound, "no artifact %q", prefix).WithHint("list them with: ringagent data ls")
	}
	return found[0], nil
}

// copies counts an artifact's receipts by failure domain, as whoever makes new copies does: not those on nodes that are
// gone. For games, the copy of the edge node that played them never counts.
func (r reading) copies(a ring.Artifact) int {
	domains := map[string]bool{}
	for _, n := range a.Holders {
		m, ok := r.s.Member(n)
		if !ok || m.Revoked || m.Status == ring.Left || m.Status == ring.Failed {
			continue
		}
		if a.Kind == ring.KindPack && n == a.Origin && m.Class == id.Edge {
			continue
		}
		domains[m.Domain()] = true
	}
	return len(domains)
}

func (r reading) underReplicated(kind ring.Kind, config id.Config) []api.Artifact {
	settings, _ := r.s.Settings()
	return r.artifacts(kind, config, func(a ring.Artifact) bool { return a.Joined == "" && r.copies(a) < settings.CopiesOf(a.Kind) })
}

func (r reading) models(config id.Config, history bool) []api.Model {
	out := []api.Model{}
	for n := range r.s.Names() {
		c, ok := strings.CutPrefix(n.Key, "model/")
		if !ok || config != "" && id.Config(c) != config {
			continue
		}
		if history {
			for _, v := range n.History {
				until := v.Until
				m := r.model(id.Config(c), v.Version, v.Digest, v.At, v.Values)
				m.SupersededAt = &until
				out = append(out, m)
			}
		}
		out = append(out, r.model(id.Config(c), n.Version, n.Digest, n.At, n.Values))
	}
	return out
}

func (r reading) model(c id.Config, version uint64, d id.Digest, at time.Time, values map[string]float64) api.Model {
	m := api.Model{Config: c, Version: version, SHA256: d, PromotedAt: at, OnNodes: []string{}}
	if elo, ok := values["elo"]; ok {
		m.Elo = &elo
	}
	if games, ok := values["games"]; ok {
		n := int64(games)
		m.Games = &n
	}
	if a, ok := r.s.Artifact(d); ok {
		m.OnNodes = r.names(a.Holders)
		for _, p := range a.Parents {
			if parent, ok := r.s.Artifact(p); ok && parent.Kind == ring.KindModel {
				m.Parent = &p
			}
		}
	}
	return m
}

// games counts what has its receipts. unsynced is each config's finished games without, nil = unknown.
func (r reading) games(config id.Config, unsynced map[id.Config]int64, known bool) []api.GameCount {
	rows := map[id.Config]*api.GameCount{}
	row := func(c id.Config) *api.GameCount {
		if rows[c] == nil {
			rows[c] = &api.GameCount{Config: c}
		}
		return rows[c]
	}
	settings, _ := r.s.Settings()
	for _, c := range settings.Configs {
		row(c)
	}
	for a := range r.s.Artifacts(ring.KindPack, "", 0) {
		c := row(a.Config)
		if !a.Safe {
			continue
		}
		c.Games = ring.AddGames(c.Games, a.Games())
		c.Packs++
		if c.LastGame == nil || a.Created.After(*c.LastGame) {
			at := a.Created
			c.LastGame = &at
		}
	}
	for c := range unsynced {
		row(c)
	}
	out := []api.GameCount{}
	for c, g := range rows {
		if known {
			n := unsynced[c]
			g.Unsynced = &n
		}
		if config == "" || c == config {
			out = append(out, *g)
		}
	}
	slices.SortFunc(out, func(a, b api.GameCount) int { return cmp.Compare(a.Config, b.Config) })
	return out
}

func (r reading) tokens() []api.Token {
	out := []api.Token{}
	for t := range r.s.Tokens() {
		out = append(out, api.Token{ID: t.ID, Class: t.Class, Uses: t.Uses, Used: len(t.Used), Created: t.Created, Expires: t.Expires, Revoked: t.Revoked})
	}
	return out
}

func (r reading) leader(st leader.Stats) api.Leader {
	out := api.Leader{
		Term: st.Term, Voters: r.names(st.Voters), Nonvoters: r.names(st.Nonvoters), Quorum: st.Quorum, AliveVoters: st.AliveVoters,
		FailureTolerance: st.FailureTolerance,
	}
	if st.CommitIndex > 0 { // Raft says 0 until it has heard
		out.CommitIndex = &st.CommitIndex
	}
	if st.Coordinator != nil {
		n := r.name(*st.Coordinator)
		out.Coordinator = &n
	}
	return out
}
