package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

// views are the answers that any core node can give for any other: pure functions of the replicated state.
func (a *Agent) views() map[string]func(ctx context.Context, r reading, q url.Values) (any, error) {
	return map[string]func(context.Context, reading, url.Values) (any, error){
		"/api/v1/work": func(_ context.Context, r reading, q url.Values) (any, error) {
			if err := askedWork(q.Get("state"), q.Get("type")); err != nil {
				return nil, err
			}
			all, err := askedYes(q, "all")
			if err != nil {
				return nil, err
			}
			return api.WorkList{Work: r.work(all, q.Get("state"), q.Get("type")), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/work/item": func(_ context.Context, r reading, q url.Values) (any, error) {
			w, ok := r.s.Work(q.Get("id"))
			if !ok {
				return nil, api.Errorf(api.CodeNotFound, "no work item %q", q.Get("id")).WithHint("list them with: ringagent work list --all")
			}
			return r.workRow(w), nil
		},
		"/api/v1/artifacts": func(_ context.Context, r reading, q url.Values) (any, error) {
			k, c, err := askedArtifacts(q)
			if err != nil {
				return nil, err
			}
			return api.Artifacts{Artifacts: r.artifacts(k, c, nil), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/artifacts/under-replicated": func(_ context.Context, r reading, q url.Values) (any, error) {
			k, c, err := askedArtifacts(q)
			if err != nil {
				return nil, err
			}
			return api.Artifacts{Artifacts: r.underReplicated(k, c), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/artifacts/where": func(_ context.Context, r reading, q url.Values) (any, error) {
			art, err := r.prefixed(q.Get("sha256"))
			if err != nil {
				return nil, err
			}
			return api.Artifacts{Artifacts: []api.Artifact{r.artifact(art, r.named())}, AsOf: a.asOf(r)}, nil
		},
		"/api/v1/games": func(ctx context.Context, r reading, q url.Values) (any, error) {
			c, err := askedConfig(q)
			if err != nil {
				return nil, err
			}
			if r, err = a.withSettings(ctx, r); err != nil {
				return nil, err
			}
			heard := a.reports(ctx)
			// The state comes after the question: a game that has become safe meanwhile is counted here, or it would be in neither.
			// Its members are those who have to have answered.
			r = a.newest(ctx, r)
			unsynced, known := a.unsynced(heard, r)
			return api.Games{Configs: r.games(c, unsynced, known), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/models": func(_ context.Context, r reading, q url.Values) (any, error) {
			c, err := askedConfig(q)
			if err != nil {
				return nil, err
			}
			history, err := askedYes(q, "history")
			if err != nil {
				return nil, err
			}
			return api.Models{Models: r.models(c, history), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/ratings": func(ctx context.Context, r reading, q url.Values) (any, error) {
			c, err := askedConfig(q)
			if err != nil {
				return nil, err
			}
			return a.ratings(ctx, r, c), nil
		},
		"/api/v1/tokens": func(_ context.Context, r reading, _ url.Values) (any, error) {
			return api.Tokens{Tokens: r.tokens(), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/settings": func(ctx context.Context, r reading, _ url.Values) (any, error) {
			r, err := a.withSettings(ctx, r)
			if err != nil {
				return nil, err
			}
			s, version := r.s.Settings()
			return settingsAnswer{Version: version, Settings: s, AsOf: a.asOf(r)}, nil
		},
	}
}

// withSettings is r, or in a new ring's first moment one that has its first settings.
func (a *Agent) withSettings(ctx context.Context, r reading) (reading, error) {
	if _, version := r.s.Settings(); version > 0 {
		return r, nil
	}
	if err := a.settingsKnown(ctx); err != nil {
		return r, err
	}
	return a.newest(ctx, a.near()), nil
}

type settingsAnswer struct {
	Version  uint64        `json:"version"`
	Settings ring.Settings `json:"settings"`
	api.AsOf
}

// view answers from here, or asks a core node to answer in this node's place.
func (a *Agent) view(ctx context.Context, path string, q url.Values) (any, error) {
	if a.node.Class == id.Core {
		r, err := a.read(ctx)
		if err == nil {
			return a.views()[path](ctx, r, q)
		}
		if v := a.kept(ctx, path, q); v != nil && api.AsError(err).Code == api.CodeNoQuorum {
			return v, nil
		}
		return nil, err
	}
	var last error
	for _, n := range a.viewNodes() {
		var out viewAnswer
		err := a.answers(ctx, n)
		if err == nil {
			err = meshError(a.mesh.Call(ctx, n, methodView, viewCall{Path: path, Query: q}, &out))
		}
		if err != nil {
			if last == nil || api.AsError(last).Code == api.CodeUnreachable {
				last = err
			}
			continue
		}
		if out.Error != nil && out.Error.Code == api.CodeNoQuorum { // it does not know; another one may
			last = api.Errorf(api.CodeNoQuorum, "no core node that answers knows the state of the ring: none has heard a coordinator since it started").
				WithHint("a majority of the voters must be up; see: ringagent leader")
			continue
		}
		if out.Error != nil {
			return nil, out.Error
		}
		return out.Body, nil
	}
	if ctx.Err() != nil && last != nil {
		return nil, last
	}
	none := noCoreNode(last)
	if v := a.kept(ctx, path, q); v != nil && api.AsError(none).Code == api.CodeNoQuorum {
		return v, nil
	}
	return nil, none
}

// noCoreNode is the error of a node that no core node has answered; last is that of the last attempt, if there was one. What a
// core node said is not hidden: that this node is shut out, for one.
func noCoreNode(last error) error {
	if last != nil && api.AsError(last).Code != api.CodeUnreachable {
		return last
	}
	none := api.Errorf(api.CodeNoQuorum, "no coordinator: no core node answers, and an edge node keeps no copy of this")
	if last != nil {
		none.Message += ": " + last.Error()
	}
	return none.WithHint("see who is there: ringagent members; core nodes that still run can be asked themselves")
}

// answers says whether a node is there. One that is gone without a word is told within answerWait, and counts as out of reach: whoever
// asks for a view would else wait for it, and for the next one after it.
func (a *Agent) answers(ctx context.Context, n id.Node) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	_, err := a.mesh.Ping(ctx, n)
	if err = meshError(err); err != nil && api.AsError(err).Code == api.CodeTimeout {
		return api.Errorf(api.CodeUnreachable, "%s does not answer within %s", a.near().name(n), answerWait)
	}
	return err
}

// viewNodes are the core nodes, the coordinator first: its view is the newest.
func (a *Agent) viewNodes() []id.Node {
	all := a.likelyCores()
	lead := a.leader.Freshness().Coordinator
	if lead == "" || lead == a.node.ID {
		return all
	}
	return append([]id.Node{lead}, slices.DeleteFunc(all, func(n id.Node) bool { return n == lead })...)
}

func (a *Agent) serveView(ctx context.Context, c viewCall) viewAnswer {
	f, ok := a.views()[c.Path]
	if !ok {
		return viewAnswer{Error: api.Errorf(api.CodeNotFound, "no view %q", c.Path)}
	}
	r := a.near()
	if !r.fresh.Known { // at once: whoever asks turns to another core node
		return viewAnswer{Error: unknownState()}
	}
	v, err := f(ctx, r, c.Query)
	if err != nil {
		return viewAnswer{Error: api.AsError(err)}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return viewAnswer{Error: api.AsError(err)}
	}
	return viewAnswer{Body: b}
}

// routes is the whole HTTP API.
func (a *Agent) routes() []httpd.Route {
	rs := []httpd.Route{
		{Pattern: "GET /api/v1/members", Access: httpd.Read, Do: func(r *http.Request) (any, error) { return a.members(r.Context()), nil }},
		{Pattern: "GET /api/v1/leader", Access: httpd.Read, Do: func(r *http.Request) (any, error) { return a.leaderShape(r.Context()), nil }},
		{Pattern: "GET /api/v1/status", Access: httpd.Read, Do: func(r *http.Request) (any, error) { return a.status(r.Context()), nil }},
		{Pattern: "GET /api/v1/daemons", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			all, err := askedYes(r.URL.Query(), "all")
			if err != nil {
				return nil, err
			}
			return a.daemonsShape(r.Context(), all, r.URL.Query().Get("node"))
		}},
		{Pattern: "GET /api/v1/daemons/{name}/explain", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			return a.explainOn(r.Context(), r.PathValue("name"), r.URL.Query().Get("node"))
		}},
		{Pattern: "GET /api/v1/work/{id}", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			return a.view(r.Context(), "/api/v1/work/item", url.Values{"id": {r.PathValue("id")}})
		}},
		{Pattern: "GET /api/v1/artifacts/{sha256}", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			return a.view(r.Context(), "/api/v1/artifacts/where", url.Values{"sha256": {r.PathValue("sha256")}})
		}},
		{Pattern: "GET /api/v1/artifacts/verify", Access: httpd.Write, Do: func(r *http.Request) (any, error) {
			return a.verifyArtifacts(r.Context(), r.URL.Query().Get("sha256"))
		}},
		{Pattern: "GET /api/v1/blobs/{sha256}", Access: httpd.Read, Stream: a.streamBlob},
		{Pattern: "GET /api/v1/events", Access: httpd.Read, Stream: a.streamEvents},
		{Pattern: "GET /api/v1/events/verify", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			all, err := askedYes(r.URL.Query(), "all")
			if err != nil {
				return nil, err
			}
			return a.verifyEvents(r.Context(), all), nil
		}},
		{Pattern: "GET /api/v1/dlq", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			unknown := a.node.Class != id.Core // those of singletons are in the state
			if !unknown {
				_, err := a.read(r.Context())
				if err != nil && api.AsError(err).Code != api.CodeNoQuorum {
					return nil, err
				}
				unknown = err != nil
			}
			ls, err := a.letters().All(r.Context())
			return api.DeadLetters{DeadLetters: ls, OnlyHere: unknown}, err
		}},
	}
	for _, p := range []string{"/api/v1/work", "/api/v1/artifacts", "/api/v1/artifacts/under-replicated", "/api/v1/games", "/api/v1/models", "/api/v1/ratings", "/api/v1/settings"} {
		rs = append(rs, httpd.Route{Pattern: "GET " + p, Access: httpd.Read, Do: func(r *http.Request) (any, error) { return a.view(r.Context(), p, r.URL.Query()) }})
	}
	rs = append(rs, httpd.Route{Pattern: "GET /api/v1/tokens", Access: httpd.Write, Do: func(r *http.Request) (any, error) {
		return a.view(r.Context(), "/api/v1/tokens", nil)
	}})
	rs = append(rs, a.mutations()...)
	return append(rs, httpd.HealthRoutes(a.node.Name, time.Now, a.missing, a.metrics)...)
}

