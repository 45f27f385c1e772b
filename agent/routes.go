package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"

	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
	"github.com/ringagent/ringagent/leader"
)

// read is the view that answers are made of: the near copy, or on a node that holds no whole state the coordinator's.
func (a *Agent) read(ctx context.Context) (reading, error) {
	if a.node.Class == id.Core {
		return reading{a.leader.View(), a.leader.Freshness()}, nil
	}
	s, err := a.leader.Read(ctx)
	if err != nil {
		return reading{}, decided(err)
	}
	return reading{s, a.leader.Freshness()}, nil
}

func (a *Agent) near() reading { return reading{a.leader.View(), a.leader.Freshness()} }

// newest is a reading as new as the coordinator's, or the one at hand where nobody coordinates.
func (a *Agent) newest(ctx context.Context) reading {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := a.leader.Read(ctx)
	if err != nil {
		return a.near()
	}
	return reading{s, a.leader.Freshness()}
}

func (a *Agent) asOf(r reading) api.AsOf {
	s, _ := r.s.Settings()
	return r.asOf(time.Now(), s.Timing.Times().HealthExpires)
}

// asOfWith is asOf where it is known whether there is a coordinator: without one every view is as old as its last word.
func (a *Agent) asOfWith(r reading, st leader.Stats) api.AsOf {
	out := a.asOf(r)
	if st.Coordinator == nil && out.AsOf == nil {
		at := r.fresh.AsOf.UTC()
		out.AsOf = &at
	}
	return out
}

