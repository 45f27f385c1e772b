package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
)

// The majority is lost, and with it events that it alone had decided: an edge node has read them, and so have its subscribers
// and another process. After the recovery their seqs belong to other events, which all of them hear; what the edge node
// itself had stated is in the log again.
func TestRecoveredRingIsFollowed(t *testing.T) {
	t.Parallel()
	heard := map[string]*book{"c1": {}, "c2": {}, "c3": {}, "e1": {}, "e2": {}}
	listener := everywhere("TEST_LISTENER", func(ctx context.Context, env kit.Env) error {
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(_ context.Context, r event.Record) error {
			heard[env.Self.Name].add("%s", textOf(r))
			return nil
		}})
	})
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 2, Specs: base(listener)})
	e1, e2 := r.Node("e1"), r.Node("e2")
	mustNote(t, r, e1, "before")
	lead := r.Coordinator()
	var survivor *agenttest.Node
	var lost []*agenttest.Node
	for _, n := range []string{"c1", "c2", "c3"} {
		switch n := r.Node(n); {
		case n != lead && survivor == nil:
			survivor = n
		default:
			lost = append(lost, n)
		}
	}
	r.Partition(survivor.Name)
	mustNote(t, r, e1, "mine")
	var last uint64
	for i := range 40 {
		last = mustNote(t, r, lost[0], fmt.Sprintf("theirs-%d", i))
	}
	hears := func(n *agenttest.Node, text string) {
		t.Helper()
		r.Until(text+" heard on "+n.Name, func(context.Context) error {
			if l := heard[n.Name].list(); !slices.Contains(l, text) {
				return fmt.Errorf("heard %v", l)
			}
			return nil
		})
	}
	hears(e1, "theirs-39")
	ack := func(name string, seq uint64) error {
		return e1.Client().Post(t.Context(), "/api/v1/consume/"+name+"/ack", map[string]uint64{"seq": seq}, nil)
	}
	if err := ack("outside", last); err != nil {
		t.Fatal(err)
	}
	slow, err := consumed(t.Context(), e1, "slow") // shown all, and acknowledges nothing yet
	if err != nil {
		t.Fatal(err)
	}
	slow.Close()
	e2.Stop() // off during all that follows
	for _, n := range lost {
		n.Kill()
	}
	r.Heal()
	r.Until("nobody to coordinate", func(ctx context.Context) error {
		var l api.Leader
		err := survivor.Client().Get(ctx, "/api/v1/leader", nil, &l)
		if err == nil && l.Coordinator != nil {
			err = errors.New(*l.Coordinator)
		}
		return err
	})
	var done api.Recovered
	in := api.Recover{Lost: []string{lost[0].Name, lost[1].Name}}
	if err := survivor.Client().Post(t.Context(), "/api/v1/leader/recover", in, &done); err != nil || done.Generation != 1 || len(done.ShutOut) != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	r.Until("what e1 had stated in the log again", func(ctx context.Context) error {
		ls, err := lines(ctx, survivor, "OPERATOR_NOTE")
		if err == nil && len(ls) != 2 {
			err = fmt.Errorf("%d notes", len(ls))
		}
		return err
	})
	after := mustNote(t, r, survivor, "after")
	if after >= last {
		t.Fatalf("the note after the recovery has seq %d, behind %d: nothing is shown", after, last)
	}
	hears(e1, "after")
	for _, name := range []string{"outside", "slow"} {
		if e := (*api.Error)(nil); !errors.As(ack(name, after), &e) || e.Code != api.CodeConflict {
			t.Errorf("%s acknowledged what it was shown before the recovery: %v", name, e)
		}
	}
	r.Until("another process on e1 to be told", func(ctx context.Context) error {
		body, err := consumed(ctx, e1, "outside")
		if err != nil {
			return err
		}
		defer body.Close()
		for dec := json.NewDecoder(body); ; {
			var l event.Line
			if err := dec.Decode(&l); err != nil {
				return err
			}
			if l.Seq == after {
				return nil
			}
		}
	})
	if err := ack("outside", after); err != nil {
		t.Error(err)
	}
	e2.Start()
	hears(e2, "after")
	r.Until("copies that agree", func(ctx context.Context) error {
		var v api.Verify
		err := e2.Client().Get(ctx, "/api/v1/events/verify", map[string][]string{"all": {"true"}}, &v)
		if err == nil && (!sound(v.OK) || len(v.Nodes) != 3) {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
}

// A survivor that has started since the loss knows no state until it decides, and so no names but those it wrote down.
func TestRecoverAfterARestart(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 3, Specs: base()})
	mustNote(t, r, r.Node("c3"), "before")
	r.Node("c1").Kill()
	r.Node("c2").Kill()
	r.Node("c3").Restart(true)
	r.Until("a recovery", func(ctx context.Context) error {
		return r.Node("c3").Client().Post(ctx, "/api/v1/leader/recover", api.Recover{Lost: []string{"c1", "c2"}}, nil)
	})
	mustNote(t, r, r.Node("c3"), "after")
}
