package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// mutations are the routes that change something. All of them are POST.
func (a *Agent) mutations() []httpd.Route {
	post := func(path string, do func(r *http.Request) (any, error)) httpd.Route {
		return httpd.Route{Pattern: "POST " + path, Access: httpd.Write, Do: func(r *http.Request) (any, error) {
			if a.shutOut.Load() {
				return nil, api.Errorf(api.CodeUnauthorised, "this node is shut out of the ring: its certificate is revoked").
					WithHint("enrol the machine anew in an empty folder: ringagent join SEED --token-file FILE --data-dir DIR")
			}
			return do(r)
		}}
	}
	core := func(path, what string, do func(r *http.Request) (any, error)) httpd.Route {
		return post(path, func(r *http.Request) (any, error) {
			if err := a.forCore(what); err != nil {
				return nil, err
			}
			return do(r)
		})
	}
	done := func(err error) (any, error) {
		if err != nil {
			return nil, err
		}
		return api.Done{OK: true}, nil
	}
	type (
		someNode struct {
			Node string `json:"node"`
		}
		arrival struct {
			Seeds []string `json:"seeds"`
		}
		departed struct {
			Node  string `json:"node"`
			Prune bool   `json:"prune"`
		}
	)
	return []httpd.Route{
		core("/api/v1/tokens", "make join tokens", taking(a.createToken)),
		core("/api/v1/tokens/{id}/revoke", "revoke join tokens", func(r *http.Request) (any, error) {
			_, err := a.leader.Propose(r.Context(), a.command(state.KindTokenRevoke, state.RevokeToken{ID: r.PathValue("id")}))
			return done(decided(err))
		}),
		post("/api/v1/join", taking(func(ctx context.Context, in arrival) (any, error) { return a.join(ctx, in.Seeds) })),
		post("/api/v1/leave", taking(func(ctx context.Context, in api.Leave) (any, error) { return a.Leave(ctx, in) })),
		core("/api/v1/force-leave", "shut nodes out", taking(func(ctx context.Context, in departed) (any, error) {
			return done(a.forceLeave(ctx, in.Node, in.Prune))
		})),
		core("/api/v1/leader/transfer", "hand coordination over", taking(func(ctx context.Context, in someNode) (any, error) {
			return a.transfer(ctx, in.Node)
		})),
		post("/api/v1/leader/recover", taking(a.recoverRing)),
		post("/api/v1/daemons/{name}/{verb}", func(r *http.Request) (any, error) {
			var in someNode
			if err := httpd.Decode(r, &in); err != nil {
				return nil, err
			}
			return done(a.steerOn(r.Context(), r.PathValue("name"), r.PathValue("verb"), in.Node))
		}),
		post("/api/v1/events", taking(func(ctx context.Context, in api.Publish) (any, error) { return a.external.publish(ctx, in) })),
		{Pattern: "POST /api/v1/consume/{name}", Access: httpd.Write, Stream: a.streamConsumer},
		post("/api/v1/consume/{name}/ack", func(r *http.Request) (any, error) {
			var in struct {
				Seq uint64 `json:"seq"`
			}
			if err := httpd.Decode(r, &in); err != nil {
				return nil, err
			}
			return done(a.external.ack(r.Context(), r.PathValue("name"), in.Seq))
		}),
		post("/api/v1/dlq/{id}/{verb}", func(r *http.Request) (any, error) {
			switch r.PathValue("verb") {
			case "retry":
				return done(a.letters().Retry(r.Context(), r.PathValue("id")))
			case "drop":
				return done(a.letters().Drop(r.Context(), r.PathValue("id")))
			}
			return nil, api.Errorf(api.CodeNotFound, "no verb %q", r.PathValue("verb"))
		}),
		core("/api/v1/work", "add work", taking(a.addWork)),
		core("/api/v1/work/{id}/cancel", "cancel work", func(r *http.Request) (any, error) {
			var in struct {
				Reason string `json:"reason"`
			}
			if err := httpd.Decode(r, &in); err != nil {
				return nil, err
			}
			_, err := a.leader.Propose(r.Context(), a.command(state.KindCancel, state.CancelWork{Work: r.PathValue("id"), Reason: in.Reason}))
			return done(decided(err))
		}),
		core("/api/v1/work/{id}/retry", "queue work again", func(r *http.Request) (any, error) {
			_, err := a.leader.Propose(r.Context(), a.command(state.KindRetry, state.RetryWork{Work: r.PathValue("id")}))
			return done(decided(err))
		}),
		{Pattern: "POST /api/v1/artifacts", Access: httpd.Write, MaxBody: -1, Do: a.putArtifact},
		core("/api/v1/settings", "change the ring's settings", taking(a.applySettings)),
	}
}

// taking is a route that reads nothing of a request but its body.
func taking[In any](do func(ctx context.Context, in In) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var in In
		if err := httpd.Decode(r, &in); err != nil {
			return nil, err
		}
		return do(r.Context(), in)
	}
}

