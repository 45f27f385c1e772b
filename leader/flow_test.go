package leader_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// outbox is a publisher that sends its events in order until each has its place.
type outbox struct {
	origin event.Origin
	node   id.Node
	hash   event.Hash
	next   uint64
}

func (o *outbox) batch(n int) (state.EventBatch, event.Hash) {
	b := state.EventBatch{Origin: o.origin, Node: o.node, First: o.next, Before: o.hash}
	h := o.hash
	for i := range n {
		d := event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: o.node, Time: time.Unix(0, 0), Payload: fmt.Appendf(nil, `{"n":%d}`, o.next+uint64(i))})
		h = h.Next(d)
		b.Drafts = append(b.Drafts, d)
	}
	return b, h
}

// Publishers on every node, the coordinator killed twice: each event has exactly one place, in its publisher's order, and
// the same one on every node.
func TestEventsHaveOnePlaceThroughKills(t *testing.T) {
	t.Parallel()
	const each, size = 400, 8
	placed := make(map[id.Node]map[uint64]string)
	var mu sync.Mutex
	bubble(t, leadertest.Options{Core: 3, Edge: 2, Voters: 3, Config: func(m *leadertest.Member, c *leader.Config) {
		mu.Lock()
		placed[m.ID] = make(map[uint64]string)
		mu.Unlock()
		c.Ports.Placed = func(rs []state.Placed, _ ring.LogHead) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range rs {
				if old, ok := placed[m.ID][r.Seq]; ok && old != string(r.Bytes) {
					t.Errorf("%s: two records at %d", m.Name, r.Seq)
				}
				placed[m.ID][r.Seq] = string(r.Bytes)
			}
		}
	}}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		time.Sleep(5 * time.Second)
		var wg sync.WaitGroup
		for i, m := range r.Members {
			wg.Go(func() {
				o := &outbox{origin: event.Origin(fmt.Sprintf("%016x", 100+i)), node: m.ID, next: 1}
				for o.next <= each {
					ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
					b, h := o.batch(size)
					res, err := r.Member(m.ID).Node.ProposeEvents(ctx, b)
					cancel()
					if err != nil {
						time.Sleep(100 * time.Millisecond)
						continue
					}
					if res.Altered || res.Refused != "" || res.Next != o.next+size {
						t.Errorf("%s: %+v", m.Name, res)
						return
					}
					o.next, o.hash = res.Next, h
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		for range 2 {
			time.Sleep(600 * time.Millisecond)
			c := r.Coordinator()
			if c == nil {
				t.Fatal("no coordinator to kill")
			}
			r.Net.Isolate(c.ID, r.IDs()...)
			r.Wait(8*time.Second, "another coordinator", func() bool { return r.Coordinator(c) != nil })
			r.Net.Heal()
		}
		wg.Wait()
		r.Wait(10*time.Second, "all voters at the same head", func() bool {
			h := r.Members[0].Node.View().LogHead()
			return r.Members[1].Node.View().LogHead() == h && r.Members[2].Node.View().LogHead() == h
		})
		mu.Lock()
		defer mu.Unlock()
		seen := make(map[string]bool)
		last := make(map[event.Origin]uint64)
		head := r.Members[0].Node.View().LogHead().Seq
		for seq := uint64(1); seq <= head; seq++ {
			b := placed[r.Members[0].ID][seq]
			for _, m := range r.Members[1:3] {
				if placed[m.ID][seq] != b {
					t.Fatalf("%s differs at %d", m.Name, seq)
				}
			}
			rec, err := event.DecodeRecord([]byte(b))
			if err != nil {
				t.Fatal(err)
			}
			if rec.Origin == event.StateOrigin {
				continue
			}
			if seen[rec.ID()] || rec.Number != last[rec.Origin]+1 {
				t.Fatalf("%s after %d", rec.ID(), last[rec.Origin])
			}
			seen[rec.ID()], last[rec.Origin] = true, rec.Number
		}
		if len(seen) != each*len(r.Members) {
			t.Fatalf("%d events of %d", len(seen), each*len(r.Members))
		}
	})
}

func TestEdgeKeepsACopyAndReadsTheWhole(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		e := r.Members[3]
		r.Wait(5*time.Second, "the copy", func() bool { return e.Node.Freshness().Known })
		if has(r.Coordinator().Node.Stats().Voters, e.ID) || has(r.Coordinator().Node.Stats().Nonvoters, e.ID) {
			t.Fatal("an edge node is in Raft's configuration")
		}
		c := r.Coordinator()
		if _, err := c.Node.Propose(t.Context(), state.Command{Kind: state.KindDaemonSwitch, Body: state.SwitchDaemon{Daemon: "X", Off: true}}); err != nil {
			t.Fatal(err)
		}
		took := r.Wait(5*time.Second, "the switch at the edge", func() bool { return e.Node.View().DaemonOff("X") })
		t.Logf("at the edge after %s", took)
		for m := range c.Node.View().Members() {
			if got, ok := e.Node.View().MemberByName(m.Name); !ok || got.ID != m.ID || got.Boot != m.Boot {
				t.Errorf("%s at the edge: %+v", m.Name, got)
			}
		}
		s, err := e.Node.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if state.Digest(s) != state.Digest(c.Node.View()) {
			t.Error("the whole state differs")
		}
		// An edge node may not act for others, nor hand out tokens.
		var no *leader.Refused
		if _, err := e.Node.Propose(t.Context(), token("mine")); !errors.As(err, &no) || no.Code != string(state.CodeUnauth) {
			t.Errorf("a token from the edge: %v", err)
		}
		// A voter forwards when the coordinator itself cannot be reached.
		r.Net.Hold(e.ID, c.ID)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = e.Node.Propose(ctx, state.Command{Kind: state.KindReport, Once: "again", Body: state.Report{Member: ring.Member{ID: e.ID, Boot: e.Boot, Version: "9"}}})
		if err != nil {
			t.Fatalf("through a voter: %v", err)
		}
		if m, _ := c.Node.View().Member(e.ID); m.Version != "9" {
			t.Error("it did not arrive")
		}
	})
}

