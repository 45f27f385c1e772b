package evaluation

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Settings are the figures of EVALUATION.
type Settings struct {
	Opponents     []string `json:"opponents"`
	MinGames      int      `json:"min_games"`      // a baseline; the sequential test stops between the two
	MaxGames      int      `json:"max_games"`      //
	ChampionGames int      `json:"champion_games"` // against the champion, if there is one
	Simulations   int      `json:"simulations"`    // 0: the workload's own; must equal self-play's or strength is mismeasured
	PressureOn    int      `json:"pressure_on"`    // waiting candidates at which training pauses
	PressureOff   int      `json:"pressure_off"`   // and goes on
	HardLimit     int      `json:"hard_limit"`     // waiting candidates at which no more are added; they are not lost
}

// opponentName is what one name of {opponents} may be, which are separated by commas.
var opponentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate implements kit's check.
func (s Settings) Validate() error {
	switch {
	case len(s.Opponents) == 0:
		return errors.New("opponents: want at least one")
	case s.MinGames < 2 || s.MaxGames < s.MinGames || s.ChampionGames < 2:
		return errors.New("want 2 ≤ min_games ≤ max_games and champion_games of at least 2")
	case s.PressureOff < 0 || s.PressureOn <= s.PressureOff || s.HardLimit < s.PressureOn || s.Simulations < 0:
		return errors.New("want 0 ≤ pressure_off < pressure_on ≤ hard_limit, simulations not negative")
	}
	return nil
}

// ValidateNew implements kit's check of whoever writes settings.
func (s Settings) ValidateNew() error {
	for i, o := range s.Opponents {
		switch {
		case !opponentName.MatchString(o):
			return fmt.Errorf("opponents: %q: want a name of letters, digits, dots, dashes and underscores", o)
		case slices.Contains(s.Opponents[:i], o):
			return fmt.Errorf("opponents: %s stands there twice", o)
		}
	}
	for _, o := range []string{baselineRandom, baselineHeuristic} {
		if !slices.Contains(s.Opponents, o) {
			return fmt.Errorf("opponents: %s is missing, and AUTO_PROMOTION makes nobody champion without games against it", o)
		}
	}
	return nil
}