func (a *Agent) createToken(ctx context.Context, in api.CreateToken) (any, error) {
	if _, err := id.ParseClass(string(in.Class)); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if in.Uses < 1 || in.Uses > 1000 || in.TTLSeconds < 1 || in.TTLSeconds > 30*24*3600 {
		return nil, api.Errorf(api.CodeInvalid, "uses must be 1 to 1000 and ttl_seconds 1 to 2592000")
	}
	// Whoever has made a token here comes here with it.
	if err := a.obtainKey(ctx); err != nil {
		return nil, api.Errorf(api.CodeRefused, "this node has not got the ring's signing key (%s), so it can let nobody in: %v", a.dir.path("tls/ca.key"), err).
			WithHint("make the token at a core node that has the key; if none has it, put it back from a copy and start the agent again")
	}
	if err := a.sown(ctx); err != nil {
		return nil, decided(err)
	}
	t := a.mesh.NewToken()
	now := time.Now().UTC()
	expires := now.Add(time.Duration(in.TTLSeconds * float64(time.Second)))
	_, err := a.leader.Propose(ctx, a.command(state.KindToken, state.PutToken{Token: ring.Token{
		ID: t.ID, SecretHash: string(t.SecretHash()), Class: in.Class, Uses: in.Uses, Created: now, Expires: expires,
	}}))
	if err != nil {
		return nil, decided(err)
	}
	return api.TokenCreated{Token: t.Encode().Reveal(), ID: t.ID, Class: in.Class, Expires: expires, Uses: in.Uses}, nil
}

// keyPatience is how long other core nodes are asked for the ring's key before a token is refused for want of it.
const keyPatience = 5 * time.Second

// obtainKey does nothing where the key is there, as it is but for the first moments of a core node.
func (a *Agent) obtainKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keyPatience)
	defer cancel()
	return a.mesh.ObtainAuthorityKey(ctx) //nolint:wrapcheck // the mesh has said what it did
}

// transfer hands coordination over to a voter, or to any with "".
func (a *Agent) transfer(ctx context.Context, who string) (any, error) {
	to := id.Node("")
	if who != "" {
		m, err := a.find(who)
		if err != nil {
			return nil, err
		}
		to = m.ID
		stats := a.leader.AskStats(ctx)
		if stats.Coordinator != nil && *stats.Coordinator == to {
			return api.Done{OK: true, Detail: m.Name + " coordinates already"}, nil
		}
		if !slices.Contains(stats.Voters, to) {
			return nil, api.Errorf(api.CodeRefused, "%s does not vote, so it cannot coordinate", m.Name).WithHint("see who votes: ringagent leader")
		}
	}
	err := decided(a.leader.Transfer(ctx, to))
	if e := new(api.Error); errors.As(err, &e) && e.Code == api.CodeRefused {
		err = e.WithHint("see who votes, and how many of them answer: ringagent leader")
	}
	if err != nil {
		return nil, err
	}
	return api.Done{OK: true}, nil
}

func (a *Agent) join(ctx context.Context, seeds []string) (any, error) {
	if len(seeds) == 0 {
		return nil, api.Errorf(api.CodeInvalid, "seeds: name at least one, like 203.0.113.7:8770")
	}
	var joined, failed []string
	var first *api.Error
	for _, s := range seeds {
		n, err := a.joinAt(ctx, s)
		if err != nil {
			e := seedError(s, err)
			failed, first = append(failed, e.Message), cmp.Or(first, e)
			continue
		}
		joined = append(joined, a.near().name(n))
	}
	if len(joined) == 0 {
		return nil, api.Errorf(first.Code, "%s", strings.Join(failed, "; ")).WithHint(first.Hint)
	}
	return api.Done{OK: true, Detail: "joined through " + strings.Join(joined, ", ")}, nil
}

// seedError names the seed that an error is of.
func seedError(seed string, err error) *api.Error {
	e := *api.AsError(meshError(err))
	if !strings.Contains(e.Message, seed) {
		e.Message = seed + ": " + e.Message
	}
	return &e
}

func (a *Agent) forceLeave(ctx context.Context, who string, prune bool) error {
	r, err := a.confirmed(ctx) // a name may have another bearer by now, and this is for good
	if err != nil {
		return decided(err)
	}
	m, err := r.find(who)
	if err != nil {
		return err
	}
	if m.ID == a.node.ID {
		return api.Errorf(api.CodeRefused, "a node does not shut itself out").WithHint("take it out with: ringagent leave")
	}
	if _, err := a.leader.Propose(ctx, a.command(state.KindRevoke, state.Revoke{Node: m.ID, Prune: prune})); err != nil {
		return decided(err)
	}
	if prune {
		a.mesh.Forget(m.ID)
	}
	return nil
}