type deaf struct {
	gossip ring.Status
	back   error
}

func (d deaf) GossipStatus(id.Node) ring.Status        { return d.gossip }
func (d deaf) DialBack(context.Context, id.Node) error { return d.back }

func TestNodeIsDeadWhenThreeReadingsAgree(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reach deaf
		kill  bool
		after time.Duration
		dead  bool
	}{
		"silent and unreachable":             {deaf{ring.Failed, leadertest.ErrBroken}, true, 20 * time.Second, true},
		"gossip alone":                       {deaf{ring.Failed, leadertest.ErrBroken}, false, 20 * time.Second, false},
		"silent, but gossip sees it live":    {deaf{ring.Alive, leadertest.ErrBroken}, true, 20 * time.Second, false},
		"gossip sees it live for ever":       {deaf{ring.Alive, leadertest.ErrBroken}, true, 5 * time.Minute, true},
		"silent, but can be reached":         {deaf{ring.Failed, nil}, true, 5 * time.Minute, false},
		"silent, but seen and reached":       {deaf{ring.Alive, nil}, true, 5 * time.Minute, false},
		"heard, whatever the others may say": {deaf{ring.Failed, leadertest.ErrBroken}, false, 5 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			told := make(map[event.Type]int)
			bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3, Config: func(m *leadertest.Member, cfg *leader.Config) {
				cfg.Ports.Reach = c.reach
				if m.Name != "n1" {
					return
				}
				cfg.Ports.Placed = func(rs []state.Placed, _ ring.LogHead) {
					mu.Lock()
					defer mu.Unlock()
					for _, r := range rs {
						if rec, err := event.DecodeRecord(r.Bytes); err != nil {
							t.Error(err)
						} else {
							told[rec.Type]++
						}
					}
				}
			}}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				time.Sleep(5 * time.Second)
				e := r.Members[3]
				if c.kill {
					r.Kill(e)
				}
				time.Sleep(c.after)
				m, _ := r.Coordinator().Node.View().Member(e.ID)
				if (m.Status == ring.Failed) != c.dead {
					t.Errorf("status %s", m.Status)
				}
				want := 0
				if c.dead {
					want = 1
				}
				mu.Lock()
				defer mu.Unlock()
				if told["P2P_NODE_DEAD"] != want || told["HOST_OFFLINE"] != want {
					t.Errorf("want %d of each: %v", want, told)
				}
			})
		})
	}
}