// Evaluation is EVALUATION.
func Evaluation() kit.Spec {
	defaults := Settings{Opponents: []string{baselineRandom, baselineHeuristic, "minimax"}, MinGames: kit.MinGames, MaxGames: kit.MaxGames,
		ChampionGames: kit.MaxGames, PressureOn: 150, PressureOff: 75, HardLimit: 200}
	s := kit.Spec{
		Name: "EVALUATION", Category: "evaluation", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Has every new model measured once against the baselines and the champion.",
		DependsOn: []string{"EVENT_ROUTER"}, Every: 30 * time.Second, Settings: defaults,
		Reads: []event.Type{event.TrainingCompleted.Type(), event.EvaluationCompleted.Type(), event.EvaluationFailed.Type(),
			event.WorkFailed.Type(), event.PipelineStageOverdue.Type()},
		Emits: []event.Type{event.EvaluationRequested.Type(), event.EvaluationBackpressure.Type(),
			event.EvaluationBackpressureReleased.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		return kit.NewPlanner(env, kit.Planner{Wake: s.Reads, Plan: set.plan}), nil
	}
	return s
}

// seen is the note of one config: the newest model that was asked to be measured. A candidate for which there is no room
// yet keeps the mark where it is, so it is never lost.
type seen struct {
	Seq uint64 `json:"seq"`
}

func seenNote(c id.Config) string { return "seen/" + string(c) }

func (s Settings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	var plan kit.Plan
	games, err := s.games(v)
	if err != nil {
		return plan, err
	}
	depth, lost := waiting(v, now)
	plan.Cancel = lost[:min(len(lost), lostAtOnce)]
	plan.Retry = found(v)
	for _, c := range v.Ring.Configs {
		mark, err := kit.ReadNote[seen](v.Notes, seenNote(c))
		if err != nil {
			return plan, err
		}
		name, _ := v.Library.Name(ring.ModelName(c))
		before := mark
		var events []kit.Statement
		for _, m := range v.Library.Artifacts(ring.KindModel, c) {
			if m.Seq <= before.Seq {
				continue
			}
			if depth >= s.HardLimit && m.Seq > mark.Seq { // those that one command brought have one Seq
				break
			}
			mark.Seq = m.Seq
			if m.Digest == name.Digest || measured(v, m) {
				continue
			}
			w := s.item(c, m, games)
			depth++
			plan.Items = append(plan.Items, w)
			events = append(events, kit.Statement{Type: event.EvaluationRequested.Type(), Payload: kit.Lazy(func(workID func(string) string) any {
				return event.EvaluationWanted{About: event.About{Config: c}, Digest: m.Digest, WorkID: workID(w.Key)}
			})})
		}
		if mark != before {
			plan.Notes = append(plan.Notes, kit.NoteChange{Key: seenNote(c), Value: mark, Events: events})
		}
	}
	note, err := s.pressure(v, depth)
	if note != nil {
		plan.Notes = append(plan.Notes, *note)
	}
	return plan, err
}

const (
	// lostAfter is how long the machines that have a candidate must be gone until its evaluation is given up.
	lostAfter = 24 * time.Hour
	// lostAtOnce is how many are given up in a step: each is a commit, and a machine may be back before the last one.
	lostAtOnce = 20
	// lostReason is how the reason begins.
	lostReason = "nobody has had the candidate "
)

// found lists the evaluations that were given up for candidates that somebody can give after all. For how long a machine was
// gone is known to those who were there: a ring that was switched off for longer than that finds all others gone when it starts.
func found(v kit.View) []string {
	var out []string
	for _, w := range v.Queue.Items(kit.StageEvaluate, "") {
		if w.State != ring.WorkCancelled || !strings.HasPrefix(w.Error, lostReason) {
			continue
		}
		candidate, _ := kit.InputOf(w, kit.RoleCandidate)
		if a, known := v.Library.Artifact(candidate); known && served(v, a) {
			out = append(out, w.ID)
		}
	}
	return out
}

// waiting counts the candidates that wait to be measured and can be. One that vanished with its machine may come back with it, but
// it is no work that is waiting: over the weeks those would add up until no training is asked for any more.
func waiting(v kit.View, now time.Time) (depth int, lost []kit.Cancel) {
	for _, w := range v.Queue.Items(kit.StageEvaluate, "") {
		if w.State != ring.WorkPending {
			continue
		}
		candidate, _ := kit.InputOf(w, kit.RoleCandidate)
		a, known := v.Library.Artifact(candidate)
		if !known || served(v, a) {
			depth++
			continue
		}
		gone := w.Created
		for _, h := range a.Holders {
			if m, ok := v.Fleet.Member(h); ok && m.Since.After(gone) {
				gone = m.Since
			}
		}
		if now.Sub(gone) > lostAfter {
			lost = append(lost, kit.Cancel{WorkID: w.ID, Reason: lostReason + candidate.Short() + " for " + lostAfter.String()})
		}
	}
	return depth, lost
}

// measured says whether matches of the model are stored already, from an item that the queue no longer keeps. A model that
// was a champion in somebody's matches had its own before.
func measured(v kit.View, m ring.Artifact) bool {
	for _, a := range v.Library.Artifacts(ring.KindMatches, m.Config) {
		if slices.Contains(a.Parents, m.Digest) {
			return true
		}
	}
	return false
}

// games is the least number of games against each opponent. AUTO_PROMOTION may have been told to want more than EVALUATION: then so
// many are played, or no candidate would ever pass.
func (s Settings) games(v kit.View) (int, error) {
	defaults, _ := Promotion().Settings.(PromotionSettings)
	p, err := kit.Decode(v.Ring.Daemons["AUTO_PROMOTION"], defaults)
	if err != nil {
		return 0, fmt.Errorf("AUTO_PROMOTION: %w", err)
	}
	return max(s.MinGames, p.MinGames, p.ChampionGames), nil
}

func (s Settings) item(c id.Config, m ring.Artifact, games int) ring.WorkItem {
	key := kit.EvaluateKey(c, m.Digest)
	params := map[string]string{
		// "games" is what a workload's command is told: the least number against each baseline.
		"opponents": strings.Join(s.Opponents, ","), "games": strconv.Itoa(games), "min_games": strconv.Itoa(games),
		"max_games": strconv.Itoa(max(games, s.MaxGames)), "champion_games": strconv.Itoa(max(games, s.ChampionGames)), "seed": kit.SeedOf(key),
	}
	if s.Simulations > 0 {
		params["simulations"] = strconv.Itoa(s.Simulations)
	}
	return ring.WorkItem{Type: kit.StageEvaluate, Config: c, Key: key, Priority: kit.PriorityEvaluate, MaxAttempts: 3, Params: params,
		Inputs: []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}}
}

// pressure states when candidates wait faster than they are measured, and when that is over.
func (s Settings) pressure(v kit.View, depth int) (*kit.NoteChange, error) {
	old, err := kit.ReadNote[kit.EvaluationPressure](v.Notes, kit.PressureNote)
	if err != nil {
		return nil, err
	}
	now := kit.EvaluationPressure{On: old.On && depth > s.PressureOff || depth >= s.PressureOn, Depth: depth}
	if now.On == old.On {
		return nil, nil
	}
	t := event.EvaluationBackpressureReleased.Type()
	if now.On {
		t = event.EvaluationBackpressure.Type()
	}
	return &kit.NoteChange{Key: kit.PressureNote, Value: now, Events: []kit.Statement{{Type: t, Payload: event.Pressure{
		Depth: int64(depth), Active: now.On, Threshold: int64(s.PressureOn), Release: int64(s.PressureOff)}}}}, nil
}