func (a *Agent) openServer(c config.Config) {
	a.registerMetrics()
	token := func() string {
		b, err := os.ReadFile(a.conf.Load().TokenPath())
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	if token() == "" {
		a.log.Warn().Str("file", c.TokenPath()).Msg("the file of api.token_file holds no token that can be read: over HTTP nothing can be changed here")
	}
	a.server = httpd.New(httpd.Config{
		Log: a.log, Token: token, LoopbackOpen: c.API.LoopbackReads(), Hosts: append(hosts(c), a.node.Name),
	}, a.routes())
}

// verifyArtifacts recomputes the hashes of this node's copies: one, or all.
func (a *Agent) verifyArtifacts(ctx context.Context, prefix string) (api.Verified, error) {
	out := api.Verified{OK: true, Files: []api.VerifiedBytes{}}
	all, err := a.store.blobs.List()
	if err != nil {
		return out, err
	}
	for _, info := range all {
		if !strings.HasPrefix(string(info.Digest), prefix) {
			continue
		}
		v := api.VerifiedBytes{SHA256: info.Digest, OK: true}
		if err := a.store.Verify(ctx, info.Digest); err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			v.OK, v.Error, out.OK = false, err.Error(), false
		}
		out.Files = append(out.Files, v)
	}
	lost, err := a.store.lost(ctx)
	if err != nil {
		a.log.Warn().Err(err).Msg("it is not known which copies should be here")
	}
	for _, l := range lost {
		if strings.HasPrefix(string(l.Digest), prefix) {
			out.OK = false
			out.Files = append(out.Files, api.VerifiedBytes{SHA256: l.Digest, Error: "the ring counts on this copy, and it is not here"})
		}
	}
	if prefix != "" && len(out.Files) == 0 {
		return out, api.Errorf(api.CodeNotFound, "this node has no copy of %q", prefix)
	}
	return out, nil
}

