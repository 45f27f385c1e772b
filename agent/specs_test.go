package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/id"
)

// base are the daemons without which a ring can neither hear nor be asked, and those of the test.
func base(extra ...kit.Spec) []kit.Spec {
	var out []kit.Spec
	for _, s := range daemons.All() {
		if slices.Contains([]string{"EVENT_ROUTER", "CROSS_PROCESS_POLLER", "HEALTH_SERVER", "P2P_BACKEND"}, s.Name) {
			out = append(out, s)
		}
	}
	return append(out, extra...)
}

// everywhere is a daemon of every node, singleton one of the core nodes.
func everywhere(name string, run func(context.Context, kit.Env) error) kit.Spec {
	return kit.Spec{Name: name, Category: "test", Doc: "A test's.", Scope: kit.ScopeNode, New: func(env kit.Env) (kit.Daemon, error) {
		return kit.Run(func(ctx context.Context) error { return run(ctx, env) }), nil
	}}
}

func singleton(name string, run func(context.Context, kit.Env) error) kit.Spec {
	s := everywhere(name, run)
	s.Scope, s.Classes = kit.ScopeCluster, []id.Class{id.Core}
	return s
}

// deaf is a daemon that hears no event at all: what it does, it does from the state and its timer.
func deaf(s kit.Spec) kit.Spec {
	whole := s.New
	s.New = func(env kit.Env) (kit.Daemon, error) {
		env.Events = noEvents{env.Events}
		return whole(env)
	}
	return s
}

type noEvents struct{ kit.Events }

// Wake implements kit.Events.
func (noEvents) Wake(context.Context, ...event.Type) <-chan event.Record { return nil }

// Consume implements kit.Events.
func (noEvents) Consume(ctx context.Context, _ kit.Consumer) error {
	<-ctx.Done()
	return nil
}

// attempt is one start of a daemon somewhere.
type attempt struct {
	env kit.Env
	ctx context.Context //nolint:containedctx // the test asks whether it is over
}

// attempts collects them.
type attempts struct {
	mu  sync.Mutex
	all []attempt
}

func (a *attempts) run(ctx context.Context, env kit.Env) error {
	a.mu.Lock()
	a.all = append(a.all, attempt{env, ctx})
	a.mu.Unlock()
	<-ctx.Done()
	return nil
}

// live is the newest attempt that is not over, but for those on a node.
func (a *attempts) live(except string) (attempt, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range slices.Backward(a.all) {
		if x.env.Self.Name != except && x.ctx.Err() == nil {
			return x, true
		}
	}
	return attempt{}, false
}

// book collects what was heard, by whom.
type book struct {
	mu    sync.Mutex
	lines []string
}

func (b *book) add(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, fmt.Sprintf(format, args...))
}

func (b *book) list() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

// note publishes an OPERATOR_NOTE through a node's socket.
func note(ctx context.Context, n *agenttest.Node, text string, wait bool) (api.Published, error) {
	payload, err := json.Marshal(map[string]any{"text": text})
	if err != nil {
		return api.Published{}, err
	}
	var out api.Published
	err = n.Client().Post(ctx, "/api/v1/events", api.Publish{Type: "OPERATOR_NOTE", Payload: payload, Wait: wait, Key: "note/" + text}, &out)
	return out, err
}

func mustNote(t *testing.T, r *agenttest.Ring, n *agenttest.Node, text string) (seq uint64) {
	t.Helper()
	r.Until("note "+text, func(ctx context.Context) error {
		p, err := note(ctx, n, text, true)
		if p.Seq != nil {
			seq = *p.Seq
		}
		return err
	})
	return seq
}

// textOf is the text of an OPERATOR_NOTE.
func textOf(r event.Record) string {
	var p struct {
		Text string `json:"text"`
	}
	_ = json.Unmarshal(r.Payload, &p)
	return p.Text
}

// lines reads a node's whole log of one type.
func lines(ctx context.Context, n *agenttest.Node, eventType string) ([]event.Line, error) {
	body, err := n.Client().Stream(ctx, "/api/v1/events", map[string][]string{"after": {"0"}, "type": {eventType}})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	var out []event.Line
	for dec.More() {
		var l event.Line
		if err := dec.Decode(&l); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// fetched has a node fetch an artifact, of which it then holds a copy.
func fetched(t *testing.T, n *agenttest.Node, d id.Digest) {
	t.Helper()
	body, err := n.Client().Stream(t.Context(), "/api/v1/blobs/"+string(d), nil)
	must(t, err)
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
}

// uploadModel gives node n a network made from seed.
func uploadModel(t *testing.T, r *agenttest.Ring, n *agenttest.Node, seed uint64) id.Digest {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model")
	if err := connect4.SaveModel(path, &connect4.Model{Net: connect4.NewNetwork(seed), Info: connect4.ModelInfo{Seed: seed}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var a api.Artifact
	r.Until("upload", func(ctx context.Context) error {
		return n.Client().Upload(ctx, "/api/v1/artifacts", map[string][]string{"kind": {"model"}, "config": {"connect4_2p"}}, bytes.NewReader(b), &a)
	})
	return a.SHA256
}
