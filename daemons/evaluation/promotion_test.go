package evaluation

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

const c4 = id.Config("connect4_2p")

// played makes matches of a against b with the given number of wins; the rest is lost.
func played(a, b string, games, wins int) []rating.Match {
	var out []rating.Match
	for i := range games {
		m := rating.Match{ID: fmt.Sprintf("%.12s-%s-%d", a, b, i), Time: time.Unix(1e9+int64(i), 0), Config: string(c4), A: a, B: b}
		if i < wins {
			m.Score = 1
		}
		if i%2 == 1 { // the candidate on the other side
			m.A, m.B, m.Score = m.B, m.A, 1-m.Score
		}
		out = append(out, m)
	}
	return out
}

func settings(t *testing.T, raw string) PromotionSettings {
	t.Helper()
	s, err := kit.Decode([]byte(raw), Promotion().Settings.(PromotionSettings))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGates(t *testing.T) {
	t.Parallel()
	const me, king, former = id.Digest("me"), id.Digest("king"), "former"
	join := func(lists ...[]rating.Match) (out []rating.Match) {
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	other := played("me", "random", 50, 50)
	for i := range other {
		other[i].Config = "hex8_2p"
	}
	for _, c := range []struct {
		name     string
		champion id.Digest
		matches  []rating.Match
		gate     string // the first that fails
	}{
		{"nothing stored", "", nil, "games_random"},
		{"too few", "", join(played("me", "random", 49, 49), played("me", "heuristic", 50, 50)), "games_random"},
		{"the same match many times", "", join(played("me", "random", 30, 30), played("me", "random", 30, 30), played("me", "heuristic", 50, 50)), "games_random"},
		{"another config's", "", join(other, played("me", "heuristic", 50, 50)), "games_random"},
		{"somebody else's", "", join(played("you", "random", 50, 50), played("you", "heuristic", 50, 50)), "games_random"},
		{"noise", "", join(played("me", "random", 100, 52), played("me", "heuristic", 100, 20)), "score_random"},
		{"first and good", "", join(played("me", "random", 100, 90), played("me", "heuristic", 100, 61)), ""},
		{"first and not good enough", "", join(played("me", "random", 100, 90), played("me", "heuristic", 100, 59)), "score_heuristic"},
		{"beats the champion", king, join(played("me", "random", 50, 40), played("me", "heuristic", 50, 30), played("me", "king", 100, 55)), ""},
		{"equal to the champion", king, join(played("me", "random", 50, 50), played("me", "heuristic", 50, 50), played("me", "king", 100, 50)), "score_champion"},
		{"beats a former champion", king, join(played("me", "random", 50, 50), played("me", "heuristic", 50, 50), played("me", former, 100, 90)), "games_champion"},
		{"beats the champion and loses to random", king, join(played("me", "random", 50, 30), played("me", "heuristic", 50, 50), played("me", "king", 100, 90)), "score_random"},
	} {
		got := ""
		for _, g := range settings(t, "").gates(c4, me, c.champion, c.matches) {
			if !g.OK() {
				got = g.Name
				break
			}
		}
		if got != c.gate {
			t.Errorf("%s: fails %q, want %q", c.name, got, c.gate)
		}
	}
}

// evaluated adds a candidate whose evaluation reports a triumph and stores matches, or does not.
func evaluated(r *kittest.Ring, n *kittest.Node, name string, matches []rating.Match, file string) id.Digest {
	m := r.AddArtifact(ring.KindModel, c4, name, nil, nil, n)
	env := n.Env(kit.Spec{Name: "TESTER", Scope: kit.ScopeNode}, "")
	if _, err := env.Effects.Enqueue(context.Background(), ring.WorkItem{Type: kit.StageEvaluate, Config: c4, Key: kit.EvaluateKey(c4, m.Digest),
		Inputs: []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}}); err != nil {
		r.T.Fatal(err)
	}
	w, _ := r.Claim(n)
	out := kittest.Outcome{Counters: map[string]int64{kit.CounterMatches: 1000}, Values: map[string]float64{"elo": 3000}}
	for _, o := range []string{"random", "heuristic", "minimax"} {
		out.Counters["vs:"+o+":games"], out.Counters["vs:"+o+":wins"] = 200, 200
	}
	path := filepath.Join(n.Dir(), name)
	if matches != nil {
		for i := range matches { // the model's name is its digest
			if matches[i].A == "me" {
				matches[i].A = string(m.Digest)
			}
			if matches[i].B == "me" {
				matches[i].B = string(m.Digest)
			}
		}
		if err := rating.WriteMatches(path, matches); err != nil {
			r.T.Fatal(err)
		}
	} else if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			r.T.Fatal(err)
		}
	}
	if d, size, err := env.Store.PutFile(context.Background(), path); err == nil {
		out.Artifacts = []ring.Artifact{{Digest: d, Kind: ring.KindMatches, Bytes: size}}
	}
	r.Finish(n, w.ID, out)
	return m.Digest
}