func TestWorkIsClaimedOnceAndExpires(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		time.Sleep(3 * time.Second)
		ctx := t.Context()
		item := ring.WorkItem{Type: "selfplay", Config: "connect4_2p", Key: "k1", Needs: ring.Slots{CPU: 1}, Params: map[string]string{"games": "1"}}
		if _, err := r.Coordinator().Node.Propose(ctx, state.Command{Kind: state.KindEnqueue, Body: state.Enqueue{Items: []ring.WorkItem{item}}}); err != nil {
			t.Fatal(err)
		}
		e := r.Members[3]
		call := leader.ClaimCall{Once: "c1", Free: ring.Slots{CPU: 2}, Lease: ring.Duration(10 * time.Second)}
		w, err := e.Node.Claim(ctx, call)
		if err != nil || w == nil {
			t.Fatalf("claim: %v, %v", w, err)
		}
		again, err := e.Node.Claim(ctx, call)
		if err != nil || again == nil || again.Claim.ID != w.Claim.ID {
			t.Fatalf("the same request again: %v, %v", again, err)
		}
		call.Once = "c2"
		if other, err := r.Members[1].Node.Claim(ctx, call); err != nil || other != nil {
			t.Fatalf("a second claim: %v, %v", other, err)
		}
		for range 4 {
			time.Sleep(4 * time.Second)
			if gone, err := e.Node.Heartbeat(ctx, w.Claim.ID); err != nil || len(gone) != 0 {
				t.Fatalf("heartbeat: %v, %v", gone, err)
			}
		}
		time.Sleep(15 * time.Second)
		gone, err := e.Node.Heartbeat(ctx, w.Claim.ID)
		if err != nil || len(gone) != 1 {
			t.Fatalf("after the lease: %v, %v", gone, err)
		}
		var no *leader.Refused
		_, err = e.Node.Finish(ctx, state.FinishWork{Work: w.ID, Claim: w.Claim.ID, Result: &ring.WorkResult{Counters: map[string]int64{"games": 1}}})
		if !errors.As(err, &no) || no.Code != string(state.CodeConflict) {
			t.Fatalf("a late result: %v", err)
		}
		// It goes to the next one that asks, whose result counts.
		next := r.Members[1]
		call.Once = "c3"
		w2, err := next.Node.Claim(ctx, call)
		if err != nil || w2 == nil || w2.ID != w.ID || w2.Claim.ID == w.Claim.ID {
			t.Fatalf("claimed after the lease: %+v, %v", w2, err)
		}
		done, err := next.Node.Finish(ctx, state.FinishWork{Work: w2.ID, Claim: w2.Claim.ID, Result: &ring.WorkResult{Counters: map[string]int64{"games": 1}}})
		if err != nil || done.State != ring.WorkDone || done.Result == nil || done.Result.Node != next.ID {
			t.Fatalf("the second one's result: %+v, %v", done, err)
		}
	})
}

// An item whose input nobody holds stands in the way of the next one: it is cancelled, though not at once.
func TestWorkWithLostInputIsCancelled(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "a voter", voters(r, 1))
		c := r.Coordinator().Node
		item := ring.WorkItem{Type: "train", Config: "connect4_2p", Key: "k1", Inputs: []ring.Input{{Role: "dataset", Digest: id.DigestOf([]byte("gone"))}}}
		if _, err := c.Propose(t.Context(), state.Command{Kind: state.KindEnqueue, Body: state.Enqueue{Items: []ring.WorkItem{item}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		if w, _ := c.View().WorkByKey("k1"); w.State != ring.WorkPending {
			t.Fatalf("%s after 9 minutes: a restart of its holder may take that long", w.State)
		}
		r.Wait(2*time.Minute, "the item's end", func() bool {
			w, _ := c.View().WorkByKey("k1")
			return w.State == ring.WorkCancelled && strings.HasPrefix(w.Error, "input lost")
		})
	})
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		to := r.Members[1]
		if to == c {
			to = r.Members[2]
		}
		if err := r.Members[2].Node.Transfer(t.Context(), to.ID); err != nil {
			t.Fatal(err)
		}
		r.Wait(5*time.Second, "the chosen one", func() bool { return r.Coordinator() == to })
	})
}

// What the coordinator does not do for edge nodes is refused, which is known to have had no effect, and the coordinator is
// asked directly as before.
func TestRefusedByClassIsNotUnknown(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		edge := r.Members[3]
		if edge.Class != id.Edge {
			t.Fatalf("%s is %s", edge.Name, edge.Class)
		}
		begin := time.Now()
		err := edge.Node.Transfer(t.Context(), r.Members[1].ID)
		var refused *leader.Refused
		if !errors.As(err, &refused) || refused.Code != string(state.CodeUnauth) || errors.Is(err, leader.ErrUnknownOutcome) {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if edge.Node.Doubts(r.Coordinator().ID) {
			t.Error("the coordinator that refused is asked through others")
		}
	})
}

// An outbox sends a batch until it is placed: the verdicts on its drafts must not make it too large for an entry.
func TestVerdictsDoNotBlockAnOutbox(t *testing.T) {
	t.Parallel()
	config := func(_ *leadertest.Member, c *leader.Config) {
		c.Ports.Vet = func([]byte) string { return strings.Repeat("ü", 200) }
	}
	bubble(t, leadertest.Options{Core: 1, Voters: 1, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		m := r.Members[0]
		const most, bytes = 512, 192 << 10 // of an outbox's batch
		b := state.EventBatch{Origin: "00000000000000a1", Node: m.ID, First: 1}
		for range most {
			b.Drafts = append(b.Drafts, make([]byte, bytes/most))
		}
		res, err := m.Node.ProposeEvents(t.Context(), b)
		if err != nil || res.Next != most+1 {
			t.Errorf("%+v, %v", res.Next, err)
		}
	})
}
