package daemons

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const c4 = id.Config("connect4_2p")

// arena is a ring in which one daemon, whole or gutted, has to show what it is for.
type arena struct {
	*kittest.Ring
	n   []*kittest.Node // three core, two edge
	gut string          // the daemon whose body is taken out

	overlay map[string]json.RawMessage // settings of the daemons
}

func newArena(t *testing.T, gut string) *arena {
	a := &arena{Ring: kittest.New(t, c4), gut: gut, overlay: DevOverlay()}
	for i := range 5 {
		class := id.Core
		if i >= 3 {
			class = id.Edge
		}
		a.n = append(a.n, a.AddNode(fmt.Sprintf("n%d", i+1), class, ring.Slots{CPU: 1}))
	}
	return a
}

func (a *arena) spec(name string) kit.Spec {
	s, ok := ByName(name)
	if !ok {
		a.T.Fatalf("no daemon %s", name)
	}
	if name == a.gut {
		s.New = func(kit.Env) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		}
	}
	return s
}

func (a *arena) run(node int, name string) func() error {
	return a.n[node].Start(a.spec(name), string(a.overlay[name]))
}

// within polls on the bubble's clock.
func within(limit time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v", what, limit)
		}
	}
	return nil
}

func (a *arena) logged(t event.Type) bool { return len(a.Log(t)) > 0 }

// packs makes n packs known of so many games each, held by the first two nodes.
func (a *arena) packs(prefix string, n int, games int64) {
	for i := range n {
		a.AddArtifact(ring.KindPack, c4, fmt.Sprintf("%s%d", prefix, i), map[string]int64{kit.CounterGames: games}, nil, a.n[0], a.n[1])
	}
}

func (a *arena) finish(workType string, out kittest.Outcome) error {
	w, ok := a.Claim(a.n[1])
	if !ok || w.Type != workType {
		return fmt.Errorf("claimed %q, want %s", w.Type, workType)
	}
	a.Finish(a.n[1], w.ID, out)
	return nil
}

// measured makes a candidate with an evaluation whose matches have the given scores.
func (a *arena) measured(name string, shares map[string]float64) (id.Digest, error) {
	m := a.AddArtifact(ring.KindModel, c4, name, nil, nil, a.n[1])
	w := ring.WorkItem{Type: kit.StageEvaluate, Config: c4, Key: kit.EvaluateKey(c4, m.Digest), Priority: 100,
		Inputs: []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}}
	e, _ := ByName("EVALUATION")
	if _, err := a.n[0].Env(e, "").Effects.Enqueue(context.Background(), w); err != nil {
		return "", err
	}
	out := kittest.Outcome{Counters: map[string]int64{kit.CounterMatches: 200, "vs:random:games": 100, "vs:random:wins": 100}}
	if shares != nil {
		path, err := kittest.Matches(a.n[1].Dir(), name, c4, m.Digest, 100, shares)
		if err != nil {
			return "", err
		}
		d, size, err := a.n[1].Env(e, "").Store.PutFile(context.Background(), path)
		if err != nil {
			return "", err
		}
		out.Artifacts = []ring.Artifact{{Digest: d, Kind: ring.KindMatches, Bytes: size}}
	}
	return m.Digest, a.finish(kit.StageEvaluate, out)
}