// Whatever a run prints or an event says, only stored matches promote.
func TestPromotionLies(t *testing.T) {
	t.Parallel()
	noise := append(played("me", "random", 100, 50), played("me", "heuristic", 100, 10)...)
	for name, c := range map[string]struct {
		matches []rating.Match
		file    string
		gate    string
	}{
		"prints and stores nothing": {nil, "", "games_random"},
		"stores no matches":         {nil, "{\"win_rate\": 1.0}\n", "games_random"},
		"stores an empty file":      {nil, "\n", "games_random"},
		"noise":                     {noise, "", "score_random"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
			n.Start(Promotion(), "")
			liar := evaluated(r, n, name, c.matches, c.file)
			r.Eventually(2*time.Minute, name+" is rejected", func() bool { return len(r.Log(event.PromotionRejected.Type())) == 1 })
			p, err := event.PromotionRejected.Read(r.Log(event.PromotionRejected.Type())[0])
			if err != nil || p.Digest != liar || p.Gate != c.gate || p.Actual >= p.Threshold || p.NodeID != n.ID {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
			time.Sleep(10 * time.Minute)
			if _, ok := r.Name(ring.ModelName(c4)); ok || len(r.Log(event.PromotionRejected.Type())) != 1 {
				t.Errorf("%s: promoted, or told again", name)
			}
		})
	}
}

// A holder that moved the name and died before it wrote that down, and one that wakes under an old epoch.
func TestPromotionAcrossHolders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{CPU: 1}), r.AddNode("b", id.Core, ring.Slots{CPU: 1})
		good := evaluated(r, a, "good", append(played("me", "random", 100, 95), played("me", "heuristic", 100, 80)...), "")
		spec := Promotion()
		old := a.Env(spec, "")
		if _, err := old.Effects.SetName(t.Context(), ring.ModelName(c4), 0, good, nil); err != nil {
			t.Fatal(err)
		}
		b.Start(spec, "")
		r.Eventually(time.Minute, "the verdict is written down", func() bool {
			d, err := kit.ReadNoteOf[kit.Decided](r.View("").Notes, spec.Name, kit.DecidedNote+string(c4))
			return err == nil && d.Verdicts[good].Promoted
		})
		if n, _ := r.Name(ring.ModelName(c4)); n.Version != 1 {
			t.Errorf("version %d", n.Version)
		}
		// The former holder wakes and drives a promotion: the state refuses it.
		better := append(played("me", "random", 100, 99), played("me", "heuristic", 100, 90)...)
		rogue := evaluated(r, a, "rogue", append(better, played("me", string(good), 100, 90)...), "")
		if _, err := old.Effects.SetName(t.Context(), ring.ModelName(c4), 1, rogue, nil); err == nil {
			t.Error("an older epoch moved the name")
		}
		r.Eventually(2*time.Minute, "the holder promotes it", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == rogue && n.Version == 2 })
		p, err := event.ModelPromoted.Read(r.Log(event.ModelPromoted.Type())[0])
		if err != nil || p.Version != 2 || *p.Previous != good || p.Elo < 1200 || p.Delta == nil || *p.Delta <= 0 {
			t.Errorf("%+v, %v", p, err)
		}
		if len(r.Refused()) != 1 {
			t.Errorf("refused %v", r.Refused())
		}
	})
}