// views are the answers that any core node can give for any other: pure functions of the replicated state.
func (a *Agent) views() map[string]func(ctx context.Context, r reading, q url.Values) (any, error) {
	kindOf := func(q url.Values) (ring.Kind, id.Config) { return ring.Kind(q.Get("kind")), id.Config(q.Get("config")) }
	return map[string]func(context.Context, reading, url.Values) (any, error){
		"/api/v1/work": func(_ context.Context, r reading, q url.Values) (any, error) {
			return api.WorkList{Work: r.work(q.Get("all") != "", q.Get("state"), q.Get("type")), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/work/item": func(_ context.Context, r reading, q url.Values) (any, error) {
			w, ok := r.s.Work(q.Get("id"))
			if !ok {
				return nil, api.Errorf(api.CodeNotFound, "no work item %q", q.Get("id")).WithHint("list them with: ringagent work list --all")
			}
			return r.workRow(w), nil
		},
		"/api/v1/artifacts": func(_ context.Context, r reading, q url.Values) (any, error) {
			k, c := kindOf(q)
			return api.Artifacts{Artifacts: r.artifacts(k, c, nil), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/artifacts/under-replicated": func(_ context.Context, r reading, q url.Values) (any, error) {
			return api.Artifacts{Artifacts: r.underReplicated(), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/artifacts/where": func(_ context.Context, r reading, q url.Values) (any, error) {
			art, err := r.prefixed(q.Get("sha256"))
			if err != nil {
				return nil, err
			}
			return api.Artifacts{Artifacts: []api.Artifact{r.artifact(art, r.named())}, AsOf: a.asOf(r)}, nil
		},
		"/api/v1/games": func(ctx context.Context, r reading, q url.Values) (any, error) {
			unsynced, known := a.unsynced(ctx, r)
			// The state comes after the question: a game that has become safe meanwhile is counted here, or it would be in neither.
			r = a.newest(ctx)
			return api.Games{Configs: r.games(id.Config(q.Get("config")), unsynced, known), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/models": func(_ context.Context, r reading, q url.Values) (any, error) {
			return api.Models{Models: r.models(id.Config(q.Get("config")), q.Get("history") != ""), AsOf: a.asOf(r)}, nil
		},
		"/api/v1/ratings": func(ctx context.Context, r reading, q url.Values) (any, error) {
			return a.ratings(ctx, r, id.Config(q.Get("config"))), nil
		},
		"/api/v1/tokens": func(_ context.Context, r reading, _ url.Values) (any, error) {
			return api.Tokens{Tokens: r.tokens()}, nil
		},
		"/api/v1/settings": func(_ context.Context, r reading, _ url.Values) (any, error) {
			s, version := r.s.Settings()
			return settingsAnswer{Version: version, Settings: s}, nil
		},
	}
}

type settingsAnswer struct {
	Version  uint64        `json:"version"`
	Settings ring.Settings `json:"settings"`
}

// view answers from here, or asks a core node to answer in this node's place.
func (a *Agent) view(ctx context.Context, path string, q url.Values) (any, error) {
	if a.node.Class == id.Core {
		return a.views()[path](ctx, a.near(), q)
	}
	var last error = api.Errorf(api.CodeUnreachable, "no core node answers")
	for _, n := range a.viewNodes() {
		var out viewAnswer
		if err := a.mesh.Call(ctx, n, methodView, viewCall{Path: path, Query: q}, &out); err != nil {
			last = meshError(err)
			continue
		}
		if out.Error != nil {
			return nil, out.Error
		}
		return out.Body, nil
	}
	return nil, last
}

// viewNodes are the core nodes, the coordinator first: its view is the newest.
func (a *Agent) viewNodes() []id.Node {
	all := a.coreNodes()
	lead := a.leader.Freshness().Coordinator
	slices.SortStableFunc(all, func(x, y id.Node) int {
		switch {
		case x == y:
			return 0
		case x == lead:
			return -1
		case y == lead:
			return 1
		}
		return 0
	})
	return all
}

func (a *Agent) serveView(ctx context.Context, c viewCall) viewAnswer {
	f, ok := a.views()[c.Path]
	if !ok {
		return viewAnswer{Error: api.Errorf(api.CodeNotFound, "no view %q", c.Path)}
	}
	v, err := f(ctx, a.near(), c.Query)
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
			return a.daemonsShape(r.Context(), r.URL.Query().Get("all") != "", r.URL.Query().Get("node"))
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
			return a.verifyEvents(r.Context(), r.URL.Query().Get("all") != ""), nil
		}},
		{Pattern: "GET /api/v1/dlq", Access: httpd.Read, Do: func(r *http.Request) (any, error) {
			ls, err := a.letters().All(r.Context())
			return api.DeadLetters{DeadLetters: ls}, err
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
		f := a.conf.Load().API.TokenFile
		if f == "" {
			f = a.dir.path("api.token")
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	a.server = httpd.New(httpd.Config{
		Log: a.log, Token: token, LoopbackOpen: c.API.LoopbackReads(), Hosts: append(hosts(c), a.node.Name),
	}, a.routes())
}

// streamBlob sends an artifact's bytes; a node that has none fetches them first.
func (a *Agent) streamBlob(w http.ResponseWriter, r *http.Request) error {
	rd, err := a.read(r.Context())
	if err != nil {
		return err
	}
	art, err := rd.prefixed(strings.ToLower(r.PathValue("sha256")))
	if err != nil {
		return err
	}
	if _, err := a.store.read(r.Context(), art); err != nil {
		return api.Errorf(api.CodeFailed, "get artifact %s: %v", art.Digest.Short(), err)
	}
	f, err := a.store.blobs.Open(art.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(art.Bytes, 10))
	_, err = io.Copy(w, f)
	return err
}

// streamEvents is the log as JSON lines, from this node's replica or another's.
func (a *Agent) streamEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if n := q.Get("node"); n != "" {
		m, err := a.near().find(n)
		if err != nil {
			return err
		}
		if m.ID != a.node.ID {
			return a.streamRemoteEvents(w, r, m.ID)
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	return a.writeTail(r.Context(), w, func() { httpd.Flush(w) }, q)
}

// writeTail writes this node's replica as JSON lines.
func (a *Agent) writeTail(ctx context.Context, w io.Writer, flush func(), q url.Values) error {
	from, filter, err := a.tailFrom(q)
	if err != nil {
		return err
	}
	limit, err := number(q, "limit")
	if err != nil {
		return err
	}
	follow := q.Get("follow") != ""
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if follow {
		flush() // so that the reader knows that it is heard before the first event comes
	}
	sent := uint64(0)
	for rec, err := range a.replica.Tail(ctx, from, filter, follow) {
		var gap *eventlog.Compacted
		switch {
		case errors.As(err, &gap):
			if err := enc.Encode(api.CompactedLine{Compacted: api.Compacted{From: gap.From, To: gap.To, Oldest: gap.Oldest}}); err != nil {
				return err
			}
			continue
		case err != nil:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := enc.Encode(rec.Line()); err != nil {
			return err
		}
		if sent++; limit > 0 && sent >= limit {
			return nil
		}
		if follow {
			flush()
		}
	}
	return nil
}

// streamRemoteEvents passes on what another node's replica says.
func (a *Agent) streamRemoteEvents(w http.ResponseWriter, r *http.Request, n id.Node) error {
	body, err := a.mesh.Stream(r.Context(), n, methodTail, r.URL.Query())
	if err != nil {
		return meshError(err)
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	httpd.Flush(w)
	buf := make([]byte, 32<<10)
	for {
		k, err := body.Read(buf)
		if k > 0 {
			if _, werr := w.Write(buf[:k]); werr != nil {
				return werr
			}
			httpd.Flush(w)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return meshError(err)
		}
	}
}

func number(q url.Values, name string) (uint64, error) {
	s := q.Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalid, "%s %q: want a whole number from 0 on", name, s)
	}
	return n, nil
}

func (a *Agent) tailFrom(q url.Values) (eventlog.Start, eventlog.Filter, error) {
	var f eventlog.Filter
	if t := q.Get("type"); t != "" {
		if _, err := path.Match(t, ""); err != nil {
			return eventlog.Start{}, f, api.Errorf(api.CodeInvalid, "type %q: %v", t, err)
		}
		f.Types = []string{t}
	}
	if o := q.Get("origin"); o != "" {
		m, err := a.near().find(o)
		if err != nil {
			return eventlog.Start{}, f, err
		}
		f.Node = m.ID
	}
	if s := q.Get("since"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return eventlog.Start{}, f, api.Errorf(api.CodeInvalid, "since %q: want an RFC 3339 time", s)
		}
		return eventlog.Since(t), f, nil
	}
	if q.Has("after") {
		n, err := number(q, "after")
		return eventlog.After(n), f, err
	}
	return eventlog.Now(), f, nil
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
	for _, d := range lost {
		if strings.HasPrefix(string(d), prefix) {
			out.OK = false
			out.Files = append(out.Files, api.VerifiedBytes{SHA256: d, Error: "the ring counts on this copy, and it is not here"})
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