func (a *Agent) addWork(ctx context.Context, in api.AddWork) (any, error) {
	if err := a.settingsKnown(ctx); err != nil {
		return nil, err
	}
	if _, err := a.current(ctx); err != nil { // a voter that is behind would check it against settings of the past
		return nil, decided(err)
	}
	item, err := a.checkWork(in)
	if err != nil {
		return nil, err
	}
	if w := a.workload(); w != nil {
		if item.Inputs, err = checkInputs(item.Type, w.Stages[item.Type], item.Inputs); err != nil {
			return nil, err
		}
	}
	r, err := a.leader.Propose(ctx, a.command(state.KindEnqueue, state.Enqueue{Items: []ring.WorkItem{item}}))
	if err != nil {
		return nil, decided(err)
	}
	items, err := valueAs[[]ring.WorkItem](r)
	if err != nil {
		return nil, err
	}
	if len(items) != 1 {
		return nil, api.Errorf(api.CodeFailed, "the queue answered with %d items", len(items))
	}
	if err := a.asAsked(ctx, item, items[0]); err != nil {
		return nil, err
	}
	return a.near().workRow(items[0]), nil
}

// asAsked refuses an item that was added before, under the same key, as another one: its key promises the same item, and what was
// asked for now will not be run.
func (a *Agent) asAsked(ctx context.Context, asked, got ring.WorkItem) error {
	if len(differences(asked, got)) == 0 {
		return nil
	}
	s, err := a.current(ctx) // a claim has fixed more of it than it was added with
	if err != nil {
		return decided(err)
	}
	added, ok := s.WorkAdded(got.ID)
	if !ok { // it ended long ago, and no more than its type is known
		added = asked
		added.Type = got.Type
	}
	if other := differences(asked, added); len(other) > 0 {
		return api.Errorf(api.CodeConflict, "key %q: work %s was added under it with another %s", asked.Key, got.ID, strings.Join(other, ", another ")).
			WithHint("another item wants another key")
	}
	return nil
}

// differences names what of an operator's request is not the same in another item.
func differences(a, b ring.WorkItem) []string {
	var out []string
	for name, same := range map[string]bool{
		"type": a.Type == b.Type, "config": a.Config == b.Config, "priority": a.Priority == b.Priority, "param": maps.Equal(a.Params, b.Params),
		"input": slices.Equal(sortedInputs(a), sortedInputs(b)),
	} {
		if !same {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func sortedInputs(w ring.WorkItem) []ring.Input {
	return slices.SortedFunc(slices.Values(w.Inputs), func(x, y ring.Input) int {
		return cmp.Or(cmp.Compare(x.Role, y.Role), cmp.Compare(x.Digest, y.Digest))
	})
}

func (a *Agent) putArtifact(r *http.Request) (any, error) {
	kind := ring.Kind(r.URL.Query().Get("kind"))
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	switch kind {
	case ring.KindModel, ring.KindDataset, ring.KindMatches:
		if err := a.forCore(fmt.Sprintf("bring files of kind %s into the ring", kind)); err != nil {
			return nil, err
		}
	}
	c := id.Config(r.URL.Query().Get("config"))
	if c == "" && kind != ring.KindFile && kind != ring.KindBackup {
		return nil, api.Errorf(api.CodeInvalid, "config: name the one to which this file of kind %s belongs", kind)
	}
	var counters map[string]int64
	var staged string
	d, n, err := a.store.blobs.PutChecked(r.Context(), r.Body, func(ctx context.Context, path string) (err error) {
		staged = path
		check, ok := validators()[string(kind)]
		if !ok {
			return nil
		}
		if counters, err = check(ctx, path); err != nil && !ofMachine(ctx, kind, err) {
			return &unfit{kind: kind, err: err}
		}
		return err
	})
	var bad *unfit
	if errors.As(err, &bad) {
		// The name under which the bytes were looked at says nothing to whoever sent them.
		return nil, api.Errorf(api.CodeInvalid, "file is %s", strings.ReplaceAll(bad.Error(), staged, "it"))
	}
	if err != nil {
		return nil, api.Errorf(api.CodeFailed, "store artifact: %v", err)
	}
	art := ring.Artifact{
		Digest: d, Kind: kind, Config: c, Bytes: n, Created: time.Now().UTC(), Origin: a.node.ID, Holders: []id.Node{a.node.ID},
		Labels: map[string]string{"by": "operator"}, Counters: counters,
	}
	if err := a.sown(r.Context()); err != nil { // or a new ring's first node gives a receipt of a stranger
		return nil, decided(err)
	}
	if err := a.nodeEffects("").AddArtifacts(r.Context(), art); err != nil {
		return nil, decided(err)
	}
	a.store.link(art) // anew where a damaged copy had to give way
	rd := a.near()
	return rd.artifact(art, rd.named()), nil
}

func (a *Agent) applySettings(ctx context.Context, in ring.Settings) (any, error) {
	if err := config.CheckRing(in); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	for name, section := range in.Daemons {
		if err := daemons.CheckSection(name, section); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "daemons.%s: %v", name, err)
		}
	}
	if err := a.settingsKnown(ctx); err != nil { // or they would come before a new ring's first ones
		return nil, err
	}
	s, err := a.current(ctx)
	if err != nil {
		return nil, decided(err)
	}
	_, version := s.Settings()
	if _, err := a.leader.Propose(ctx, a.command(state.KindSettings, state.PutSettings{Expect: version, Settings: in})); err != nil {
		return nil, decided(err)
	}
	return settingsAnswer{Version: version + 1, Settings: in}, nil
}