// checks say of each daemon what would be missing without it. A check is an error, so that the same check can be shown to
// fail for a daemon without a body.
func checks() map[string]func(*arena) error {
	out := map[string]func(*arena) error{
		"DLQ_RETRY": func(a *arena) error {
			var working atomic.Bool
			var handled atomic.Int32
			env := a.n[0].Env(kit.Spec{Name: "SOMEBODY", Scope: kit.ScopeNode}, "")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() {
				_ = env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{event.OperatorNote.Type()}, Handle: func(context.Context, event.Record) error {
					if !working.Load() {
						return errors.New("deliberate")
					}
					handled.Add(1)
					return nil
				}})
			}()
			if _, err := env.Events.Publish(ctx, event.OperatorNote.Type(), event.Note{Text: "x", Subject: event.Subject{NodeID: "n"}}, ""); err != nil {
				return err
			}
			if err := within(5*time.Minute, "dead letter", func() bool { return len(a.Letters()) == 1 }); err != nil {
				return err
			}
			working.Store(true)
			a.run(0, "DLQ_RETRY")
			if err := within(5*time.Minute, "delivered after all", func() bool { return len(a.Letters()) == 0 && a.logged(event.DLQEventsReplayed.Type()) }); err != nil {
				return err
			}
			if n := handled.Load(); n != 1 {
				return fmt.Errorf("handled %d times", n)
			}
			return nil
		},
		"DAEMON_WATCHDOG": func(a *arena) error {
			a.n[0].Set(func(n *kittest.Node) {
				n.Books = []kit.DaemonProgress{{Name: "HUNG", Since: time.Now(), Deadline: time.Minute}, {Name: "FINE", Since: time.Now(), Deadline: time.Hour}}
			})
			a.run(0, "DAEMON_WATCHDOG")
			return within(2*time.Minute, "hung daemon cancelled and told", func() bool {
				ok := false
				a.n[0].Set(func(n *kittest.Node) { ok = slices.Equal(n.Cancelled, []string{"HUNG"}) })
				return ok && len(a.Log(event.DaemonStatusChanged.Type())) == 1
			})
		},
		"NODE_HEALTH_MONITOR": func(a *arena) error {
			full, fine := 99.0, 40.0
			a.n[0].Set(func(n *kittest.Node) { n.Sample.DiskPercent = &full })
			a.run(0, "NODE_HEALTH_MONITOR")
			verdict := func(want string) func() bool {
				return func() bool {
					got := ""
					a.n[0].Set(func(n *kittest.Node) { got = n.Health.Verdict })
					return got == want
				}
			}
			if err := within(time.Minute, "full disk told", func() bool { return a.logged(event.NodeUnhealthy.Type()) && verdict("UNHEALTHY")() }); err != nil {
				return err
			}
			a.n[0].Set(func(n *kittest.Node) { n.Sample.DiskPercent = &fine })
			return within(time.Minute, "recovery told", func() bool { return a.logged(event.NodeRecovered.Type()) && verdict("HEALTHY")() })
		},
		"EPHEMERAL_SYNC": func(a *arena) error { return a.gathered(3, "EPHEMERAL_SYNC") },
		"AUTO_SYNC": func(a *arena) error {
			if err := a.gathered(0, "AUTO_SYNC"); err != nil {
				return err
			}
			return within(time.Minute, "merged", func() bool {
				return len(kittest.Games(filepath.Join(a.n[0].Dir(), "games", string(c4)+".db"))) == 12
			})
		},
		"NPZ_DISTRIBUTION": func(a *arena) error {
			gpu := a.AddNode("gpu", id.Edge, ring.Slots{GPU: 1})
			d := a.AddArtifact(ring.KindDataset, c4, "data", nil, nil, a.n[0])
			a.run(0, "NPZ_DISTRIBUTION")
			if err := within(time.Minute, "dataset on the GPU node", func() bool { return gpu.Holds(d.Digest) && a.logged(event.NPZDistributionComplete.Type()) }); err != nil {
				return err
			}
			if a.n[4].Holds(d.Digest) {
				return errors.New("a node without GPU got the dataset")
			}
			return nil
		},
		"MODEL_DISTRIBUTION": func(a *arena) error {
			m := a.AddArtifact(ring.KindModel, c4, "model", nil, nil, a.n[0])
			promo, _ := ByName("AUTO_PROMOTION")
			if _, err := a.n[0].Env(promo, "").Effects.SetName(context.Background(), ring.ModelName(c4), 0, m.Digest, nil); err != nil {
				return err
			}
			a.run(0, "MODEL_DISTRIBUTION")
			if err := within(time.Minute, "champion everywhere", func() bool {
				return !slices.ContainsFunc(a.n, func(n *kittest.Node) bool { return !n.Holds(m.Digest) }) && a.logged(event.ModelDistributionComplete.Type())
			}); err != nil {
				return err
			}
			late := a.AddNode("late", id.Edge, ring.Slots{CPU: 1})
			return within(time.Minute, "late joiner has it", func() bool { return late.Holds(m.Digest) && len(a.Log(event.ModelDistributionComplete.Type())) == 2 })
		},
		"SELFPLAY_COORDINATOR": func(a *arena) error {
			a.run(0, "SELFPLAY_COORDINATOR")
			return within(time.Minute, "a plan", func() bool { return a.logged(event.SelfplayAllocationUpdated.Type()) })
		},
		"QUEUE_POPULATOR": func(a *arena) error {
			coordinator, _ := ByName("SELFPLAY_COORDINATOR")
			plan := kit.SelfplayPlan{Version: 1, Total: 100, Games: map[id.Config]int64{c4: 100}}
			if err := a.n[0].Env(coordinator, "").Effects.PutNote(context.Background(), kit.PlanNote, plan); err != nil {
				return err
			}
			a.run(0, "QUEUE_POPULATOR")
			return within(time.Minute, "queue filled", func() bool { return len(a.Work(kit.StageSelfplay)) == 16 })
		},
		"AUTO_EXPORT": func(a *arena) error {
			a.run(0, "AUTO_EXPORT")
			a.packs("p", 4, 50)
			return within(time.Minute, "export asked for", func() bool { return len(a.Work(kit.StageExport)) == 1 && a.logged(event.NPZExportStarted.Type()) })
		},
		"TRAINING_TRIGGER": func(a *arena) error {
			a.run(0, "TRAINING_TRIGGER")
			a.AddArtifact(ring.KindDataset, c4, "few", map[string]int64{kit.CounterSamples: 10}, nil, a.n[0])
			if err := within(time.Minute, "blockage named", func() bool { return a.logged(event.TrainingBlocked.Type()) }); err != nil {
				return err
			}
			a.AddArtifact(ring.KindDataset, c4, "enough", map[string]int64{kit.CounterSamples: 5000}, nil, a.n[0])
			return within(time.Minute, "training asked for", func() bool { return len(a.Work(kit.StageTrain)) == 1 })
		},
		"EVALUATION": func(a *arena) error {
			a.run(0, "EVALUATION")
			a.AddArtifact(ring.KindModel, c4, "candidate", nil, nil, a.n[0])
			return within(time.Minute, "evaluation asked for", func() bool { return len(a.Work(kit.StageEvaluate)) == 1 && a.logged(event.EvaluationRequested.Type()) })
		},
		"AUTO_PROMOTION": func(a *arena) error {
			a.run(0, "AUTO_PROMOTION")
			good, err := a.measured("good", map[string]float64{"random": 0.95, "heuristic": 0.7})
			if err != nil {
				return err
			}
			return within(time.Minute, "promoted", func() bool {
				n, _ := a.Name(ring.ModelName(c4))
				return n.Digest == good && a.logged(event.ModelPromoted.Type())
			})
		},
		"DATA_PIPELINE": func(a *arena) error {
			a.run(0, "DATA_PIPELINE")
			a.AddArtifact(ring.KindModel, c4, "orphan", nil, nil, a.n[0])
			return within(5*time.Minute, "overdue evaluation told", func() bool { return a.logged(event.PipelineStageOverdue.Type()) })
		},
	}
	for _, name := range []string{"EVENT_ROUTER", "CROSS_PROCESS_POLLER", "HEALTH_SERVER", "P2P_BACKEND"} {
		out[name] = func(a *arena) error { return a.facade(name) }
	}
	return out
}

