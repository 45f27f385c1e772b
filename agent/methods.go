package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
)

// Methods that agents call on each other, beside those of the leader and the replicas.
const (
	methodFetch   = "agent.fetch"   // hold these bytes
	methodReport  = "agent.report"  // what this node says of itself
	methodDaemons = "agent.daemons" // its daemon rows
	methodDaemon  = "agent.daemon"  // start, stop or restart one of its daemons
	methodExplain = "agent.explain"
	methodVerify  = "agent.verify" // verify its replica
	methodView    = "agent.view"   // a view of the API, for nodes that hold no whole state
)

// How many of a method's calls, or streams, one node is given at once. These cost far more than to ask for them; each figure is
// more than an honest node has under way, whose people are then told that the other node is busy.
const (
	verifiesAtOnce = 2
	viewsAtOnce    = 8
	recordsAtOnce  = 32
	fetchesAtOnce  = 8
	tailsAtOnce    = 64 // half of the streams: the log's own must not wait for those of people
	pullsAtOnce    = 4
	relaysAtOnce   = 200 // by one core node for all that reach the coordinator only through it
)

type fetchOrder struct {
	Digest id.Digest `json:"sha256"`
}

// report is what a node says of itself to who asks.
type report struct {
	Boot      id.Boot             `json:"boot"`
	At        time.Time           `json:"at"`
	Unsynced  *int64              `json:"unsynced"`
	PerConfig map[id.Config]int64 `json:"per_config,omitempty"`
	Daemons   int                 `json:"daemons"`
	// Singletons are those held here, with their states.
	Singletons map[string]string `json:"singletons,omitempty"`
	Health     string            `json:"health,omitempty"`
	Reasons    []string          `json:"reasons,omitempty"`
	GPUs       *int              `json:"gpus"`
}

type daemonOrder struct {
	Name string `json:"name"`
	Verb string `json:"verb"`
}

type viewCall struct {
	Path  string     `json:"path"`
	Query url.Values `json:"query"`
}

// viewAnswer carries an answer of the API, or its error as it is.
type viewAnswer struct {
	Body  json.RawMessage `json:"body,omitempty"`
	Error *api.Error      `json:"error,omitempty"`
}

// registerMethods says who may ask this node for what. Rented nodes may read and may ask for bytes to be held; telling
// another node what to run is for core nodes.
func (a *Agent) registerMethods() {
	m := a.mesh
	m.Handle(methodFetch, mesh.Everybody, func(ctx context.Context, r *mesh.Request) (any, error) {
		var in fetchOrder
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		if _, err := id.ParseDigest(string(in.Digest)); err != nil {
			return nil, mesh.Errorf(mesh.CodeInvalid, "%v", err)
		}
		return struct{}{}, a.store.hold(ctx, in.Digest)
	})
	m.Handle(methodReport, mesh.Everybody, func(ctx context.Context, _ *mesh.Request) (any, error) { return a.report(ctx), nil })
	m.Handle(methodDaemons, mesh.Everybody, func(context.Context, *mesh.Request) (any, error) {
		return api.Daemons{Daemons: a.daemonRows()}, nil
	})
	m.Handle(methodExplain, mesh.Everybody, func(ctx context.Context, r *mesh.Request) (any, error) {
		var in daemonOrder
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		return a.explain(ctx, in.Name)
	})
	m.Handle(methodDaemon, mesh.CoreOnly, func(ctx context.Context, r *mesh.Request) (any, error) {
		var in daemonOrder
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		return api.Done{OK: true}, a.steer(ctx, in.Name, in.Verb)
	})
	m.Handle(methodVerify, mesh.Everybody, func(ctx context.Context, _ *mesh.Request) (any, error) { return a.verifyInTurn(ctx) }, mesh.AtOnce(verifiesAtOnce))
	m.Handle(methodReplica, mesh.Everybody, func(context.Context, *mesh.Request) (any, error) { return a.replicaState(), nil })
	m.Handle(methodEventsFetch, mesh.Everybody, a.serveFetch, mesh.AtOnce(fetchesAtOnce))
	m.HandleStream(methodEventsStream, mesh.Everybody, a.serveStream, mesh.AtOnce(fetchesAtOnce))
	m.HandleStream(methodTail, mesh.Everybody, func(_ context.Context, r *mesh.Request) (func(context.Context, io.Writer) error, error) {
		q := url.Values{}
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		q.Del("node")
		return func(ctx context.Context, w io.Writer) error {
			err := a.writeTail(ctx, w, func() {}, q)
			if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.CodeUnreachable {
				return mesh.Errorf(mesh.CodeUnavailable, "%s", e.Message).WithHint(e.Hint)
			}
			return err
		}, nil
	}, mesh.AtOnce(tailsAtOnce))
	if a.node.Class == id.Core {
		m.Handle(methodRecords, mesh.Everybody, a.serveRecords, mesh.AtOnce(recordsAtOnce))
		m.Handle(methodView, mesh.Everybody, func(ctx context.Context, r *mesh.Request) (any, error) {
			var in viewCall
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return a.serveView(ctx, in), nil
		}, mesh.AtOnce(viewsAtOnce))
	}
}