// Candidates whose evaluation the queue has forgotten before anybody judged them get their verdicts all the same, each once.
func TestForgottenCandidatesAreJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
		first := evaluated(r, n, "first", append(played("me", "random", 100, 95), played("me", "heuristic", 100, 80)...), "")
		bad := evaluated(r, n, "bad", append(played("me", "random", 100, 50), played("me", "heuristic", 100, 10)...), "")
		r.Bury()
		n.Start(Promotion(), "")
		r.Eventually(2*time.Minute, "both verdicts", func() bool {
			name, _ := r.Name(ring.ModelName(c4))
			return name.Digest == first && len(r.Log(event.PromotionRejected.Type())) == 1
		})
		p, err := event.PromotionRejected.Read(r.Log(event.PromotionRejected.Type())[0])
		if err != nil || p.Digest != bad {
			t.Errorf("%+v, %v", p, err)
		}
		better := append(played("me", "random", 100, 99), played("me", "heuristic", 100, 90)...)
		second := evaluated(r, n, "second", append(better, played("me", string(first), 100, 90)...), "")
		r.Bury()
		r.Eventually(2*time.Minute, "the next champion", func() bool { name, _ := r.Name(ring.ModelName(c4)); return name.Digest == second })
		time.Sleep(10 * time.Minute)
		if name, _ := r.Name(ring.ModelName(c4)); name.Version != 2 || len(r.Log(event.PromotionRejected.Type())) != 1 {
			t.Errorf("version %d, %d rejected: somebody was judged twice", name.Version, len(r.Log(event.PromotionRejected.Type())))
		}
	})
}

func TestEvaluationAsksOnceAndLosesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
		for i := range 6 {
			r.AddArtifact(ring.KindModel, c4, fmt.Sprint(i), nil, nil, n)
		}
		n.Start(Evaluation(), `{"pressure_on":3,"pressure_off":1,"hard_limit":4}`)
		r.Eventually(2*time.Minute, "backpressure", func() bool { return len(r.Log(event.EvaluationBackpressure.Type())) == 1 })
		if got := len(r.Work(kit.StageEvaluate)); got != 4 {
			t.Errorf("%d evaluations, the limit is 4", got)
		}
		for range 6 {
			time.Sleep(2 * time.Minute)
			if w, ok := r.Claim(n); ok {
				r.Finish(n, w.ID, kittest.Outcome{})
			}
		}
		time.Sleep(2 * time.Minute)
		if len(r.Work(kit.StageEvaluate)) != 6 || len(r.Log(event.EvaluationRequested.Type())) != 6 ||
			len(r.Log(event.EvaluationBackpressureReleased.Type())) != 1 {
			t.Errorf("%d items, %d requests", len(r.Work(kit.StageEvaluate)), len(r.Log(event.EvaluationRequested.Type())))
		}
	})
}

// What AUTO_PROMOTION demands is played, whatever EVALUATION would have been content with.
func TestAsManyGamesAsPromotionDemands(t *testing.T) {
	t.Parallel()
	for section, want := range map[string]string{``: "50", `{"min_games":80}`: "80", `{"min_games":80,"champion_games":120}`: "120", `{"min_games":10}`: "50"} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
			r.Settings(func(s *ring.Settings) {
				s.Daemons = map[string]json.RawMessage{"AUTO_PROMOTION": json.RawMessage(section)}
			})
			n.Start(Evaluation(), "")
			r.AddArtifact(ring.KindModel, c4, "m", nil, nil, n)
			r.Eventually(2*time.Minute, "asked for", func() bool { return len(r.Work(kit.StageEvaluate)) == 1 })
			if w := r.Work(kit.StageEvaluate)[0]; w.Params["games"] != want {
				t.Errorf("%s: %s games, want %s", section, w.Params["games"], want)
			}
		})
	}
}

// Ratings rest on all matches: a match file gets its copies, also where nobody else needs it, and again when a holder is gone.
func TestMatchesGetTheirCopies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{CPU: 1}), r.AddNode("b", id.Core, ring.Slots{CPU: 1})
		c := r.AddNode("c", id.Core, ring.Slots{CPU: 1})
		for i := range 40 {
			r.AddArtifact(ring.KindMatches, c4, fmt.Sprintf("matches %d", i), nil, nil, a)
		}
		a.Start(Promotion(), "")
		on := func(nodes ...*kittest.Node) func() bool {
			return func() bool {
				for _, x := range r.Artifacts(ring.KindMatches) {
					held := 0
					for _, n := range nodes {
						if x.Held(n.ID) {
							held++
						}
					}
					if held < 2 {
						return false
					}
				}
				return true
			}
		}
		r.Eventually(10*time.Minute, "two copies of each", on(a, b, c))
		for _, x := range r.Artifacts(ring.KindMatches) {
			if len(x.Holders) != 2 {
				t.Errorf("%d copies of %s", len(x.Holders), x.Digest.Short())
			}
		}
		r.SetStatus(b, ring.Failed)
		r.Eventually(10*time.Minute, "two copies of each on those that are left", on(a, c))
	})
}