// gathered has twelve games of a job on a node reach their copies; its own copy does not count on an edge node.
func (a *arena) gathered(node int, name string) error {
	a.n[node].Play("job", c4, true, kittest.IDs("g", 12)...)
	a.run(node, name)
	if err := within(10*time.Second, "receipts and news", func() bool {
		return a.logged(event.NewGamesAvailable.Type()) && a.logged(event.DataSyncCompleted.Type())
	}); err != nil {
		return err
	}
	p := a.Artifacts(ring.KindPack)
	v := a.View("")
	if copies, core := kit.Copies(v.Fleet.Members(), p[0], a.n[node].ID); len(p) != 1 || copies < 2 || !core || p[0].Counters[kit.CounterGames] != 12 {
		return fmt.Errorf("packs %+v", p)
	}
	return within(10*time.Second, "job released, nothing unsynced", func() bool {
		left, ok := a.n[node].Gauge("unsynced_games")
		released := false
		a.n[node].Set(func(n *kittest.Node) { released = slices.Equal(n.Released, []string{"job"}) })
		return released && ok && left == 0
	})
}

// facade runs the built-in part of its name and reports its end.
func (a *arena) facade(name string) error {
	part := make(chan error)
	s := a.spec(name)
	env := a.n[0].Env(s, "")
	var ran atomic.Bool
	env.Part = func(string) (kit.Daemon, error) {
		return kit.Run(func(ctx context.Context) error {
			ran.Store(true)
			select {
			case err := <-part:
				return err
			case <-ctx.Done():
				return nil
			}
		}), nil
	}
	d, err := s.New(env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	end := make(chan error, 1)
	go func() { end <- d.Run(ctx) }()
	time.Sleep(time.Second)
	if !ran.Load() || a.n[0].Progressed(name) == 0 {
		return errors.New("the part does not run")
	}
	select {
	case part <- errors.New("deliberate"):
	case <-ctx.Done():
	}
	if err := <-end; err == nil {
		return errors.New("the part's failure was swallowed")
	}
	return nil
}

func TestEveryDaemonDoesItsDuty(t *testing.T) {
	t.Parallel()
	for _, s := range All() {
		if s.AliasOf != "" {
			continue
		}
		check, ok := checks()[s.Name]
		if !ok {
			t.Errorf("%s has no acceptance check", s.Name)
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if err := check(newArena(t, "")); err != nil {
					t.Error(err)
				}
			})
		})
		t.Run(s.Name+"/without_its_body", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if check(newArena(t, s.Name)) == nil {
					t.Error("nothing is missed when the daemon does nothing")
				}
			})
		})
	}
}