func (a *Agent) replicaState() replicaState {
	st := a.replica.Status()
	h := a.leader.View().LogHead()
	return replicaState{Durable: a.replica.Durable(), Oldest: st.Oldest, HeadSeq: h.Seq, HeadHash: h.Hash, Authority: a.mesh.HasAuthorityKey(), Voter: a.isVoter() && a.leader.Freshness().Known}
}

func (a *Agent) isVoter() bool {
	for _, v := range a.leader.Stats().Voters {
		if v == a.node.ID {
			return true
		}
	}
	return false
}

// fetchBytes bounds one answer to a fetch.
const fetchBytes = 4 << 20

func (a *Agent) serveFetch(ctx context.Context, r *mesh.Request) (any, error) {
	var in fetchCall
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if in.Limit <= 0 || in.Limit > 4096 {
		in.Limit = 4096
	}
	records, err := a.replica.Fetch(ctx, in.After, in.Limit)
	var gap *eventlog.Compacted
	if errors.As(err, &gap) {
		return appendGapFrame(nil, *gap), nil
	}
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, rec := range records {
		if out = appendRecordFrame(out, rec); len(out) > fetchBytes {
			break
		}
	}
	return out, nil
}

// serveStream sends the log from a seq on, as this node's copy grows, in groups that end with a flush.
func (a *Agent) serveStream(ctx context.Context, r *mesh.Request) (func(context.Context, io.Writer) error, error) {
	var in fetchCall
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if in.After == math.MaxUint64 { // nothing comes after it, and what is waited for would be 0, which is always there
		return nil, mesh.Errorf(mesh.CodeInvalid, "no event has a seq after %d", in.After)
	}
	return func(ctx context.Context, w io.Writer) error {
		after := in.After
		for {
			records, err := a.replica.Fetch(ctx, after, 1024)
			var gap *eventlog.Compacted
			switch {
			case errors.As(err, &gap):
				_, err := w.Write(append(appendGapFrame(nil, *gap), frameFlush))
				return err
			case err != nil:
				return err
			}
			if len(records) > 0 {
				var out []byte
				for _, rec := range records {
					out = appendRecordFrame(out, rec)
				}
				if _, err := w.Write(append(out, frameFlush)); err != nil {
					return err
				}
				after = records[len(records)-1].Seq
				continue
			}
			if err := awaitRecord(ctx, a.replica, after+1, a.lastTiming().Times().Lease, a.mayServe); err != nil {
				return err
			}
		}
	}, nil
}

// mayServe says that the log goes on growing here when it does elsewhere. Core nodes know by their coordinator's word.
func (a *Agent) mayServe() bool { return a.node.Class != id.Core || a.leader.MayServe() }

// awaitRecord waits until a copy of the log has come to seq. Every look it asks whether the copy still grows with the log: if
// not, whoever follows it has all that is here, and is to turn to another node.
func awaitRecord(ctx context.Context, r interface {
	WaitDurable(context.Context, uint64) error
}, seq uint64, look time.Duration, grows func() bool) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, look)
		err := r.WaitDurable(waiting, seq)
		over := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !over {
			return err
		}
		if !grows() {
			return mesh.Errorf(mesh.CodeUnavailable, "this node has heard no coordinator for %s", look)
		}
	}
}

// orders asks other nodes; it meets kit.Orders.
type orders struct{ a *Agent }

// Fetch implements kit.Orders.
func (o orders) Fetch(ctx context.Context, n id.Node, d id.Digest) error {
	// An order carries no fence: nobody but this node can refuse it.
	if err := supervise.Entitled(ctx); err != nil {
		return fmt.Errorf("order %s: %w", d.Short(), err)
	}
	if n == o.a.node.ID {
		return o.a.store.hold(ctx, d)
	}
	return o.a.mesh.Call(ctx, n, methodFetch, fetchOrder{Digest: d}, nil)
}

// Ping implements kit.Orders.
func (o orders) Ping(ctx context.Context, n id.Node) (time.Duration, error) {
	begin := time.Now()
	_, err := o.a.mesh.Ping(ctx, n)
	return time.Since(begin), err
}

// report is this node's word about itself.
func (a *Agent) report(ctx context.Context) report {
	r := report{Boot: a.boot, At: time.Now().UTC(), Singletons: map[string]string{}}
	for _, row := range a.supervisor.Rows() {
		if row.AliasOf != "" {
			continue
		}
		if row.State == supervise.Running {
			r.Daemons++
		}
		if row.Scope == kit.ScopeCluster && row.Held {
			r.Singletons[row.Name] = string(row.State)
		}
	}
	r.Unsynced, r.PerConfig = a.unsyncedHere(ctx)
	if h, ok := a.health.get(); ok {
		r.Health, r.Reasons = h.Verdict, h.Reasons
		n := len(h.Sample.GPUs)
		if h.Sample.GPUError == "" {
			r.GPUs = &n
		}
	}
	return r
}

// unsyncedAge is how old a reading of unsynced games may be before it counts as unknown.
const unsyncedAge = 30 * time.Second

// known says whether a report is young enough to speak for its node.
func (a *Agent) known(h heardReport) bool {
	limit := unsyncedAge
	if a.opts.Faults.UnsyncedAge > 0 {
		limit = a.opts.Faults.UnsyncedAge
	}
	return time.Since(h.heard) <= limit
}