// checkWork makes an operator's request into an item that a worker can run.
func (a *Agent) checkWork(in api.AddWork) (ring.WorkItem, error) {
	w := a.workload()
	if w == nil {
		return ring.WorkItem{}, api.Errorf(api.CodeRefused, "the ring has no workload").WithHint("set one with: ringagent config apply FILE")
	}
	stage, ok := w.Stages[in.Type]
	if !ok {
		return ring.WorkItem{}, api.Errorf(api.CodeInvalid, "type %q is no stage of the workload", in.Type).WithHint("stages: " + strings.Join(workload.StageNames(), ", "))
	}
	if !slices.Contains(w.Configs, in.Config) {
		return ring.WorkItem{}, api.Errorf(api.CodeInvalid, "config %q is not in the workload, which has %v", in.Config, w.Configs)
	}
	if mine := a.configs(); !slices.Contains(mine, in.Config) {
		return ring.WorkItem{}, api.Errorf(api.CodeRefused, "config %q is not among those that the ring trains, which are %v", in.Config, mine)
	}
	if err := checkParams(in.Params); err != nil {
		return ring.WorkItem{}, err
	}
	key := in.Key
	if key == "" {
		key = fmt.Sprintf("operator/%s/%s/%x", in.Type, in.Config, newNonce())
	}
	item := ring.WorkItem{Type: in.Type, Config: in.Config, Key: key, Priority: 50, Params: in.Params, Inputs: in.Inputs, Needs: ringSlots(stage.Needs)}
	if in.Priority != nil {
		item.Priority = *in.Priority
	}
	return item, nil
}
